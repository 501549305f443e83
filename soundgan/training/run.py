"""What training changes, and a checkpoint keeps: networks, optimisers, counters, random states."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from soundgan import config_io, dataset, models
from soundgan.errors import UserError
from soundgan.files import nfc
from soundgan.models.layers import Standardise
from soundgan.settings import Config
from soundgan.training import checkpoints, distributed
from soundgan.training.log import misfit_of_log
from soundgan.training.random_state import random_state, seed_everything, set_random_state

CRITIC_METRICS = ("critic_loss", "wasserstein", "gradient_penalty", "critic_grad_norm")
GENERATOR_METRICS = ("generator_loss", "l1", "generator_grad_norm")
METRICS = CRITIC_METRICS + GENERATOR_METRICS
SHORT_METRICS = ("C", "W", "gp", "|dC|", "G", "L1", "|dG|")  # in the progress bar

# What is saved is all that a step reads and changes; what can be derived from the constants (the
# order of an epoch, the latents of the samples) is not.
NETWORKS = ("generator", "critic", "generator_optimiser", "critic_optimiser", "scaler")
COUNTERS = {
    **dict.fromkeys(("epoch", "step", "step_in_epoch", "generator_updates"), int),
    "seconds": float,
    "data": str,
}


@dataclass
class Run:
    """Everything that training changes, and that a checkpoint therefore holds."""

    cfg: Config
    classes: list[str]
    device: torch.device
    generator: nn.Module
    critic: nn.Module
    generator_optimiser: torch.optim.Optimizer
    critic_optimiser: torch.optim.Optimizer
    average: nn.Module | None  # of the generator's weights over its updates (EMA)
    scaler: torch.amp.GradScaler  # of fp16; does nothing otherwise
    sums: Tensor  # of METRICS over the updates of this epoch, on the device
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps, over all epochs
    step_in_epoch: int = 0
    generator_updates: int = 0  # in this epoch
    seconds: float = 0.0  # spent on this epoch
    data: str = ""  # fingerprint of the files
    held_out: list[list] | None = None  # rows of held_out.csv; None: an older version's checkpoint
    held_out_digests: list[str] = field(default_factory=list)  # of these clips
    others: list[dict] = field(default_factory=list)  # random states of ranks 1, 2, ..., on rank 0

    @classmethod
    def start(cls, cfg: Config, classes: list[str], device: torch.device) -> Run:
        """Seed every random state and build the networks and their optimisers."""
        seed_everything(cfg.seed)
        generator, critic = (models.place(net, device) for net in models.build(cfg, len(classes)))
        own = cfg.optimiser
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
        optimisers = (
            own.build(list(generator.parameters()), own.generator_lr),
            own.build(list(critic.parameters()), own.critic_lr),
        )
        average = copy.deepcopy(generator).requires_grad_(False) if own.ema_half_life else None
        half = own.precision == "fp16" and device.type == "cuda"
        scaler = torch.amp.GradScaler(device.type, enabled=half)
        sums = torch.zeros(len(METRICS), device=device)
        return cls(cfg, classes, device, generator, critic, *optimisers, average, scaler, sums)

    @property
    def cycle(self) -> int:
        """Steps after which the kinds of steps come again: what the host decides of each."""
        own = self.cfg.optimiser
        updates = own.critic_steps if own.fresh_batches else 1
        return math.lcm(updates, self.cfg.objective.r1_r2_every)

    @property
    def networks(self) -> list[nn.Module]:
        return [self.generator, self.critic] + ([self.average] if self.average else [])

    @property
    def shown(self) -> nn.Module:
        """The generator that samples and scores are made with."""
        return self.average or self.generator

    def latents(self, count: int) -> Tensor:
        """Fresh `z (count, latent_dim)` from the device's random state."""
        shape = (count, self.cfg.latent_dim)
        if self.cfg.generator.latent == "uniform":
            return torch.rand(shape, device=self.device) * 2 - 1
        return torch.randn(shape, device=self.device)

    def mixed_precision(self, wanted: bool = True) -> torch.autocast:
        """The precision of forward passes; fp16 is a matter of CUDA, a CPU computes in fp32."""
        precision = self.cfg.optimiser.precision
        dtype = torch.float16 if precision == "fp16" else torch.bfloat16
        here = self.device.type == "cuda" or precision == "bf16"
        return torch.autocast(self.device.type, dtype, wanted and here and precision != "fp32")

    def standardise(self, clips: dataset.Clips, rows: np.ndarray) -> None:
        """Set the networks' mean and deviation of each band to those of the clips `rows`."""
        mean, deviation = map(torch.from_numpy, dataset.band_statistics(clips, rows))  # (M, 1)
        inside = (layer for network in self.networks for layer in network.modules())
        for layer in inside:
            if isinstance(layer, Standardise):
                layer.mean.copy_(mean)
                layer.deviation.copy_(deviation)

    def state(self) -> dict:
        """The content of a checkpoint."""
        state = {name: getattr(self, name).state_dict() for name in NETWORKS}
        state["average"] = self.average.state_dict() if self.average else None
        state |= {name: getattr(self, name) for name in (*COUNTERS, "sums", "classes")}
        state |= {"config": config_io.to_dict(self.cfg), "random": random_state(self.device)}
        return (
            state
            | {"random_others": self.others, "held_out": self.held_out}
            | {"held_out_digests": self.held_out_digests}
        )

    def restore(self, state: dict) -> None:
        """Put this run where a checkpoint left it.

        Raises UserError naming whatever differs, or does not fit.
        """
        refuse_other_constants(self.cfg, state)
        refuse_other_classes(self.cfg, self.classes, state)
        checkpoints.refuse_misfit(self.cfg.run_dir, self._misfits(state))
        for name in NETWORKS:
            for group in state[name].get("param_groups", ()):  # it may come from another device
                group["capturable"] = self.device.type == "cuda"
            if state[name]:  # a scaler that does nothing has no state
                getattr(self, name).load_state_dict(state[name])
        for optimiser in (self.generator_optimiser, self.critic_optimiser):
            match_layout(optimiser)
        if self.average:
            self.average.load_state_dict(state["average"])
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.sums.copy_(state["sums"])
        self.held_out = state.get("held_out")
        self.held_out_digests = state.get("held_out_digests", [])
        checkpoints.restore_random(self.cfg.run_dir, state["random"], self.device)
        self._take_other_batches(state["config"].get("batch_size", self.cfg.batch_size))

    def _misfits(self, state: dict) -> dict[str, str]:
        """Why entries of a checkpoint cannot be those of this run, by name; "" where they can."""
        reasons = checkpoints.misfit_of_values(state, COUNTERS)
        for name in ("generator", "critic"):
            own = getattr(self, name).state_dict()
            reasons[name] = checkpoints.misfit_of_tensors(own, state[name])
        if self.average:
            own = self.average.state_dict()
            reasons["average"] = checkpoints.misfit_of_tensors(own, state["average"])
        for name in ("generator_optimiser", "critic_optimiser"):
            reasons[name] = checkpoints.misfit_of_optimiser(getattr(self, name), state[name])
        reasons["sums"] = checkpoints.misfit_of_tensor(self.sums, state["sums"])
        numbers = isinstance(state["scaler"], Mapping) and all(
            isinstance(value, (int, float)) for value in state["scaler"].values()
        )
        reasons["scaler"] = "" if numbers else "it is no table of numbers"
        reasons["held_out"] = checkpoints.misfit_of_rows(state.get("held_out"))
        digests = state.get("held_out_digests", [])
        reasons["held_out_digests"] = checkpoints.misfit_of_texts(digests)
        reasons["log"] = misfit_of_log(state.get("log"))
        reasons["pace"] = checkpoints.misfit_of_pace(state.get("pace"))
        return reasons

    def _take_other_batches(self, before: int) -> None:
        """Where `--batch-size` was changed: an epoch that was begun is begun again."""
        now = self.cfg.batch_size
        if before == now:
            return
        again = ""
        if self.step_in_epoch:
            again = f"; epoch {self.epoch + 1} had {self.step_in_epoch} steps and begins again"
            self.step_in_epoch, self.generator_updates, self.seconds = 0, 0, 0.0
            self.sums.zero_()
        print(f"batch_size {before} -> {now}, as you ask for{again}.", flush=True)

    def set_own_noise(self, state: dict | None) -> None:
        """Give ranks 1, 2, ... random states of their own: the saved ones, where there are."""
        if not (rank := distributed.rank()):
            return
        seed_everything(distributed.noise_seed(self.cfg.seed, self.step))
        saved = state.get("random_others", []) if state else []
        if rank <= len(saved):
            set_random_state(saved[rank - 1], self.device)


def refuse_other_constants(cfg: Config, state: dict) -> None:
    """Raise UserError, naming whatever differs, where a checkpoint is of another training."""
    needed = (*NETWORKS, *COUNTERS, "average", "sums", "random", "classes")
    constants = state.get("config")
    constants = constants if isinstance(constants, Mapping) else {}
    config_io.refuse_old(constants, f"The checkpoint in {cfg.run_dir}")
    there = state.keys() if constants else state.keys() - {"config"}
    if missing := [name for name in ("config", *needed) if name not in there]:
        raise UserError(
            f"The checkpoint in {cfg.run_dir} was written by another program, or by another "
            f"version of this one (it lacks {', '.join(missing)}): start another run with "
            "--run-name NAME."
        )
    old, new = config_io.flatten(constants), config_io.flat(cfg)
    if old.get("recipe") != cfg.recipe:
        raise UserError(
            f"{cfg.run_dir} is a run of the recipe {old.get('recipe')}, and not of {cfg.recipe}: "
            "continue it with its own, or start another run beside it with --run-name NAME."
        )
    names, now = config_io.must_match(old, new), config_io.value_of
    changes = [f"{n} {now(old, n)} -> {now(new, n)}" for n in names]
    checkpoints.refuse_changes(cfg.run_dir, changes)


def refuse_other_classes(cfg: Config, classes: list[str], state: dict) -> None:
    """The same where its classes are others; `classes`: those of the sounds that there are."""
    before = state["classes"]
    names = isinstance(before, list) and all(isinstance(name, str) for name in before)
    reason = "" if names else "they are no list of names"
    checkpoints.refuse_misfit(cfg.run_dir, {"classes": reason})
    before = [nfc(name) for name in before]
    if before == classes:
        return
    gone, added = sorted(set(before) - set(classes)), sorted(set(classes) - set(before))
    change = f"classes (gone: {gone or 'none'}, new: {added or 'none'})"
    if not gone and not added:
        change = "the order of the classes"
    checkpoints.refuse_changes(cfg.run_dir, [change])


def match_layout(optimiser: torch.optim.Optimizer) -> None:
    """Give what was loaded the order in memory of the weights it belongs to.

    Kernels lie otherwise on another device (`models.place`), and fused steps go by places: they
    refuse moments in another order, or take those of other weights.
    """
    for weight, moments in optimiser.state.items():
        for name, value in moments.items():
            if value.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(value)
