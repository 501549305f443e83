"""The kernel of `soundgan/models/kernels.py` without a GPU: prints its errors as JSON.

Run with TRITON_INTERPRET=1 in the environment, which Triton reads when it is imported. A line a
case: relative errors of the three gradients, of the kernel and of the float32 formula, both against
the formula in float64; and of the kernel against autograd's own double backward in float64.
"""

from __future__ import annotations

import json

import torch
from torch.nn.functional import group_norm

from soundgan.models import kernels, layers

CASES = (  # N, C, G, sides, mean of x
    (2, 8, 4, (5, 7), 0.0),
    (3, 6, 6, (9,), 0.0),  # one channel a group
    (2, 12, 1, (5, 22), 0.0),  # one group
    (1, 6, 2, (20, 88), 0.0),  # several channels a tile, and a part of the next
    (1, 4, 2, (4099,), 0.0),  # a place longer than three: more than one tile along
    (2, 36, 2, (3, 3), 0.0),
    (2, 8, 4, (5, 7), 1000.0),
    (2, 6, 2, (1,), 0.0),
    (2, 8, 4, (6, 10), -1.0),  # not contiguous
)


def error(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found.double() - true).norm() / true.norm())


def of_autograd(
    v: torch.Tensor, g: torch.Tensor, x: torch.Tensor, w: torch.Tensor, groups: int
) -> tuple[torch.Tensor, ...]:
    v, g, x, w = (t.double().requires_grad_() for t in (v, g, x, w))
    y = group_norm(x, groups, w, eps=1e-5)
    (d,) = torch.autograd.grad(y, x, g, create_graph=True)
    return torch.autograd.grad(d, (g, x, w), v)


def main() -> None:
    torch.manual_seed(0)
    for count, channels, groups, sides, mean in CASES:
        x = torch.randn(count, channels, *sides) * 2 + mean
        v, g = torch.randn(2, *x.shape)
        if mean < 0:
            x, v, g = (t.to(memory_format=torch.channels_last) for t in (x, v, g))
            assert not x.is_contiguous()
        w = torch.randn(channels)
        size = (count, channels, x[0, 0].numel(), groups)
        # The statistics to 53 bits first, so that what is compared is the kernel alone.
        _, m, r = torch.ops.aten.native_group_norm(x.double(), None, None, *size, 1e-5)
        inputs = (v, g, x, w, m.float(), r.float())
        true = layers.norm_second_gradients(*(t.double() for t in inputs))
        found = kernels.norm_second_gradients(*inputs)
        formula = layers.norm_second_gradients(*inputs)
        autograd = of_autograd(v, g, x, w, groups)
        errors = {
            "case": f"{size} mean {mean:g}",
            "kernel": [error(a, b) for a, b in zip(found, true)],
            "formula": [error(a, b) for a, b in zip(formula, true)],
            "autograd": [error(a, b) for a, b in zip(found, autograd)],
        }
        print(json.dumps(errors))


if __name__ == "__main__":
    main()
