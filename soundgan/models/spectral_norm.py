"""Spectral norm in few operations, its gradient written out (Miyato et al. 2018).

A weight W, seen as a matrix of one row an output, is divided by an estimate of its largest singular
value. Each use in training makes one power iteration first:
    u <- W v / |W v|,  v <- W^T u / |W^T u|,  sigma = u^T W v = |W^T u|.
PyTorch's parametrization computes W v once more for sigma, and differentiates by general formulas.
Same numbers up to rounding, same random numbers drawn at the beginning, same state dict.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm

from soundgan.models import layers


def spectral_norm(layer: nn.Module) -> nn.Module:
    """Divide the weight of a convolution or linear layer by its spectral norm, in place."""
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return layer


class SpectralNorm(_SpectralNorm):
    """W `(rows, ...)` -> W / sigma; the buffers `_u (rows,)` and `_v (columns,)` stay in place."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.register_buffer("_one", weight.new_ones(1, 1), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        if not layers.ours():
            return super().forward(weight)
        # Never in half precision, to which autocast on CUDA would round the products.
        kind = weight.device.type  # networks without memory ("meta") know no autocast
        known = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if known else nullcontext():
            return DivideBySpectralNorm.apply(weight, self._u, self._v, self._one, self.training)


def unit(x: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    """`x (n,)` divided by its norm, and the norm `()`, in one operation (that of weight norm).

    `one (1, 1)` is 1. Where the norm is 0 the result is NaN, as W / 0 would be.
    """
    normalised, norm = torch._weight_norm_interface(x[None], one, 0)
    return normalised[0], norm.view(())


class DivideBySpectralNorm(Function):
    """W / sigma, after a power iteration that is written into u and v where `iterate`."""

    @staticmethod
    def forward(ctx, weight, u, v, one, iterate):
        matrix = weight.flatten(1)  # (rows, columns)
        if iterate:
            # New tensors first: backward needs those of this use, whatever later ones write.
            new_u, _ = unit(torch.mv(matrix, v), one)
            new_v, sigma = unit(torch.mv(matrix.T, new_u), one)
            torch._foreach_copy_([u, v], [new_u, new_v])
            u, v = new_u, new_v
        else:
            sigma = torch.dot(u, torch.mv(matrix, v))
        normalised = weight / sigma
        ctx.save_for_backward(normalised, u, v, sigma)
        return normalised

    @staticmethod
    @once_differentiable  # a penalty's slope is differentiated through W / sigma, not through W
    def backward(ctx, grad):
        """dW = (g - <g, W / sigma> u v^T) / sigma, u and v being constant (equation 12)."""
        normalised, u, v, sigma = ctx.saved_tensors
        along = torch.dot(grad.flatten(), normalised.flatten()) * u
        rows = along.view(-1, *[1] * (grad.dim() - 1))  # (rows, 1, ...)
        row = v.view(1, *grad.shape[1:])
        return torch.addcmul(grad, rows, row, value=-1).div_(sigma), None, None, None, None
