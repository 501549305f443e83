"""The optimisers that a recipe can have: Adam and RMSprop, each with its constants."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from soundgan.parts import Need
from soundgan.settings import Config, Optimiser


@dataclass(frozen=True, kw_only=True)
class Adam(Optimiser):
    """Adam (Kingma & Ba 2015)."""

    betas: tuple[float, float]
    """Decay rates of the two moments."""

    def build(self, weights: list[torch.Tensor], rate: float) -> torch.optim.Optimizer:
        captured = weights[0].is_cuda  # counts its steps on the device, as a graph must
        return torch.optim.Adam(weights, lr=rate, betas=self.betas, fused=True, capturable=captured)

    def check(self, cfg: Config, need: Need) -> None:
        super().check(cfg, need)
        need(all(0 <= b < 1 for b in self.betas), "betas", "must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimiser):
    """RMSprop (Tieleman & Hinton 2012)."""

    alpha: float = 0.99
    """Decay rate of the squared gradients."""

    def build(self, weights: list[torch.Tensor], rate: float) -> torch.optim.Optimizer:
        captured = weights[0].is_cuda
        return torch.optim.RMSprop(weights, lr=rate, alpha=self.alpha, capturable=captured)

    def check(self, cfg: Config, need: Need) -> None:
        super().check(cfg, need)
        need(0 <= self.alpha < 1, "alpha", "must lie in [0, 1)")
