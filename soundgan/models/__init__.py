"""Generators and critics: what they are made of, and what is done with a trained generator."""

from __future__ import annotations

import torch
from torch import nn

from soundgan.errors import UserError
from soundgan.settings import MOST_WEIGHTS, Config


def build(cfg: Config, num_classes: int) -> tuple[nn.Module, nn.Module]:
    """The recipe's generator and critic for `num_classes` classes, initialised, on the CPU.

    Raises UserError where the classes make a network too large.
    """
    refuse_size(cfg, num_classes)
    return cfg.generator.build(cfg, num_classes), cfg.critic.build(cfg, num_classes)


def refuse_size(cfg: Config, num_classes: int) -> None:
    """Raise UserError where a network would have more than MOST_WEIGHTS."""
    for name, part in (("generator", cfg.generator), ("critic", cfg.critic)):
        if (weights := part.size(cfg, num_classes)) > MOST_WEIGHTS:
            raise UserError(
                f"With {num_classes} classes the {name} would have {weights:.1e} weights, and "
                f"{MOST_WEIGHTS:.0e} at most can be trained: fewer classes, or shorter clips "
                "(sound), or fewer channels."
            )


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, with its kernels in the order that is quick there.

    On a CPU that is channels last (of two-dimensional ones): above all gradients come sooner.
    """
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
    return network.to(device, memory_format=layout)
