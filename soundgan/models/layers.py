"""Layers of the critic whose gradient of the gradient costs what it must, and no more.

The gradient penalty is a loss of the critic's slope, so its update differentiates every layer
twice. PyTorch does that correctly, but by general formulas: the gradient of a convolution's
gradient becomes a convolution with kernels as large as feature maps, that of GroupNorm some thirty
elementwise passes, and LeakyReLU, whose second derivative is zero, sends a tensor of zeros back
through everything below it. Here each is written out. Same numbers up to rounding, same parameters
and state dicts as the layers of `torch.nn` they derive from; under autocast they are those layers.

For convolutions the idea is Karras et al.'s (2020, StyleGAN2-ADA): the second-order gradients of a
convolution are a convolution and a weight gradient again. Shapes: N clips, C channels, G groups;
`*s` stands for (H, W) or (L,).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv_transpose1d, conv_transpose2d, embedding, interpolate

from soundgan.models.convolutions import (
    Transposed,
    channel_sums,
    enlarging_weight,
    of_few_places,
    spread,
    to_one_channel,
    weight_product,
)

SLOPE = 0.2  # of every LeakyReLU of the networks
aten = torch.ops.aten
# Not of a thread: on CUDA another one runs backward.
_now = {"parameters": True, "ours": True, "kernels": False}
_failed: list[str] = []  # why this process can compile no kernel


@contextmanager
def _set(what: str, value: bool) -> Iterator[None]:
    before, _now[what] = _now[what], value
    try:
        yield
    finally:
        _now[what] = before


def inputs_only() -> AbstractContextManager:
    """Within it, gradients of the layers' parameters are left out.

    For a slope, `autograd.grad(score, x)`: PyTorch tells its own layers what is asked for, but not
    those that are written in Python, which would compute all.
    """
    return _set("parameters", False)


def stock() -> AbstractContextManager:
    """Within it the layers compute as those of `torch.nn`: for comparison."""
    return _set("ours", False)


def compiled(wanted: bool) -> AbstractContextManager:
    """Within it GroupNorm's second derivatives are one kernel on CUDA, or are not (the default)."""
    return _set("kernels", wanted)


def ours() -> bool:
    """Whether the layers compute as written here, and not as those of `torch.nn`."""
    return _now["ours"]


def _wanted(ctx) -> tuple[bool, bool, bool]:
    """Which gradients of (x, weight, bias) are to be computed."""
    x, weight, bias = ctx.needs_input_grad[:3]
    return x, weight and _now["parameters"], bias and _now["parameters"]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, at: tuple) -> Tensor:
    stride, padding, dilation, groups = at
    none = [0] * len(stride)
    return aten.convolution(x, weight, bias, stride, padding, dilation, False, none, groups)


def convolution_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, at: tuple, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to x, weight and bias, those that are `wanted`."""
    stride, padding, dilation, groups = at
    none, bias = [0] * len(stride), [weight.shape[0]]
    of_x = of_weight = of_bias = None
    if wanted[0] and to_one_channel(grad, weight, at):
        of_x = spread(grad, weight, x.shape[2:], at)
    if wanted[1] and of_few_places(grad, at):
        of_weight, of_bias = weight_product(grad, x, weight, at), channel_sums(grad, wanted[2])
    left = tuple(w and g is None for w, g in zip(wanted, (of_x, of_weight, of_bias)))
    if not any(left):
        return of_x, of_weight, of_bias
    own = aten.convolution_backward(
        grad, x, weight, bias, stride, padding, dilation, False, none, groups, left
    )
    return tuple(o if g is None else g for o, g in zip(own, (of_x, of_weight, of_bias)))


class Convolve(Function):
    """`convolve` of x and of what lies `beside` it in further channels, differentiable twice.

    `beside` is made of parameters (a label's map): where theirs are left out, so is its gradient.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, at, beside=None):
        whole = x if beside is None else torch.cat([x, beside], dim=1)
        ctx.save_for_backward(whole, weight)
        ctx.at, ctx.channels = at, x.shape[1]
        return convolve(whole, weight, bias, at)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wanted = _wanted(ctx)
        gradients = ConvolutionGradients.apply if torch.is_grad_enabled() else convolution_gradients
        if ctx.channels == x.shape[1]:
            return *gradients(grad, x, weight, ctx.at, wanted), None, None
        beside = ctx.needs_input_grad[4] and _now["parameters"]
        of_weight, of_bias = None, None
        if any(wanted[1:]):
            _, of_weight, of_bias = gradients(grad, x, weight, ctx.at, (False, *wanted[1:]))
        # Mostly one of both is wanted: the slope at x, or the label's map.
        of_x, of_beside = (
            gradients(grad, x[:, own], weight[:, own], ctx.at, (True, False, False))[0]
            if needed
            else None
            for own, needed in (
                (slice(ctx.channels), wanted[0]),
                (slice(ctx.channels, None), beside),
            )
        )
        return of_x, of_weight, of_bias, None, of_beside


class ConvolutionGradients(Function):
    """`convolution_gradients`, differentiable once more where x's gradient is concerned."""

    @staticmethod
    def forward(ctx, grad, x, weight, at, wanted):
        ctx.save_for_backward(grad, weight)
        ctx.at = at
        ctx.set_materialize_grads(False)
        of_x, of_weight, of_bias = convolution_gradients(grad, x, weight, at, wanted)
        ctx.mark_non_differentiable(*(g for g in (of_weight, of_bias) if g is not None))
        return of_x, of_weight, of_bias

    @staticmethod
    @once_differentiable
    def backward(ctx, v, *_):
        """`v` comes for x's gradient, which is linear in `grad` and in `weight`."""
        grad, weight = ctx.saved_tensors
        if v is None:
            return None, None, None, None, None
        of_grad = of_weight = None
        if ctx.needs_input_grad[0]:
            of_grad = convolve(v, weight, None, ctx.at)
        if ctx.needs_input_grad[2]:
            only = (False, True, False)
            of_weight = convolution_gradients(grad, v, weight, ctx.at, only)[1]
        return of_grad, None, of_weight, None, None


class Leak(Function):
    """LeakyReLU: its slope is constant wherever there is one, so the second derivative is none."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x)
        ctx.slope = slope
        return aten.leaky_relu(x, slope)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return LeakGradient.apply(grad, x, ctx.slope), None


class LeakGradient(Function):
    @staticmethod
    def forward(ctx, grad, x, slope):
        ctx.save_for_backward(x)
        ctx.slope = slope
        return aten.leaky_relu_backward(grad, x, slope, False)

    @staticmethod
    @once_differentiable
    def backward(ctx, v):
        (x,) = ctx.saved_tensors
        return aten.leaky_relu_backward(v, x, ctx.slope, False), None, None


# ---- GroupNorm ----------------------------------------------------------------------------------
# y = w u + b with u = r (x - m), m the mean of a group of n numbers and r = 1 / sqrt(var + eps).
# For a gradient g of y, with s = w g and E the mean over a group, that of x is
#     d = r (s - E[s] - u E[s u]).
# The penalty's gradient v of d then gives, with a = E[s u] and b = E[v u],
#     for g:  w r (v - E[v] - u b)
#     for w:  the sum of g r (v - E[v] - u b)
#     for x:  -r^2 (a v + b s - a E[v] - b E[s] + u (E[v s] - E[v] E[s] - 3 a b)).


class Normalise(Function):
    """GroupNorm, differentiable twice; returns y, m and r."""

    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps):
        size = (len(x), x.shape[1], x[0, 0].numel(), groups)
        y, mean, rate = aten.native_group_norm(x, weight, bias, *size, eps)
        ctx.save_for_backward(x, mean, rate, weight)
        ctx.size = size
        return y

    @staticmethod
    def backward(ctx, grad):
        x, mean, rate, weight = ctx.saved_tensors
        wanted = _wanted(ctx)
        own = NormaliseGradients.apply(grad, x, weight, mean, rate, ctx.size, wanted)
        return *own, None, None


class NormaliseGradients(Function):
    @staticmethod
    def forward(ctx, grad, x, weight, mean, rate, size, wanted):
        ctx.save_for_backward(grad, x, weight, mean, rate)
        ctx.size = size
        ctx.set_materialize_grads(False)
        of_x, of_weight, of_bias = aten.native_group_norm_backward(
            grad, x, mean, rate, weight, *size, wanted
        )
        ctx.mark_non_differentiable(*(g for g in (of_weight, of_bias) if g is not None))
        return of_x, of_weight, of_bias

    @staticmethod
    @once_differentiable
    def backward(ctx, v, *_):
        if v is None:
            return (None,) * 7
        grad, x, weight, mean, rate = ctx.saved_tensors
        return *_second_gradients(v, grad, x, weight, mean, rate), None, None, None, None


def _kernel_serves(v: Tensor) -> bool:
    """Whether one kernel is to compute them: float32 on CUDA, and no stand-in without memory."""
    wanted = _now["kernels"] and not _failed
    return wanted and v.is_cuda and v.dtype == torch.float32 and type(v) is Tensor


def _second_gradients(v: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`norm_second_gradients`, as one kernel where that is wanted and possible.

    The first steps of a run compile it. What fails then (no Triton on Windows, no C compiler, a GPU
    too old for it, no folder to write to) fails for the whole process, and costs time, no numbers.
    """
    if not _kernel_serves(v):
        return norm_second_gradients(v, *others)
    try:
        from soundgan.models import kernels

        return kernels.norm_second_gradients(v, *others)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise  # long compiled: it is the capture that failed
        reason = f"{type(error).__name__}: {error}".strip(": \n").partition("\n")[0]
        _failed.append(reason)
        print(
            "GroupNorm's second derivatives are computed operation by operation, slower than as "
            f"one kernel of Triton's ({reason}); --no-compile does so without trying.",
            flush=True,
        )
    return norm_second_gradients(v, *others)


def norm_second_gradients(
    v: Tensor, grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for `grad`, x and weight of `<v, d>`, d being GroupNorm's gradient of x.

    `v, grad, x (N, C, *s)`, `weight (C,)`, `mean, rate (N, G)`; the formulas stand above.
    """
    groups = mean.shape[1]
    v, g, x = (t.unflatten(1, (groups, -1)) for t in (v, grad, x))  # (N, G, C / G, *s)
    places = tuple(range(3, x.dim()))
    beside = (..., *[None] * len(places))
    w = weight.view(groups, -1)  # (G, C / G)
    r = rate[..., None]  # (N, G, 1), as are the means
    u = torch.addcmul((-mean[..., None] * r)[beside], x, r[beside])
    # Sums a channel, (N, G, C / G), of g alone, times u, times v; then means over groups of w g.
    by_channel = torch.stack([t.sum(places) for t in (g, g * u, g * v)])
    size = x[0, 0].numel()
    mean_s, a, mean_vs = (by_channel * w).sum(-1, keepdim=True) / size
    whole = (2, *places)
    mean_v, b = torch.stack([t.sum(whole)[..., None] for t in (v, v * u)]) / size

    of_grad = torch.addcmul((-mean_v)[beside] + v, u, -b[beside]).mul_((w * r)[beside])
    square = -r * r
    rest = square * (mean_vs - mean_v * mean_s - 3 * a * b)
    of_x = torch.addcmul((-square * (a * mean_v + b * mean_s))[beside], v, (square * a)[beside])
    of_x.addcmul_(g, (square * b * w)[beside]).addcmul_(u, rest[beside])
    sum_g, sum_gu, sum_gv = by_channel
    of_weight = (r * (sum_gv - mean_v * sum_g - b * sum_gu)).sum(0)
    return of_grad.flatten(1, 2), of_x.flatten(1, 2), of_weight.flatten()


# ---- modules ------------------------------------------------------------------------------------


def _plainly(x: Tensor) -> bool:
    """Whether the stock layer serves: under autocast, or where nothing is differentiated."""
    wanted = _now["ours"] and torch.is_grad_enabled()
    return not wanted or torch.is_autocast_enabled(x.device.type)


class _Conv(nn.Module):
    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Of x, or of a pair: x, and what lies beside it in further channels (see `Convolve`)."""
        x, beside = x if isinstance(x, tuple) else (x, None)
        if _plainly(x):
            return super().forward(x if beside is None else torch.cat([x, beside], dim=1))
        at = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
        return Convolve.apply(x, self.weight, self.bias, at, beside)


class Conv1d(_Conv, nn.Conv1d):
    pass


class Conv2d(_Conv, nn.Conv2d):
    pass


class _ConvTranspose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        at = (self.stride, self.padding, self.dilation, self.groups)
        ours = to_one_channel(x, self.weight, at) or of_few_places(x, at)
        if not (ours and _now["ours"]) or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        sides = zip(x.shape[2:], self.weight.shape[2:], *at[:3], self.output_padding)
        size = tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 + e for n, k, s, p, d, e in sides)
        return Transposed.apply(x, self.weight, self.bias, size, at)


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    pass


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    pass


class _Enlarge(nn.Module):
    """A map `factor` times as large by repetition, then the convolution, which keeps its size."""

    def __init__(self, factor: int, c_in: int, c_out: int, kernel: int, bias: bool) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2, bias=bias)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if not _now["ours"]:
            return super().forward(interpolate(x, scale_factor=self.factor, mode="nearest"))
        weight, dims = enlarging_weight(self.weight, self.factor), x.dim() - 2
        at = ([self.factor] * dims, list(self.padding), [1] * dims, 1)
        if to_one_channel(x, weight, at) and not torch.is_autocast_enabled(x.device.type):
            size = tuple(n * self.factor for n in x.shape[2:])
            return Transposed.apply(x, weight, self.bias, size, at)
        transposed = conv_transpose1d if dims == 1 else conv_transpose2d
        return transposed(x, weight, self.bias, self.factor, self.padding)


class Enlarge1d(_Enlarge, nn.Conv1d):
    pass


class Enlarge2d(_Enlarge, nn.Conv2d):
    pass


class GroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        if _plainly(x):
            return super().forward(x)
        return Normalise.apply(x, self.weight, self.bias, self.num_groups, self.eps)


class LeakyReLU(nn.LeakyReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if _plainly(x) else Leak.apply(x, self.negative_slope)


class OneHot(nn.Module):
    """Integer labels `(B,)` -> rows of the identity `(B, K)`: looked up, which reads nothing back.

    (`torch.nn.functional.one_hot` clears, scatters and converts, and on a CPU checks the range.)
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.eye(classes), persistent=False)

    def forward(self, labels: Tensor) -> Tensor:
        return embedding(labels, self.rows)


class Standardise(nn.Module):
    """Spectrograms `(B, 1, M, T)` in units of each band's deviation from its mean, and back.

    Of clips nobody has measured yet these are 0 and 1: nothing changes.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(bands, 1))
        self.register_buffer("deviation", torch.ones(bands, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation

    def inverse(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.mean, x, self.deviation)
