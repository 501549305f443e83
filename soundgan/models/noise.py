"""Noise for each place of a map, decided by the latent: the same sound has the same noise.

What is random in a texture need not come from z (Karras et al. 2019, StyleGAN, section 3.2). In
training the noise is fresh. To make sounds, it is a part of one fixed field of normal numbers, and
the latent says which part: whoever asks for a sound again gets it again, alone or in a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FIELD = (512, 4096)  # bands by frames; beyond, it begins anew
STEP = (101, 1009)  # from the part of one layer to that of the next
FINENESS = 64  # latents that differ by a 64th have the whole field between them


def keys(z: Tensor) -> Tensor:
    """Where in the field the noise of latents `z (B, latent_dim)` begins, `(B, 2)`, whole numbers.

    Exact on every device and in every batch: each is of one number of z, and a product with a power
    of two is not rounded.
    """
    ends = torch.stack([z[:, 0], z[:, -1]], dim=1).float() * FINENESS
    return ((ends - ends.floor()) * ends.new_tensor(FIELD)).floor()


class Field(nn.Module):
    """`field(keys (B, 2), layer, m, t)` -> normal numbers `(B, 1, m, t)`."""

    def __init__(self) -> None:
        super().__init__()
        numbers = torch.randn(FIELD, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        self.register_buffer("numbers", numbers, persistent=False)

    def forward(self, keys: Tensor, layer: int, bands: int, frames: int) -> Tensor:
        first = keys.long() + layer * torch.tensor(STEP, device=keys.device)  # (B, 2)
        rows = (first[:, :1] + torch.arange(bands, device=keys.device)) % FIELD[0]  # (B, m)
        columns = (first[:, 1:] + torch.arange(frames, device=keys.device)) % FIELD[1]  # (B, t)
        return self.numbers[rows[:, :, None], columns[:, None]][:, None]
