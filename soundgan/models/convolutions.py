"""Convolutions by another road: the same numbers up to rounding, in less time.

To one channel (`spread`). The last layer of a generator makes one channel of many, and the slope of
a critic is a transposed convolution to the one channel of a clip. On a CPU, oneDNN computes sixteen
channels at a time and leaves fifteen of them unused. Here one product gives what every place
contributes to every place of its kernel, and what falls on the same place is added (col2im).

Of few places (`weight_product`). Where a map has fewer places than oneDNN takes at a time, the
gradient of the weights is one product with the places that each kernel saw (im2col).

After nearest-neighbour enlargement (`enlarging_weight`). An enlarged map repeats its values, and
weights that meet the same value can be added first. With K the side of the kernel and S the factor,
a transposed convolution of stride S with K + S - 1 weights a side is left (Karras et al. 2020,
StyleGAN2, make one layer of two in the same way): 4 products instead of 9 for each new value of a
map where K = 3 and S = 2.

Shapes: N clips, C channels, P places of a map; `*s` stands for (H, W) or (L,), `*k` for a kernel.
`at` is stride, padding, dilation (a number a side each) and groups.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import avg_pool1d, avg_pool2d, fold, pad, unfold

FEW_PLACES = 32
aten = torch.ops.aten


def to_one_channel(x: Tensor, weight: Tensor, at: tuple) -> bool:
    """Whether `spread` is quicker for x, that is on a CPU and where one channel is made."""
    return x.device.type == "cpu" and weight.shape[1] == 1 and at[3] == 1


def of_few_places(x: Tensor, at: tuple) -> bool:
    """Whether `weight_product` is quicker where x is the smaller map: in rows, on a CPU."""
    return x.device.type == "cpu" and x.dim() == 3 and x.shape[2] < FEW_PLACES and at[3] == 1


def _sides(*numbers: tuple | list) -> list[list[int]]:
    """Size, kernel, dilation, padding and stride of a map: of a row, those of a map of height 1."""
    if len(numbers[0]) == 1:
        return [[one, *own] for one, own in zip((1, 1, 1, 0, 1), numbers)]
    return [list(own) for own in numbers]


def spread(x: Tensor, weight: Tensor, size: tuple, at: tuple) -> Tensor:
    """Transposed convolution `x (N, C, *s)`, `weight (C, 1, *k)` -> `(N, 1, *size)`."""
    stride, padding, dilation, _ = at
    count, kernel = len(x), weight[0].numel()
    turned = weight.flatten(1).t().expand(count, -1, -1)
    columns = torch.bmm(turned, x.flatten(2))  # (N, prod(k), P)
    # Clips in the place of channels, which are what threads share.
    columns = columns.view(1, count * kernel, -1)
    y = fold(columns, *_sides(size, weight.shape[2:], dilation, padding, stride))
    return y.view(count, 1, *size)


def weight_product(small: Tensor, large: Tensor, weight: Tensor, at: tuple) -> Tensor:
    """Gradient of the weight `(C, D, *k)` between the maps `small (N, C, *s)` and `large (N, D,
    *S)`: of a convolution the gradient and x, of a transposed one x and the gradient."""
    stride, padding, dilation, _ = at
    _, *sides = _sides(large.shape[2:], weight.shape[2:], dilation, padding, stride)
    if large.dim() == 3:
        large = large[:, :, None]
    seen = unfold(large, *sides)  # (N, D prod(k), P)
    rows = small.flatten(2).transpose(0, 1).flatten(1)  # (C, N P)
    return (rows @ seen.transpose(1, 2).flatten(0, 1)).view_as(weight)


def channel_sums(grad: Tensor, wanted: bool) -> Tensor | None:
    """Gradient of a bias; asked for it alone, oneDNN also computes that of the weight."""
    return grad.sum((0, *range(2, grad.dim()))) if wanted else None


class Transposed(Function):
    """Transposed convolution `x (N, C, *s)`, `weight (C, D, *k)` -> `(N, D, *size)`, with
    `spread` and `weight_product` where these serve."""

    @staticmethod
    def forward(ctx, x, weight, bias, size, at):
        ctx.save_for_backward(x, weight)
        ctx.at, ctx.extra = at, _extra(x, weight, size, at)
        if not to_one_channel(x, weight, at):
            stride, padding, dilation, groups = at
            return aten.convolution(
                x, weight, bias, stride, padding, dilation, True, ctx.extra, groups
            )
        y = spread(x, weight, size, at)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.at
        wanted, found = ctx.needs_input_grad[:3], (None, None, None)
        if wanted[1] and of_few_places(x, ctx.at):
            sums = channel_sums(grad, wanted[2])
            found = (None, weight_product(x, grad, weight, ctx.at), sums)
        left = tuple(w and g is None for w, g in zip(wanted, found))
        bias, places = [weight.shape[1] * groups], (stride, padding, dilation)
        own = aten.convolution_backward(
            grad, x, weight, bias, *places, True, ctx.extra, groups, left
        )
        return *(o if g is None else g for o, g in zip(own, found)), None, None


def _extra(x: Tensor, weight: Tensor, size: tuple, at: tuple) -> list[int]:
    """What PyTorch calls the output's padding: how much `size` exceeds the least that fits."""
    sides = zip(size, x.shape[2:], weight.shape[2:], *at[:3])
    return [whole - ((n - 1) * s - 2 * p + d * (k - 1) + 1) for whole, n, k, s, p, d in sides]


def enlarging_weight(weight: Tensor, factor: int) -> Tensor:
    """Kernel of the transposed convolution of stride `factor` that is enlargement by it and then
    the convolution by `weight (D, C, *k)`: `(C, D, *(k + factor - 1))`."""
    sides = tuple(range(2, weight.dim()))
    wide = pad(weight.transpose(0, 1).flip(sides), [factor - 1] * 2 * len(sides))
    if len(sides) == 1:
        return avg_pool1d(wide, factor, 1) * factor
    return avg_pool2d(wide, factor, 1, divisor_override=1)
