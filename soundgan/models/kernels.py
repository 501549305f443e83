"""GroupNorm's second derivatives as one kernel of Triton's, where `layers.py` has 46 operations.

The graph of a step launches each of those in turn, and each waits for memory and not for
arithmetic. Here one program takes one group of one clip: it reads the three maps twice (the second
time from the cache) and writes each result once. Importing this needs Triton.

The numbers are those of `layers.norm_second_gradients`; with its letters, and
    p = r (v - E[v] - u b)    d = r (s - E[s] - u a)    q = E[v d] = r (E[v s] - E[v] E[s] - a b)
the three gradients are `w p` for g, the sum of `g p` for w, and `-r (a p + b d + q u)` for x: the
formula of x there, sorted. Sums are taken in float32, of x - m and never of x: a mean far from zero
costs no digits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # numbers of a map that a program holds at a time
PER_THREAD = 8  # of them: three maps and five sums fit into registers


@triton.jit
def read_tile(
    v_at,
    grad_at,
    x_at,
    first,
    m,
    r,
    c,
    left,
    CHANNELS: tl.constexpr,
    PLACES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Where a tile lies, what of it lies inside the map, and v, g, u there: `(HEIGHT, WIDTH)`."""
    i = left + tl.arange(0, WIDTH)[None, :]
    inside = (c < CHANNELS) & (i < PLACES)
    at = first + c * PLACES + i
    v = tl.load(v_at + at, inside, 0.0)
    g = tl.load(grad_at + at, inside, 0.0)
    u = (tl.load(x_at + at, inside, 0.0) - m) * r  # outside only ever times a zero
    return at, inside, v, g, u


@triton.jit
def second_gradients_kernel(
    v_at,
    grad_at,
    x_at,
    weight_at,
    mean_at,
    rate_at,
    of_grad_at,
    of_x_at,
    of_weight_at,  # (N, C): a clip's share each
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,  # of one group
    PLACES: tl.constexpr,
    HEIGHT: tl.constexpr,  # channels and places of a tile, powers of two
    WIDTH: tl.constexpr,
):
    """Program `clip * GROUPS + group`: the maps are contiguous, so its numbers lie side by side."""
    program = tl.program_id(0)
    first = program.to(tl.int64) * CHANNELS * PLACES
    weight_at += program % GROUPS * CHANNELS
    size = CHANNELS * PLACES
    m, r = tl.load(mean_at + program), tl.load(rate_at + program)

    zero = tl.zeros((HEIGHT, WIDTH), tl.float32)
    sum_v, sum_s, sum_vs, sum_vu, sum_su = zero, zero, zero, zero, zero
    for top in range(0, CHANNELS, HEIGHT):
        c = top + tl.arange(0, HEIGHT)[:, None]
        w = tl.load(weight_at + c, c < CHANNELS, 0.0)  # (HEIGHT, 1)
        for left in range(0, PLACES, WIDTH):
            _, _, v, g, u = read_tile(
                v_at, grad_at, x_at, first, m, r, c, left, CHANNELS, PLACES, WIDTH
            )
            s = g * w
            sum_v += v
            sum_s += s
            sum_vs += v * s
            sum_vu += v * u
            sum_su += s * u
    mean_v = tl.sum(tl.sum(sum_v, 1), 0) / size
    mean_s = tl.sum(tl.sum(sum_s, 1), 0) / size
    b = tl.sum(tl.sum(sum_vu, 1), 0) / size
    a = tl.sum(tl.sum(sum_su, 1), 0) / size
    q = r * (tl.sum(tl.sum(sum_vs, 1), 0) / size - mean_v * mean_s - a * b)

    for top in range(0, CHANNELS, HEIGHT):
        c = top + tl.arange(0, HEIGHT)[:, None]
        w = tl.load(weight_at + c, c < CHANNELS, 0.0)
        of_weight = tl.zeros((HEIGHT, WIDTH), tl.float32)
        for left in range(0, PLACES, WIDTH):
            at, inside, v, g, u = read_tile(
                v_at, grad_at, x_at, first, m, r, c, left, CHANNELS, PLACES, WIDTH
            )
            p = (v - mean_v - u * b) * r
            d = (g * w - mean_s - u * a) * r
            of_weight += g * p
            tl.store(of_grad_at + at, w * p, inside)
            tl.store(of_x_at + at, -r * (a * p + b * d + q * u), inside)
        c = top + tl.arange(0, HEIGHT)
        at = program.to(tl.int64) * CHANNELS + c
        tl.store(of_weight_at + at, tl.sum(of_weight, 1), c < CHANNELS)


def tile(channels: int, places: int) -> tuple[int, int, int]:
    """Height, width and warps of the tiles in which a group `(channels, places)` is read."""
    width = min(triton.next_power_of_2(places), TILE)
    height = min(triton.next_power_of_2(channels), TILE // width)
    return height, width, max(1, height * width // (32 * PER_THREAD))


def norm_second_gradients(
    v: Tensor, grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `layers.norm_second_gradients`, of float32 tensors on one CUDA device.

    `v, grad, x (N, C, *s)`, `weight (C,)`, `mean, rate (N, G)`. A map that is not contiguous is
    copied: that is one kernel, the formula would be dozens. Raises whatever Triton does where the
    kernel cannot be compiled. The first launch for a shape compiles; later ones only launch, on the
    current stream, and may be captured.
    """
    v, grad, x, weight, mean, rate = (t.contiguous() for t in (v, grad, x, weight, mean, rate))
    of_grad, of_x = torch.empty_like(grad), torch.empty_like(x)
    of_weight = x.new_empty(x.shape[:2])  # (N, C)
    groups = mean.shape[1]
    channels, places = x.shape[1] // groups, x[0, 0].numel()
    height, width, warps = tile(channels, places)
    second_gradients_kernel[(mean.numel(),)](
        *(v, grad, x, weight, mean, rate, of_grad, of_x, of_weight),
        *(groups, channels, places, height, width),
        num_warps=warps,
    )
    return of_grad, of_x, of_weight.sum(0)
