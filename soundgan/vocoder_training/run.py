"""What training changes: networks, optimisers, counters, random states; and how they are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundgan.audio import Transform
from soundgan.errors import Diverged, UserError
from soundgan.settings import Config
from soundgan.training import checkpoints
from soundgan.training.log import misfit_of_log
from soundgan.training.random_state import random_state, seed_everything
from soundgan.vocoder_training.kinds import Kind, kind_of
from soundgan.vocoder_training.settings import MAY_CHANGE, Common, Options, to_dict, waveforms_of

METRICS = ("critic_loss", "generator_loss", "adversarial", "features", "mel")
GENERATOR, CRITIC = ("generator", "generator_optimiser"), ("critic", "critic_optimiser")
COUNTERS = {
    **dict.fromkeys(("step", "epoch", "step_in_epoch", "since"), int),
    "seconds": float,
    "data": str,
}


@dataclass
class Run:
    """Everything that training changes, and that a checkpoint therefore holds."""

    options: Common
    kind: Kind
    waveforms: Config  # the recipe, its clips as raw audio
    device: torch.device
    generator: nn.Module
    critic: nn.Module | None  # the discriminators
    generator_optimiser: torch.optim.Optimizer
    critic_optimiser: torch.optim.Optimizer | None
    losses: Any
    transform: Transform  # to the clips that the generator is given
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
    def start(cls, options: Common, recipe: Config, device: torch.device) -> Run:
        """Seed every random state and build networks, optimisers and losses."""
        seed_everything(options.seed)
        kind = kind_of(options, recipe)
        networks = [None if part is None else part.to(device) for part in kind.build()]
        optimisers = (
            None
            if network is None
            else torch.optim.AdamW(
                network.parameters(),
                lr=options.learning_rate,
                betas=options.betas,
                weight_decay=options.weight_decay,
                fused=True,
            )
            for network in networks
        )
        waveforms, losses = waveforms_of(options, recipe), kind.losses(device)
        transform = Transform(kind.spectrograms).to(device)
        sums = torch.zeros(len(METRICS), device=device)
        return cls(
            options, kind, waveforms, device, *networks, *optimisers, losses, transform, sums
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
        state = {name: getattr(self, name).state_dict() for name in networks_of(self.options)}
        state |= {name: getattr(self, name) for name in (*COUNTERS, "sums")}
        state |= {"options": to_dict(self.options), "random": random_state(self.device)}
        return state | {"held_out": self.held_out} | {"held_out_digests": self.held_out_digests}

    def restore(self, state: dict) -> None:
        """Put this run where a checkpoint left it.

        Raises UserError naming whatever differs, or does not fit.
        """
        refuse_changes(self.options, self.run_dir, state)
        checkpoints.refuse_misfit(self.run_dir, self._misfits(state))
        for name in networks_of(self.options):
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
        for name in networks_of(self.options):
            own = getattr(self, name)
            if isinstance(own, nn.Module):
                reasons[name] = checkpoints.misfit_of_tensors(own.state_dict(), state[name])
            else:
                reasons[name] = checkpoints.misfit_of_optimiser(own, state[name])
        reasons["sums"] = checkpoints.misfit_of_tensor(self.sums, state["sums"])
        reasons["held_out"] = checkpoints.misfit_of_rows(state.get("held_out"))
        digests = state.get("held_out_digests", [])
        reasons["held_out_digests"] = checkpoints.misfit_of_texts(digests)
        reasons["log"] = misfit_of_log(state.get("log"))
        return reasons


def networks_of(options: Common) -> tuple[str, ...]:
    """The networks and optimisers that a run has, and its checkpoint holds."""
    alone = options.kind == "istft" and not options.adversarial_weight
    return GENERATOR if alone else (*GENERATOR, *CRITIC)


def refuse_changes(options: Common, run_dir: Path, state: dict) -> None:
    """Raise UserError, naming whatever differs, where a checkpoint is of another training."""
    kept = state.get("options")
    if isinstance(kept, dict):
        state = state | {"options": {"kind": Options.kind} | kept}  # there was one kind only
        if state["options"]["kind"] != options.kind:
            checkpoints.refuse_changes(
                run_dir, [f"kind {state['options']['kind']} -> {options.kind}"]
            )
    needed = (*networks_of(options), *COUNTERS, "sums", "random")
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
