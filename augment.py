"""What the critic may not learn: random changes of real and generated spectrograms alike.

Both are changed by the same kinds of draws before the critic sees them, and gradients pass through
(Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"), so the generator
learns the unchanged sounds while a few hundred clips look like many to the critic.
"""

from __future__ import annotations

import torch
from torch import Tensor

import config


def augment(x: Tensor, chance: float) -> Tensor:
    """`x (B, 1, M, T)` log-mels, each clip changed in each of four ways with probability `chance`.

    A turn along time (what leaves at one end comes in at the other), a gain, a band of frequencies
    and a stretch of time that are set to the clip's mean.
    """
    if not chance:
        return x
    count, _, bands, frames = x.shape

    def some() -> Tensor:
        return (torch.rand(count, 1, 1, 1, device=x.device) < chance).to(x.dtype)

    def uniform() -> Tensor:
        return torch.rand(count, 1, 1, 1, device=x.device)

    turn = ((2 * uniform() - 1) * config.AUGMENT_TURN * frames * some()).long()
    at = (torch.arange(frames, device=x.device) - turn) % frames  # (B, 1, 1, T)
    x = x.gather(3, at.expand_as(x))
    x = x + config.AUGMENT_GAIN * torch.randn(count, 1, 1, 1, device=x.device) * some()
    mean = x.mean((2, 3), keepdim=True)
    for axis, size in ((2, bands), (3, frames)):
        width = config.AUGMENT_MASK * size * uniform() * some()
        first = (size - width) * uniform()
        place = torch.arange(size, device=x.device).view([-1 if k == axis else 1 for k in range(4)])
        x = torch.where((place >= first) & (place < first + width), mean, x)
    return x
