"""Random changes of spectrograms: those the generator is to learn, and those it is not.

`jitter` changes the training clips: the same sounds, nearer or farther, through another microphone.
`augment` changes real and generated ones alike before the critic sees them, and gradients pass
through (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"), so the
generator learns the unchanged sounds while a few hundred clips look like many to the critic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from soundgan.models.resampling import shift_bands, warp

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
    each = (len(x), 1, 1, 1)
    uniform = torch.rand(15, *each, device=x.device)
    return changed(x, uniform, torch.randn(3, *each, device=x.device), chance)


def changed(x: Tensor, uniform: Tensor, normal: Tensor, chance: float) -> Tensor:
    """What `augment` makes of `x (B, 1, M, T)` with the numbers it has drawn.

    `uniform (15, B, 1, 1, 1)` of [0, 1): turn, speed, shift; widths of the masks, where they begin;
    and whether a clip is changed (under `chance`) by turn, speed, shift, gain, tilt, bend, masks.
    `normal (3, B, 1, 1, 1)`: gain, tilt, bend. Of two masks, that of bands comes first.
    """
    bands, frames = x.shape[2:]
    ways, width, first, some = uniform.split([3, 2, 2, 8])
    some = (some < chance).to(uniform.dtype)
    turn, speed, shift = (2 * ways - 1) * some[:3]
    x = warp(x, (AUGMENT_SPEED * speed).exp(), (AUGMENT_TURN * frames * turn).trunc())

    gain, tilt, bend = normal * some[3:6]
    rise = torch.linspace(-1, 1, bands, device=x.device)[:, None]  # (M, 1)
    colour = torch.addcmul(AUGMENT_GAIN * gain, tilt, rise, value=AUGMENT_COLOUR)
    colour = torch.addcmul(colour, bend, 1 - 2 * rise.abs(), value=AUGMENT_COLOUR)  # (B, 1, M, 1)
    most = AUGMENT_PITCH * bands
    x = shift_bands(x + colour, (most * shift).round().long(), math.ceil(most))

    width = width * some[6:]
    masks = []
    for axis, (size, shape) in enumerate(((bands, (-1, 1)), (frames, (1, -1)))):
        wide = AUGMENT_MASK * size * width[axis]  # (B, 1, 1, 1)
        begin = (size - wide) * first[axis]
        place = torch.arange(size, device=x.device).view(shape)
        masks.append((place >= begin) & (place < begin + wide))
    return torch.where(masks[0] | masks[1], x.mean((2, 3), keepdim=True), x)
