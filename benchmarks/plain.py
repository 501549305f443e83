"""The step as one writes it first, and the loader that decodes each epoch: what `train.py` is
measured against.

Same networks, losses and updates, in plain eager PyTorch with the layers of `torch.nn`: the critic
scores real clips, generated clips and the points of the penalty in passes of their own, spectral
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
from soundgan import audio, dataset  # noqa: E402
from soundgan.models import layers  # noqa: E402
from soundgan.settings import Config  # noqa: E402
from soundgan.training.objectives import WassersteinClip, WassersteinGP  # noqa: E402
from soundgan.training.optimisers import Adam  # noqa: E402
from soundgan.training.run import Run  # noqa: E402


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


def optimisers(run: Run) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """New optimisers for the networks of a run, as PyTorch makes them by default."""
    own = run.cfg.optimiser
    pairs = ((run.generator, own.generator_lr), (run.critic, own.critic_lr))
    if isinstance(own, Adam):
        made = (torch.optim.Adam(n.parameters(), lr=r, betas=own.betas) for n, r in pairs)
    else:
        made = (torch.optim.RMSprop(n.parameters(), lr=r, alpha=own.alpha) for n, r in pairs)
    return tuple(made)


def penalty(critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, weight: float) -> Tensor:
    place = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    x = (place * real + (1 - place) * fake).requires_grad_()
    score = critic(x, labels).view(len(x), -1).mean(1)
    slope = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)[0]
    return weight * ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


def critic_update(
    run: Run, optimiser: torch.optim.Optimizer, real: Tensor, labels: Tensor
) -> float:
    objective, critic = run.cfg.objective, run.critic
    fake = run.generator(run.latents(len(real)), labels).detach()
    loss = objective.critic_loss(critic(real, labels), critic(fake, labels))
    if isinstance(objective, WassersteinGP):
        loss = loss + penalty(critic, real, fake, labels, objective.gp_weight)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if isinstance(objective, WassersteinClip):
        for weight in critic.parameters():
            weight.data.clamp_(-objective.weight_clip, objective.weight_clip)
    return loss.item()


def generator_update(
    run: Run, optimiser: torch.optim.Optimizer, real: Tensor, labels: Tensor
) -> float:
    objective = run.cfg.objective
    fake = run.generator(run.latents(len(real)), labels)
    loss = objective.generator_loss(run.critic(fake, labels), None)
    if objective.l1_weight:
        loss = loss + objective.l1_weight * nn.functional.l1_loss(fake, real)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def step(run: Run, pair: tuple[torch.optim.Optimizer, ...], real: Tensor, labels: Tensor) -> float:
    """One batch's updates, as `train.full_step` where a generator update is due."""
    own = run.cfg.optimiser
    updates = 1 if own.fresh_batches else own.critic_steps
    with layers.stock():
        for _ in range(updates):
            critic_update(run, pair[1], real, labels)
        return generator_update(run, pair[0], real, labels)
