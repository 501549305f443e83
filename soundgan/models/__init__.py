"""Generators and critics: what they are made of, and what is done with a trained generator."""

from __future__ import annotations

import torch
from torch import nn

from soundgan.settings import Config


def build(cfg: Config, num_classes: int) -> tuple[nn.Module, nn.Module]:
    """The recipe's generator and critic for `num_classes` classes, initialised, on the CPU."""
    return cfg.generator.build(cfg, num_classes), cfg.critic.build(cfg, num_classes)


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, with its kernels in the order that is quick there.

    On a CPU that is channels last (of two-dimensional ones): above all gradients come sooner.
    """
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
    return network.to(device, memory_format=layout)
