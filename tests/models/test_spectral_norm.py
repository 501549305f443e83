"""Spectral norm written out: the numbers, gradients and names of PyTorch's parametrization."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import train
from soundgan import models
from soundgan.config_io import change
from soundgan.models import layers
from soundgan.models.spectral_norm import DivideBySpectralNorm, spectral_norm
from soundgan.training.run import Run

LAYERS = {
    "conv2d": lambda: nn.Conv2d(3, 8, 4, 2, 1),
    "channels last": lambda: nn.Conv2d(3, 8, 4).to(memory_format=torch.channels_last),
    "one output": lambda: nn.Conv2d(5, 1, (2, 3)),
    "conv1d": lambda: nn.Conv1d(2, 6, 5),
    "linear": lambda: nn.Linear(7, 4),
}
SIDES = {"conv2d": (3, 8, 8), "channels last": (3, 8, 8), "one output": (5, 4, 4)}
SIDES |= {"conv1d": (2, 9), "linear": (7,)}


def pair(name, dtype=torch.float64):
    """The same layer with PyTorch's spectral norm and with this one, and the next random numbers.

    The layers are made in `dtype`: the initial power iterations depend on it.
    """
    made = []
    for norm in (parametrizations.spectral_norm, spectral_norm):
        torch.manual_seed(0)
        layer = LAYERS[name]().to(dtype)
        made.append((norm(layer), torch.rand(1)))
    (stock, after_stock), (own, after_own) = made
    assert torch.equal(after_stock, after_own)  # as many numbers were drawn
    return stock, own


def buffers(layer):
    norm = layer.parametrizations.weight[0]
    return norm._u, norm._v


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_values_gradients_and_vectors_are_those_of_pytorch(name):
    """Over steps of gradient descent, each with its power iteration; and evaluated afterwards."""
    stock, own = pair(name)
    for _ in range(20):
        x = torch.randn(2, *SIDES[name], dtype=torch.float64)
        for layer in (stock, own):
            layer.zero_grad()
            layer(x).tanh().square().mean().backward()
        for a, b in zip((*buffers(own), *own.parameters()), (*buffers(stock), *stock.parameters())):
            close(a, b)
        for a, b in zip(own.parameters(), stock.parameters()):
            close(a.grad, b.grad)
            assert a.grad.abs().max() > 1e-3
        for layer in (stock, own):
            torch.optim.SGD(layer.parameters(), lr=0.05).step()
    before = [b.clone() for b in buffers(own)]
    stock.eval(), own.eval()
    for layer in (stock, own):
        layer.zero_grad()
        layer(x).tanh().square().mean().backward()
    close(own(x), stock(x))
    close(own.parametrizations.weight.original.grad, stock.parametrizations.weight.original.grad)
    assert all(torch.equal(a, b) for a, b in zip(before, buffers(own)))  # no iteration


def test_a_step_in_float32_is_that_of_pytorch():
    stock, own = pair("conv2d", torch.float32)
    x = torch.randn(2, 3, 8, 8)
    for _ in range(5):
        close(own(x), stock(x), 1e-5)


@pytest.mark.parametrize("iterate", [True, False])
def test_the_gradient(iterate):
    """From the singular vectors themselves: there, sigma moves to first order with the weight only,
    and numerical differences may iterate."""
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 2, dtype=torch.float64)
    left, _, right = torch.linalg.svd(weight.flatten(1))
    one = torch.ones(1, 1, dtype=torch.float64)

    def divided(weight):
        u, v = left[:, 0].contiguous(), right[0].contiguous()
        return DivideBySpectralNorm.apply(weight, u, v, one, iterate)

    assert torch.autograd.gradcheck(divided, (weight.requires_grad_(),))
    assert torch.linalg.matrix_norm(divided(weight).flatten(1), 2).item() == pytest.approx(1)


def test_two_uses_before_one_backward():
    """Each has the vectors of its own iteration, as with PyTorch's."""
    stock, own = pair("conv2d")
    for layer in (stock, own):  # the iteration has far to go
        for buffer, start in zip(buffers(layer), (8, 48)):
            buffer.copy_(nn.functional.normalize(torch.arange(1.0, start + 1).double(), dim=0))
    a, b = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    for layer in (stock, own):
        (layer(a).tanh().sum() - layer(b).square().sum()).backward()
    close(own.parametrizations.weight.original.grad, stock.parametrizations.weight.original.grad)
    close(buffers(own)[0], buffers(stock)[0])


def test_cached_iterates_once():
    _, own = pair("conv2d")
    buffers(own)[0].fill_(8**-0.5)
    buffers(own)[1].fill_(48**-0.5)
    once = copy.deepcopy(own)
    with parametrize.cached():
        first, second = own.weight, own.weight
    assert first is second
    assert torch.equal(once.weight, first)
    assert not torch.equal(own.weight, first)  # outside, each use is one iteration


def test_the_vectors_stay_where_they_are():
    """A captured step goes by addresses."""
    _, own = pair("conv2d")
    places = [b.data_ptr() for b in buffers(own)]
    before = [b.clone() for b in buffers(own)]
    buffers(own)[1].fill_(48**-0.5)
    own(torch.randn(1, 3, 8, 8, dtype=torch.float64)).sum().backward()
    assert [b.data_ptr() for b in buffers(own)] == places
    assert not torch.equal(buffers(own)[0], before[0])


def test_state_dicts_have_the_names_and_contents_of_pytorch():
    stock, own = pair("conv2d")
    names = [f"parametrizations.weight.{name}" for name in ("original", "0._u", "0._v")]
    assert list(own.state_dict()) == list(stock.state_dict()) == ["bias", *names]
    other = spectral_norm(nn.Conv2d(3, 8, 4, 2, 1).double())
    other.load_state_dict(stock.state_dict())
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    close(other(x), stock(x))


def test_copies_and_other_types():
    _, own = pair("conv2d")
    x = torch.randn(1, 3, 8, 8)
    copied = copy.deepcopy(own).float()
    places = [b.data_ptr() for b in buffers(own)]
    close(copied(x).double(), own(x.double()), 1e-5)
    assert [b.data_ptr() for b in buffers(own)] == places
    assert {b.dtype for b in copied.buffers()} == {torch.float32}


def test_half_precision_leaves_the_iteration_alone():
    _, own = pair("conv2d", torch.float32)
    other = copy.deepcopy(own)
    with torch.autocast("cpu", torch.bfloat16):
        weight = own.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, other.weight)


def test_stock_is_pytorch(small):
    """For `benchmarks/plain.py`: bit for bit."""
    stock, own = pair("conv2d", torch.float32)
    own.load_state_dict(stock.state_dict())
    x = torch.randn(2, 3, 8, 8)
    with layers.stock():
        own(x).sum().backward()
    stock(x).sum().backward()
    assert torch.equal(
        own.parametrizations.weight.original.grad, stock.parametrizations.weight.original.grad
    )
    assert torch.equal(buffers(own)[1], buffers(stock)[1])


def test_a_critic_trains_as_with_pytorch(small, monkeypatch):
    """Whole steps, penalty included, in double precision: the same weights afterwards."""
    runs = []
    for norm in (parametrizations.spectral_norm, spectral_norm):
        monkeypatch.setattr("soundgan.models.convolutional.spectral_norm", norm)
        run = Run.start(
            change(small, {"optimiser.precision": "fp32"}), list("abc"), torch.device("cpu")
        )
        runs.append(run)
    start = copy.deepcopy(runs[0].critic.state_dict())
    runs[1].critic.load_state_dict(start)
    runs[1].generator.load_state_dict(runs[0].generator.state_dict())
    torch.manual_seed(1)
    x, labels = torch.randn(4, *small.shape).double(), torch.tensor([0, 1, 2, 0])
    for run in runs:
        monkeypatch.setattr(
            run, "latents", lambda n, run=run: torch.ones(n, run.cfg.latent_dim).double()
        )
        run.critic.double(), run.generator.double()
        torch.manual_seed(2)
        for _ in range(3):
            train.critic_step(run, x, labels)
    for name, value in runs[1].critic.state_dict().items():
        close(value, runs[0].critic.state_dict()[name], 1e-9)
        assert "original" not in name or not torch.equal(value, start[name].double())


def test_without_memory_there_are_shapes():
    """A critic's names and shapes can be known without building it."""
    with torch.device("meta"):
        own = spectral_norm(nn.Conv2d(3, 8, 4))
    shapes = {name: tuple(value.shape) for name, value in own.state_dict().items()}
    assert shapes["parametrizations.weight.0._v"] == (48,)
    assert own.weight.shape == (8, 3, 4, 4)


def test_the_critic_uses_it(small):
    critic = models.build(small, 3)[1]
    kinds = {type(m).__name__ for m in critic.modules()}
    assert "SpectralNorm" in kinds
    assert "_SpectralNorm" not in kinds
