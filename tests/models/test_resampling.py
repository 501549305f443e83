"""Written-out adjoints against autograd's own gradient of the same gathers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from soundgan.models.resampling import FASTEST, shift_bands, shift_reflected, warp

EXACT = {"atol": 1e-12, "rtol": 0}


def gathered_warp(x: Tensor, speed: Tensor, turn: Tensor) -> Tensor:
    at = torch.arange(x.shape[3]) * speed - turn
    left = at.floor().long()
    pair = [x.gather(3, (side % x.shape[3]).expand_as(x)) for side in (left, left + 1)]
    return torch.lerp(*pair, (at - left).to(x.dtype))


def gathered_bands(x: Tensor, shift: Tensor, most: int) -> Tensor:
    at = (torch.arange(x.shape[2])[:, None] - shift).clamp(0, x.shape[2] - 1)
    return x.gather(2, at.expand_as(x))


def gathered_reflection(x: Tensor, shift: Tensor, most: int) -> Tensor:
    last = x.shape[2] - 1
    at = (torch.arange(last + 1) + shift).abs()
    at = last - (last - at).abs()
    return x.gather(2, at[:, None].expand_as(x))


def per_clip(values: list[float], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype).view(-1, 1, 1, 1)


def compare(ours, theirs, x: Tensor, *arguments) -> None:
    """The same values to the last bit, and the same gradient."""
    results, gradients = [], []
    weight = torch.randn_like(x)
    for function in (ours, theirs):
        own = x.clone().requires_grad_()
        results.append(function(own, *arguments))
        gradients += torch.autograd.grad((results[-1] * weight).sum(), own)
    assert torch.equal(*results)
    torch.testing.assert_close(*gradients, **EXACT)


# Speeds at both ends of what `augment` draws, and of what the adjoint can do; each with turns of
# nothing, a quarter of the clip and all of it, either way.
SPEEDS = (1.0, math.exp(0.3), math.exp(-0.3), FASTEST - 1e-3, 1 / (FASTEST - 1e-3), 4 / 3, 0.75)


@pytest.mark.parametrize("frames", [1, 2, 3, 12, 37, 352])
def test_the_gradient_of_a_warp(frames):
    torch.manual_seed(frames)
    turns = [0, frames // 4, -(frames // 4), frames, -frames, 1, -1]
    pairs = [(speed, float(turn)) for speed in SPEEDS for turn in turns]
    pairs += [(float(torch.empty(()).uniform_(-0.3, 0.3).exp()), float(i)) for i in range(-20, 20)]
    speed, turn = (per_clip([*values], torch.float64) for values in zip(*pairs))
    x = torch.randn(len(pairs), 1, 3, frames, dtype=torch.float64)
    compare(warp, gathered_warp, x, speed, turn)


def test_a_warp_in_single_precision_and_of_many_speeds():
    torch.manual_seed(0)
    x = torch.randn(300, 1, 2, 352)
    speed, turn = torch.empty(300, 1, 1, 1).uniform_(-0.3, 0.3).exp(), torch.randn(300, 1, 1, 1)
    turn = (40 * turn).trunc()
    assert torch.equal(warp(x, speed, turn), gathered_warp(x, speed, turn))
    gradients = []
    for function in (warp, gathered_warp):
        own = x.clone().requires_grad_()
        function(own, speed, turn).square().sum().backward()
        gradients.append(own.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)
    assert torch.equal(warp(x, torch.ones_like(speed), torch.zeros_like(turn)), x)


@pytest.mark.parametrize("most", [0, 1, 4, 8])
def test_the_gradient_of_shifted_bands(most):
    """Also by more than half of the map, and by all of it but one band."""
    shift = torch.arange(-most, most + 1).view(-1, 1, 1, 1)
    x = torch.randn(len(shift), 1, 9, 5, dtype=torch.float64)
    compare(shift_bands, gathered_bands, x, shift, most)


@pytest.mark.parametrize(("length", "most"), [(16, 1), (16, 2), (16, 15), (5, 4), (3, 1), (2, 1)])
def test_the_gradient_of_a_reflected_shift(length, most):
    """A sample near an end is read twice, or not at all."""
    shift = torch.arange(-most, most + 1)[:, None]
    x = torch.randn(len(shift), 3, length, dtype=torch.float64)
    compare(shift_reflected, gathered_reflection, x, shift, most)


@pytest.mark.parametrize("name", ["warp", "bands", "reflected"])
def test_each_can_be_differentiated_twice(name):
    torch.manual_seed(0)
    shift = torch.tensor([-2, 2, 1])
    function = {
        "warp": lambda x: warp(
            x[:, None], per_clip([1.3, 0.75, 1.0], x.dtype), per_clip([2, -1, 0], x.dtype)
        ),
        "bands": lambda x: shift_bands(x[:, None], shift.view(-1, 1, 1, 1), 2),
        "reflected": lambda x: shift_reflected(x, shift[:, None], 2),
    }[name]
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(function, x)
    assert gradgradcheck(function, x)
    assert gradgradcheck(lambda x: function(x).pow(3), x)


def test_nothing_is_added_by_place():
    """No operation of the backward pass is one whose order of additions CUDA leaves open."""
    with torch.profiler.profile() as seen:
        x = torch.randn(3, 1, 8, 12, requires_grad=True)
        y = warp(x, per_clip([1.3, 0.75, 1.0], x.dtype), per_clip([2, -1, 0], x.dtype))
        y = shift_bands(y, torch.tensor([-2, 2, 0]).view(-1, 1, 1, 1), 2)
        shift_reflected(y[:, 0], torch.tensor([[1], [-2], [2]]), 2).square().sum().backward()
    names = {event.key for event in seen.key_averages()}
    assert any(name == "aten::gather" for name in names)
    adding = ("scatter", "index_add", "index_put", "embedding_bag_dense_backward")
    assert not [name for name in names if any(word in name for word in adding)]
