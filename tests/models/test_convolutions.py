"""Convolutions by another road: the numbers and gradients of PyTorch's own, in float64."""

from __future__ import annotations

import pytest
import torch
from conftest import shrunk
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import config
from soundgan import models
from soundgan.models import layers

CONV = {1: nn.Conv1d, 2: nn.Conv2d}
OWN = {1: layers.Conv1d, 2: layers.Conv2d}
TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
OWN_TRANSPOSE = {1: layers.ConvTranspose1d, 2: layers.ConvTranspose2d}
ENLARGE = {1: layers.Enlarge1d, 2: layers.Enlarge2d}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def same(plain, own):
    """Two layers of float64, the second with the weights of the first."""
    plain, own = plain.double(), own.double()
    own.load_state_dict(plain.state_dict())
    return plain, own


def first_and_second(layer, *inputs):
    """Output, gradients, and those of the slope's square, of inputs and parameters."""
    x = inputs if len(inputs) > 1 else inputs[0]
    y = layer(x)
    curved = y.tanh().sum()
    every = [*inputs, *layer.parameters()]
    first = torch.autograd.grad(curved, every, retain_graph=True)
    slopes = torch.autograd.grad(curved, inputs, create_graph=True)
    second = torch.autograd.grad(sum(s.square().sum() for s in slopes), every, allow_unused=True)
    return [y, *first, *(torch.zeros(()) if g is None else g for g in second)]


class Asked(TorchDispatchMode):
    """Which gradients `convolution_backward` is asked for."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            self.masks.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


def assert_same(plain, own, x, layout):
    """Both give x the same values, first and second gradients; returns x, maps in `layout`."""
    if x.dim() == 4:
        own.to(memory_format=layout)
        x = x.detach().to(memory_format=layout).requires_grad_()
    expected = first_and_second(plain, x)
    for found, wanted in zip(first_and_second(own, x), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    return x


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "sides", "rest"),
    [
        (1, (9, 12), (4, 2, 1)),  # (kernel, stride, padding, dilation)
        (1, (11, 10), (5, 2, 2)),  # whose last row and column no kernel reaches
        (1, (12, 13), (3, 1, 0, 2)),
        (1, (45,), (7, 4, 2)),
        (3, (40,), (7, 4, 2)),  # few places
        (1, (200,), (25, 4, 11)),  # many
    ],
)
def test_convolution(channels, sides, rest, layout):
    dims = len(sides)
    plain, own = same(CONV[dims](channels, 5, *rest), OWN[dims](channels, 5, *rest))
    x = assert_same(plain, own, numbers(3, channels, *sides), layout)
    at = (list(plain.stride), list(plain.padding), list(plain.dilation), 1)
    convolve = lambda *given: layers.Convolve.apply(*given, at)  # noqa: E731
    assert gradcheck(convolve, (x, own.weight, own.bias), fast_mode=True)


def test_the_slope_to_one_channel_is_no_convolution_backward():
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    with Asked() as asked, layers.inputs_only():
        torch.autograd.grad(layers.Conv2d(1, 4, 4, 2, 1)(x).sum(), x, create_graph=True)
    assert asked.masks == []
    x = torch.randn(2, 2, 8, 8, requires_grad=True)
    with Asked() as asked:
        torch.autograd.grad(layers.Conv2d(2, 4, 4, 2, 1)(x).sum(), x)
    assert [mask[0] for mask in asked.masks] == [True]


@pytest.mark.parametrize("sides", [(8, 6), (24,)])
@pytest.mark.parametrize("widths", [(1, 1), (2, 3)])
def test_a_pair_is_its_concatenation(sides, widths):
    dims = len(sides)
    plain, own = same(CONV[dims](sum(widths), 4, 4, 2, 1), OWN[dims](sum(widths), 4, 4, 2, 1))
    pair = [numbers(3, width, *sides) for width in widths]

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = plain

        def forward(self, both):
            return self.layer(torch.cat(both, dim=1))

    expected = first_and_second(Joined(), *pair)
    for found, wanted in zip(first_and_second(own, *pair), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(own(tuple(pair)), Joined()(pair))


def test_what_lies_beside_has_no_gradient_where_that_of_parameters_is_left_out():
    x, beside = numbers(2, 1, 8, 8), numbers(2, 1, 8, 8)
    layer = layers.Conv2d(2, 4, 4, 2, 1).double()
    score = layer((x, beside)).sum()
    with layers.inputs_only():
        found = torch.autograd.grad(score, (x, beside), allow_unused=True, retain_graph=True)
    assert found[0] is not None
    assert found[1] is None
    assert all(g is not None for g in torch.autograd.grad(score, (x, beside)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "sides", "rest"),
    [
        (1, (5, 6), (4, 2, 1)),  # (kernel, stride, padding, output padding)
        (1, (4, 7), (5, 2, 2, 1)),
        (1, (9,), (25, 4, 11, 1)),
        (3, (9,), (25, 4, 11, 1)),  # few places
        (3, (40,), (25, 4, 11, 1)),  # many
    ],
)
def test_transposed_convolution(channels, sides, rest, layout):
    dims = len(sides)
    for bias in (True, False):
        plain = TRANSPOSE[dims](5, channels, *rest, bias=bias)
        plain, own = same(plain, OWN_TRANSPOSE[dims](5, channels, *rest, bias=bias))
        x = assert_same(plain, own, numbers(3, 5, *sides), layout)
        assert gradgradcheck(own, (x,), fast_mode=True)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("sides", [(5, 6), (7,)])
def test_enlargement_and_convolution_are_one(sides, kernel, factor, channels):
    dims = len(sides)
    plain = nn.Sequential(
        nn.Upsample(scale_factor=factor, mode="nearest"),
        CONV[dims](3, channels, kernel, padding=kernel // 2),
    ).double()
    own = nn.Sequential(nn.Identity(), ENLARGE[dims](factor, 3, channels, kernel, True)).double()
    own.load_state_dict(plain.state_dict())
    x = numbers(2, 3, *sides)
    expected = first_and_second(plain, x)
    for found, wanted in zip(first_and_second(own, x), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    with layers.stock():
        torch.testing.assert_close(own(x), expected[0])


@pytest.mark.parametrize("recipe", list(config.RECIPES))
def test_whole_networks_agree_with_the_stock_layers(recipe, tmp_path):
    """Clips, scores and every gradient of both networks, float64."""
    cfg = shrunk(config.RECIPES[recipe], tmp_path, tmp_path)
    generator, critic = (network.double() for network in models.build(cfg, 3))
    generator.eval(), critic.eval()
    z, labels = torch.randn(4, cfg.latent_dim, dtype=torch.float64), torch.tensor([0, 1, 2, 0])

    def all_of_it():
        clips = generator(z, labels)
        scores = critic(clips, labels)
        weights = [*generator.parameters(), *critic.parameters()]
        gradients = torch.autograd.grad(scores.tanh().sum(), weights, allow_unused=True)
        return [clips, scores, *(torch.zeros(()) if g is None else g for g in gradients)]

    with layers.stock():
        expected = all_of_it()
    found = all_of_it()
    assert max(g.abs().max() for g in expected[2:]) > 1e-6
    for own, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(own, plain)
