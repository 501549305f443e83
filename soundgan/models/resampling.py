"""Linear maps that read values from other places, with gradients that read as well.

PyTorch's gradient of a gather adds every value to the place it was read from. On CUDA these
additions come in any order, so that two runs differ, and `torch.use_deterministic_algorithms`
replaces them by slower ones that need not fit into a graph. Each map here has its adjoint written
out: every place collects the few values that were read from it. On the CPU both ways take about
the same time, so this one is used everywhere. Shapes: B clips, C channels, M bands, T frames, L
samples.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import embedding_bag

FASTEST = 1.5  # speeds lie between 1 / FASTEST and this, neither included: what `_warp_back` counts

Map = Callable[[Tensor], Tensor]


class _Linear(Function):
    """A linear map whose gradient is its adjoint, whose gradient is the map again."""

    @staticmethod
    def forward(ctx, x: Tensor, apply: Map, adjoint: Map) -> Tensor:
        ctx.maps = apply, adjoint
        return apply(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        apply, adjoint = ctx.maps
        return _Linear.apply(grad, adjoint, apply), None, None


# ---- time, turned and at another speed ----------------------------------------------------------


def warp(x: Tensor, speed: Tensor, turn: Tensor) -> Tensor:
    """`x (B, 1, M, T)` at the times `t * speed - turn`, between two frames linear, going round.

    `speed, turn (B, 1, 1, 1)`: a factor between 1 / FASTEST and FASTEST, and whole frames.
    """
    return _Linear.apply(x, lambda x: _warp(x, speed, turn), lambda g: _warp_back(g, speed, turn))


def _warp(x: Tensor, speed: Tensor, turn: Tensor) -> Tensor:
    bands, frames = x.shape[2:]
    at = torch.arange(frames, device=x.device) * speed - turn  # (B, 1, 1, T)
    left = at.floor()
    both = torch.cat([left, left + 1], dim=3).long() % frames  # (B, 1, 1, 2 T)
    pair = x.gather(3, both.expand(-1, -1, bands, -1)).chunk(2, dim=3)
    return torch.lerp(*pair, (at - left).to(x.dtype))


def _warp_back(grad: Tensor, speed: Tensor, turn: Tensor) -> Tensor:
    """The adjoint of `_warp`: a frame s gets `grad[t] * (1 - |t * speed - turn - u|)` of each t for
    which that weight is positive, u being s or a whole number of clips away from it.

    Times run from `-turn` over less than 1.5 clips: of these u, the first from `-turn` on and the
    one after it can be met. The t that meet one lie less than 1.5 from `(u + turn) / speed`: the
    nearest whole number and the two beside it, with room for rounding.
    """
    count, _, bands, frames = grad.shape
    speed, turn = (value.view(count, 1, 1, 1) for value in (speed, turn))
    since = (torch.arange(frames, device=grad.device).view(1, -1, 1, 1) + turn) % frames
    since = torch.cat([since, since + frames], dim=2)  # (B, T, 2, 1), u + turn
    t = (since / speed).round() + torch.arange(-1, 2, device=grad.device)  # (B, T, 2, 3)
    away = t * speed - turn - (since - turn)  # of the very times that `_warp` computes
    known = t.clamp(0, frames - 1)
    weight = (1 - away.abs()).clamp(min=0) * (t == known)
    first = torch.arange(0, count * frames, frames, device=grad.device).view(-1, 1, 1, 1)
    row = (known.long() + first).view(-1, 6)
    weight = weight.to(grad.dtype).view(-1, 6)
    rows = grad.transpose(2, 3).reshape(count * frames, bands)
    total = embedding_bag(row, rows, mode="sum", per_sample_weights=weight)
    return total.view(count, 1, frames, bands).transpose(2, 3).contiguous()


# ---- bands, shifted with their edge repeated ----------------------------------------------------


def shift_bands(x: Tensor, shift: Tensor, most: int) -> Tensor:
    """`x (B, 1, M, T)` with its bands moved up by `shift (B, 1, 1, 1)`, the edge repeated.

    Integers of at most `most` either way, which is less than M.
    """
    return _Linear.apply(
        x, lambda x: _shift_bands(x, shift), lambda g: _shift_bands_back(g, shift, most)
    )


def _shift_bands(x: Tensor, shift: Tensor) -> Tensor:
    """Whole rows of T values are copied: several times as fast as a gather on the CPU."""
    count, _, bands, frames = x.shape
    first = torch.arange(0, count * bands, bands, device=x.device)[:, None]  # (B, 1), of the rows
    at = torch.arange(bands, device=x.device) - shift.view(count, 1)  # (B, M)
    row = at.clamp(0, bands - 1) + first
    return x.reshape(count * bands, frames).index_select(0, row.view(-1)).view_as(x)


def _shift_bands_back(grad: Tensor, shift: Tensor, most: int) -> Tensor:
    """The adjoint of `_shift_bands`: the shift back, of which the edges get all that repeats them.

    The band m reads `m - shift`. Shifted back, the edge stands for what was not read at all, and
    the first band and the last lack those that read them from beyond the map.
    """
    bands = grad.shape[2]
    band = torch.arange(bands, device=grad.device)[:, None]  # (M, 1)
    back = band + shift  # (B, 1, M, 1), the m that reads each
    moved = _shift_bands(grad, -shift) * (back == back.clamp(0, bands - 1))
    low, high = slice(0, most), slice(max(0, bands - most), bands)
    moved[:, :, 0].add_((grad[:, :, low] * (band[low] < shift)).sum(2))
    moved[:, :, -1].add_((grad[:, :, high] * (band[high] >= bands + shift)).sum(2))
    return moved


# ---- samples, shifted with their ends reflected -------------------------------------------------


def shift_reflected(x: Tensor, shift: Tensor, most: int) -> Tensor:
    """`x (B, C, L)` at the samples `t + shift`, reflected at either end without repeating it.

    `shift (B, 1)`: integers of at most `most` either way, which is less than L.
    """
    return _Linear.apply(
        x, lambda x: _shift_reflected(x, shift), lambda g: _shift_reflected_back(g, shift, most)
    )


def _read(x: Tensor, at: Tensor) -> Tensor:
    """`x (B, C, L)` at `at (B, l)`, the same samples of every channel: `(B, C, l)`."""
    return x.gather(2, at[:, None].expand(-1, x.shape[1], -1))


def _shift_reflected(x: Tensor, shift: Tensor) -> Tensor:
    last = x.shape[2] - 1
    at = (torch.arange(last + 1, device=x.device) + shift).abs()  # (B, L)
    return _read(x, last - (last - at).abs())


def _shift_reflected_back(grad: Tensor, shift: Tensor, most: int) -> Tensor:
    """The adjoint of `_shift_reflected`: a sample s is read at `s - shift`, at `-s - shift` and at
    `2 (L - 1) - s - shift`, as far as these are samples; the latter two are of the ends alone."""
    length = grad.shape[2]
    place = torch.arange(length, device=grad.device)
    at = place - shift  # (B, L)
    known = at.clamp(0, length - 1)
    total = _read(grad, known)
    inside = (at == known)[:, None]  # (B, 1, L)
    for end in (slice(0, most), slice(length - most, length)):
        total[..., end].mul_(inside[..., end])
    for end, twice in (
        (slice(1, most + 1), 0),
        (slice(length - 1 - most, length - 1), 2 * (length - 1)),
    ):
        at = twice - place[end] - shift  # (B, most)
        known = at.clamp(0, length - 1)
        total[..., end].add_(_read(grad, known) * (at == known)[:, None])
    return total
