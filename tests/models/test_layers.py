"""Layers whose second-order gradients are written out: the same numbers as PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import group_norm, leaky_relu, one_hot
from torch.utils._python_dispatch import TorchDispatchMode

import config
from soundgan import models
from soundgan.config_io import change
from soundgan.models import layers
from soundgan.training.objectives import gradient_penalty

DOUBLE = {"dtype": torch.float64, "requires_grad": True}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def slope_of(layer):
    """x and parameters -> the slope of a curved function of the layer's output, w. r. t. x."""

    def slope(x, *parameters):
        y = layer(x, *parameters).tanh().sum()
        with layers.inputs_only():
            return torch.autograd.grad(y, x, create_graph=True)[0]

    return slope


@pytest.mark.parametrize("sides", [(6, 8), (9,)])
def test_convolution(sides):
    x = torch.randn(2, 3, *sides, **DOUBLE)
    weight = torch.randn(4, 3, *[4] * len(sides), **DOUBLE)
    bias = torch.randn(4, **DOUBLE)
    at = ([2] * len(sides), [1] * len(sides), [1] * len(sides), 1)

    def own(x, weight, bias):
        return layers.Convolve.apply(x, weight, bias, at)

    plain = torch.conv2d if len(sides) == 2 else torch.conv1d
    torch.testing.assert_close(own(x, weight, bias), plain(x, weight, bias, 2, 1))
    assert gradcheck(own, (x, weight, bias))
    assert gradcheck(slope_of(own), (x, weight, bias))


@pytest.mark.parametrize("sides", [(4, 5), (7,)])
def test_group_norm(sides):
    x = torch.randn(3, 8, *sides, **DOUBLE)
    weight, bias = torch.randn(8, **DOUBLE), torch.randn(8, **DOUBLE)

    def own(x, weight, bias):
        return layers.Normalise.apply(x, weight, bias, 4, 1e-5)

    torch.testing.assert_close(own(x, weight, bias), group_norm(x, 4, weight, bias, 1e-5))
    assert gradcheck(own, (x, weight, bias))
    assert gradgradcheck(lambda x: own(x, weight, bias), (x,))
    assert gradcheck(slope_of(own), (x, weight, bias))


def test_leaky_relu():
    x = torch.randn(5, 7, **DOUBLE)
    torch.testing.assert_close(layers.Leak.apply(x, 0.2), leaky_relu(x, 0.2))
    assert gradcheck(lambda x: layers.Leak.apply(x, 0.2), (x,))
    assert gradgradcheck(lambda x: layers.Leak.apply(x, 0.2), (x,))


@pytest.mark.parametrize("name", ["sn-wgan-gp", "frequency-quest", "lofi-wgan"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_penalty_is_that_of_the_stock_layers(name, layout, small):
    """Of a whole critic, in double precision: the value and every weight's gradient."""
    sizes = {"sound.n_mels": 16, "sound.frames": 32, "critic.dropout": ()}
    sizes |= {"generator.channels": (16, 8), "critic.channels": (8, 16)}
    groups = {"generator.norm_groups": 4, "critic.norm_groups": 4}
    cfg = change(config.RECIPES[name], sizes | groups)
    critic = models.build(cfg, 3)[1].double().eval()
    critic.to(memory_format=layout)
    real, fake = torch.randn(2, 4, 1, 16, 32, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    found = []
    for how in (layers.stock, layers.inputs_only):
        torch.manual_seed(1)
        critic.zero_grad()
        if how is layers.stock:
            with layers.stock():
                value = gradient_penalty(critic, real, fake, labels, 10.0)
                value.backward()
        else:
            value = gradient_penalty(critic, real, fake, labels, 10.0)
            value.backward()
        gradients = {n: p.grad for n, p in critic.named_parameters() if p.grad is not None}
        found.append((value, gradients))
    (value, gradients), (own_value, own) = found
    torch.testing.assert_close(own_value, value, rtol=1e-12, atol=0)
    for key, gradient in gradients.items():  # zero for biases that no slope depends on
        torch.testing.assert_close(own.get(key, torch.zeros_like(gradient)), gradient)
    assert max(g.abs().max() for g in own.values()) > 1e-3


def test_a_slope_computes_no_gradients_of_parameters(small, monkeypatch):
    """Asked for the slope alone, no weight gradient is computed on the way."""
    critic = models.build(small, 3)[1]
    x = torch.randn(2, *small.shape, requires_grad=True)
    wanted = []
    real = layers.convolution_gradients

    def spy(grad, x, weight, at, which):
        wanted.append(which)
        return real(grad, x, weight, at, which)

    monkeypatch.setattr(layers, "convolution_gradients", spy)
    with layers.inputs_only():
        torch.autograd.grad(critic(x, torch.tensor([0, 1])).sum(), x, create_graph=True)
    assert wanted == [(True, False, False)] * 3
    critic(x, torch.tensor([0, 1])).sum().backward()  # and outside, all of them
    assert sum(weight and bias for _, weight, bias in wanted[3:]) == 3


def test_under_autocast_they_are_the_stock_layers(small):
    critic = models.build(small, 3)[1]
    x, labels = torch.randn(2, *small.shape), torch.tensor([0, 1])
    critic.eval()
    with torch.autocast("cpu", torch.bfloat16):
        own = critic(x, labels)
        with layers.stock():
            torch.testing.assert_close(own, critic(x, labels), rtol=0, atol=0)
    assert own.dtype == torch.bfloat16


def test_one_hot():
    labels = torch.tensor([2, 0, 1, 2])
    own = layers.OneHot(4)
    assert torch.equal(own(labels), one_hot(labels, 4).float())
    assert torch.equal(own.double()(labels), one_hot(labels, 4).double())
    assert own.state_dict() == {}  # checkpoints know nothing of it


def test_labels_are_not_read_back(small, monkeypatch):
    """By no network, on any device: `one_hot` asks a CPU for their range."""
    generator, critic = models.build(small, 3)

    class NothingRead(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func.overloadpacket is not torch.ops.aten._local_scalar_dense
            return func(*args, **(kwargs or {}))

    z, labels = torch.randn(2, small.latent_dim), torch.tensor([0, 2])
    with NothingRead():
        assert critic(generator(z, labels), labels).shape == (2,)
