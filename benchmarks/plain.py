"""The step as one writes it first, and the loader that decodes each epoch: what `train.py` is
measured against.

Same networks, losses and updates, in plain eager PyTorch with the layers of `torch.nn`: the critic
judges real clips, generated clips and the points of the penalty in passes of their own, spectral
norm iterates in each of them, the generator's update also computes the critic's gradients and
throws them away, Adam walks over the parameters one by one, and every epoch reads every file again.
Nothing is slowed down on purpose; it is how the published scripts do it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import audio  # noqa: E402
import dataset  # noqa: E402
import layers  # noqa: E402
import train  # noqa: E402
from config import Config  # noqa: E402


class Files(Dataset):
    """Clips `(1, *S)` and labels, decoded and transformed whenever they are asked for."""

    def __init__(self, cfg: Config, recordings: list[dataset.Recording]) -> None:
        self.cfg, self.recordings, self.transform = cfg, recordings, audio.Transform(cfg)

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        recording = self.recordings[index]
        wave = audio.read_clip(self.cfg, recording.path, recording.number)
        return self.transform(wave[None])[0], recording.label


def optimisers(run: train.Run) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """New optimisers for the networks of a run, as PyTorch makes them by default."""
    cfg = run.cfg
    pairs = ((run.generator, cfg.generator_lr), (run.critic, cfg.critic_lr))
    if cfg.optimiser == "rmsprop":
        made = (torch.optim.RMSprop(n.parameters(), lr=r, alpha=cfg.betas[1]) for n, r in pairs)
    else:
        made = (torch.optim.Adam(n.parameters(), lr=r, betas=cfg.betas) for n, r in pairs)
    return tuple(made)


def penalty(critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, weight: float) -> Tensor:
    place = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    x = (place * real + (1 - place) * fake).requires_grad_()
    score = critic(x, labels).view(len(x), -1).mean(1)
    slope = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)[0]
    return weight * ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


def critic_update(
    run: train.Run, optimiser: torch.optim.Optimizer, real: Tensor, labels: Tensor
) -> float:
    cfg, critic = run.cfg, run.critic
    fake = run.generator(run.latents(len(real)), labels).detach()
    loss = train.critic_loss(cfg, critic(real, labels), critic(fake, labels))
    if cfg.objective == "wgan-gp":
        loss = loss + penalty(critic, real, fake, labels, cfg.gp_weight)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if cfg.objective == "wgan-clip":
        for weight in critic.parameters():
            weight.data.clamp_(-cfg.weight_clip, cfg.weight_clip)
    return loss.item()


def generator_update(
    run: train.Run, optimiser: torch.optim.Optimizer, real: Tensor, labels: Tensor
) -> float:
    cfg = run.cfg
    fake = run.generator(run.latents(len(real)), labels)
    loss = train.generator_loss(cfg, run.critic(fake, labels))
    if cfg.l1_weight:
        loss = loss + cfg.l1_weight * nn.functional.l1_loss(fake, real)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def step(
    run: train.Run, pair: tuple[torch.optim.Optimizer, ...], real: Tensor, labels: Tensor
) -> float:
    """One batch's updates, as `train.full_step` where a generator update is due."""
    updates = 1 if run.cfg.fresh_batches else run.cfg.critic_steps
    with layers.stock():
        for _ in range(updates):
            critic_update(run, pair[1], real, labels)
        return generator_update(run, pair[0], real, labels)
