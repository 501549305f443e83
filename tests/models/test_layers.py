"""Layers whose second-order gradients are written out: the same numbers as PyTorch's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import group_norm, leaky_relu

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
    assert all(weight and bias for _, weight, bias in wanted[3:])


def test_under_autocast_they_are_the_stock_layers(small):
    critic = models.build(small, 3)[1]
    x, labels = torch.randn(2, *small.shape), torch.tensor([0, 1])
    critic.eval()
    with torch.autocast("cpu", torch.bfloat16):
        own = critic(x, labels)
        with layers.stock():
            torch.testing.assert_close(own, critic(x, labels), rtol=0, atol=0)
    assert own.dtype == torch.bfloat16


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.slow
def test_the_fused_formula_is_the_same():
    """In a process of its own: it stays fused there."""
    script = (
        "import torch\nfrom soundgan.models import layers\n"
        "torch.manual_seed(0)\n"
        "v, g, x = torch.randn(3, 2, 8, 3, 4)\n"
        "w = torch.randn(8)\n"
        "_, m, r = torch.ops.aten.native_group_norm(x, w, None, 2, 8, 12, 4, 1e-5)\n"
        "plain = layers.norm_second_gradients(v, g, x, w, m, r)\n"
        "layers.fuse()\n"
        "fused = layers.norm_second_gradients(v, g, x, w, m, r)\n"
        "assert hasattr(layers.norm_second_gradients, '__wrapped__')\n"
        "from torch._dynamo.utils import counters\n"
        "assert counters['stats']['unique_graphs'] == 1, counters\n"
        "print(max(float((a - b).norm() / b.norm()) for a, b in zip(fused, plain)))"
    )
    root = Path(config.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1e-5
