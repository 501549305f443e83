"""Random changes of spectrograms: those the generator is to learn, and those it is not.

`jitter` changes the training clips: the same sounds, nearer or farther, through another microphone.
`augment` changes real and generated ones alike before the critic sees them, and gradients pass
through (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"), so the
generator learns the unchanged sounds while a few hundred clips look like many to the critic.
"""

from __future__ import annotations

import torch
from torch import Tensor

JITTER_LEVEL = 0.2  # standard deviations (nepers): of a clip's level,
JITTER_TILT = 0.5  # and of its highest band beside its middle one
AUGMENT_TURN = 0.25  # of a clip's length, that it is turned along time at most
AUGMENT_SPEED = 0.3  # logarithm of the factor on it, at most (about a third)
AUGMENT_GAIN = 0.75  # standard deviation (nepers)
AUGMENT_COLOUR = 0.5  # the same, of the outermost bands beside the middle one
AUGMENT_PITCH = 0.09  # of the bands, that they are shifted at most
AUGMENT_MASK = 0.2  # of the bands, and of the frames, at most


def jitter(x: Tensor, strength: float, quietest: float) -> Tensor:
    """`x (B, 1, M, T)` natural log-mels, each clip at another level and with another tilt.

    Both are normal; `strength` is a factor on their deviations JITTER_LEVEL and JITTER_TILT, in
    nepers, the latter from the middle band to either end. Silence (`quietest`) stays silence.
    """
    if not strength:
        return x
    draw = torch.randn(2, len(x), 1, 1, 1, device=x.device)
    ramp = torch.linspace(-1, 1, x.shape[2], device=x.device)[:, None]  # (M, 1)
    change = strength * (JITTER_LEVEL * draw[0] + JITTER_TILT * draw[1] * ramp)
    return torch.where(x > quietest, x + change, x).clamp(min=quietest)


def augment(x: Tensor, chance: float) -> Tensor:
    """`x (B, 1, M, T)` log-mels, each clip changed in each of eight ways with probability `chance`.

    A turn along time (what leaves at one end comes in at the other), another speed, gain, tilt and
    bend of the colour, a shift along the bands (its edge repeated), a band of frequencies and a
    stretch of time that are set to the clip's mean.
    """
    if not chance:
        return x
    count, _, bands, frames = x.shape

    def some() -> Tensor:
        return (torch.rand(count, 1, 1, 1, device=x.device) < chance).to(x.dtype)

    def uniform() -> Tensor:
        return torch.rand(count, 1, 1, 1, device=x.device)

    def either_way(most: float) -> Tensor:
        return (2 * uniform() - 1) * most * some()

    turn = either_way(AUGMENT_TURN * frames).trunc()
    speed = either_way(AUGMENT_SPEED).exp()
    at = torch.arange(frames, device=x.device) * speed - turn  # (B, 1, 1, T), between frames
    left = at.floor().long()
    pair = [x.gather(3, (side % frames).expand_as(x)) for side in (left, left + 1)]
    x = torch.lerp(*pair, (at - left).to(x.dtype))

    rise = torch.linspace(-1, 1, bands, device=x.device)[:, None]  # (M, 1)
    loud, colour = AUGMENT_GAIN, AUGMENT_COLOUR
    for size, shape in (
        (loud, torch.ones_like(rise)),
        (colour, rise),
        (colour, 1 - 2 * rise.abs()),
    ):
        x = x + size * torch.randn(count, 1, 1, 1, device=x.device) * some() * shape

    shift = either_way(AUGMENT_PITCH * bands).round().long()
    at = (torch.arange(bands, device=x.device)[:, None] - shift).clamp(0, bands - 1)
    x = x.gather(2, at.expand_as(x))

    mean = x.mean((2, 3), keepdim=True)
    for axis, size in ((2, bands), (3, frames)):
        width = AUGMENT_MASK * size * uniform() * some()
        first = (size - width) * uniform()
        place = torch.arange(size, device=x.device).view([-1 if k == axis else 1 for k in range(4)])
        x = torch.where((place >= first) & (place < first + width), mean, x)
    return x
