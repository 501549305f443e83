"""What training changes: networks, optimisers, counters, random states; and how they are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from soundgan.audio import Transform
from soundgan.errors import Diverged, UserError
from soundgan.settings import Config
from soundgan.training import checkpoints
from soundgan.training.log import misfit_of_log
from soundgan.training.random_state import random_state, seed_everything
from soundgan.vocoder_training.losses import Losses
from soundgan.vocoder_training.networks import build
from soundgan.vocoder_training.settings import (
    MAY_CHANGE,
    Options,
    spectrograms_of,
    to_dict,
    waveforms_of,
)

METRICS = ("critic_loss", "generator_loss", "adversarial", "features", "mel")
NETWORKS = ("generator", "critic", "generator_optimiser", "critic_optimiser")
COUNTERS = {
    **dict.fromkeys(("step", "epoch", "step_in_epoch", "since"), int),
    "seconds": float,
    "data": str,
}


@dataclass
class Run:
    """Everything that training changes, and that a checkpoint therefore holds."""

    options: Options
    waveforms: Config  # the recipe, its clips as raw audio
    device: torch.device
    generator: nn.Module
    critic: nn.Module  # the discriminators
    generator_optimiser: torch.optim.Optimizer
    critic_optimiser: torch.optim.Optimizer
    losses: Losses
    transform: Transform  # to the log-mels that the generator is given
    sums: Tensor  # of METRICS since the last row of the log
    step: int = 0  # finished steps
    epoch: int = 0  # finished epochs
    step_in_epoch: int = 0
    since: int = 0  # steps since the last row of the log
    seconds: float = 0.0  # the same
    data: str = ""  # fingerprint of the files
    held_out: list[list] | None = None  # rows of held_out.csv; None: an older version's checkpoint
    held_out_digests: list[str] = field(default_factory=list)  # of these clips

    @classmethod
    def start(cls, options: Options, recipe: Config, device: torch.device) -> Run:
        """Seed every random state and build networks, optimisers and losses."""
        seed_everything(options.seed)
        generator, critic = (network.to(device) for network in build(options))
        optimisers = (
            torch.optim.AdamW(
                network.parameters(),
                lr=options.learning_rate,
                betas=options.betas,
                weight_decay=options.weight_decay,
                fused=True,
            )
            for network in (generator, critic)
        )
        spectrograms, waveforms = spectrograms_of(recipe), waveforms_of(options, recipe)
        losses = Losses(options, spectrograms, device)
        transform = Transform(spectrograms).to(device)
        sums = torch.zeros(len(METRICS), device=device)
        return cls(
            options, waveforms, device, generator, critic, *optimisers, losses, transform, sums
        )

    @property
    def run_dir(self) -> Path:
        return self.waveforms.run_dir

    def means(self) -> dict[str, float]:
        """Means of METRICS since the last row; raises Diverged if one is NaN or Inf."""
        means = {k: s / self.since for k, s in zip(METRICS, self.sums.tolist())}
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(
                f"{', '.join(bad)} became NaN or Inf at step {self.step} or just before; training "
                f"stops. {self.run_dir} holds the last good state, if one was saved. Start another "
                "run (--run-name NAME) with a lower --learning-rate "
                f"(now {self.options.learning_rate:g})."
            )
        return means

    def state(self) -> dict:
        """The content of a checkpoint."""
        state = {name: getattr(self, name).state_dict() for name in NETWORKS}
        state |= {name: getattr(self, name) for name in (*COUNTERS, "sums")}
        state |= {"options": to_dict(self.options), "random": random_state(self.device)}
        return state | {"held_out": self.held_out} | {"held_out_digests": self.held_out_digests}

    def restore(self, state: dict) -> None:
        """Put this run where a checkpoint left it.

        Raises UserError naming whatever differs, or does not fit.
        """
        refuse_changes(self.options, self.run_dir, state)
        checkpoints.refuse_misfit(self.run_dir, self._misfits(state))
        for name in NETWORKS:
            getattr(self, name).load_state_dict(state[name])
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.sums.copy_(state["sums"])
        self.held_out = state.get("held_out")
        self.held_out_digests = state.get("held_out_digests", [])
        checkpoints.restore_random(self.run_dir, state["random"], self.device)
        before, now = state["options"].get("batch_size"), self.options.batch_size
        if before != now:
            again = ""
            if self.step_in_epoch:
                again = f"; the epoch had {self.step_in_epoch} steps and begins again"
                self.step_in_epoch = 0
            print(f"batch_size {before} -> {now}, as you ask for{again}.", flush=True)

    def _misfits(self, state: dict) -> dict[str, str]:
        """Why entries of a checkpoint cannot be those of this run, by name; "" where they can."""
        reasons = checkpoints.misfit_of_values(state, COUNTERS)
        for name in ("generator", "critic"):
            own = getattr(self, name).state_dict()
            reasons[name] = checkpoints.misfit_of_tensors(own, state[name])
        for name in ("generator_optimiser", "critic_optimiser"):
            reasons[name] = checkpoints.misfit_of_optimiser(getattr(self, name), state[name])
        reasons["sums"] = checkpoints.misfit_of_tensor(self.sums, state["sums"])
        reasons["held_out"] = checkpoints.misfit_of_rows(state.get("held_out"))
        digests = state.get("held_out_digests", [])
        reasons["held_out_digests"] = checkpoints.misfit_of_texts(digests)
        reasons["log"] = misfit_of_log(state.get("log"))
        return reasons


def refuse_changes(options: Options, run_dir: Path, state: dict) -> None:
    """Raise UserError, naming whatever differs, where a checkpoint is of another training."""
    needed = (*NETWORKS, *COUNTERS, "sums", "random")
    there = state.keys() if isinstance(state.get("options"), dict) else state.keys() - {"options"}
    if missing := [name for name in ("options", *needed) if name not in there]:
        raise UserError(
            f"The checkpoint in {run_dir} is none of a vocoder of this version (it lacks "
            f"{', '.join(missing)}): start another run with --run-name NAME."
        )
    old, new = state["options"], to_dict(options)
    changes = [
        f"{'from' if n == 'source' else n} {old.get(n)} -> {new[n]}"
        for n in new
        if n not in MAY_CHANGE and old.get(n) != new[n]
    ]
    checkpoints.refuse_changes(run_dir, changes)
