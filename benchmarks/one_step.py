"""Is a replayed step the plain one? One step of each kind, from the same weights and noise.

    python benchmarks/one_step.py [--recipes best cgan] [--deterministic]

After many steps nothing could be told: Adam and RMSprop turn a gradient that is only rounding into
a whole step, and a few of those change every weight. So a run is brought to where each kind of
step has been captured, and its state (weights, buffers, optimisers, scaler, sums, noise) is kept.
From it goes each of

    plain      operation by operation: what the others are measured against
    again      the same once more: what cuDNN and atomics differ by from one time to the next
    rounded    the same with weights and clips moved about a unit in the last place of a product:
               what rounding in another order may do, whole steps of the optimisers included
    replayed   as the run makes it

and what it changed is compared. With `deterministic`, all but `rounded` must be equal bit for bit.
Prints a JSON line a kind of step. `compare` is also what the tests call.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
import train  # noqa: E402
from config import RECIPES  # noqa: E402
from soundgan.config_io import change  # noqa: E402
from soundgan.settings import Config  # noqa: E402
from soundgan.training import cuda_graph  # noqa: E402
from soundgan.training.devices import pick_device  # noqa: E402
from soundgan.training.run import Run  # noqa: E402

# How far `rounded` moves numbers, relative: four units in the last place of a float32; where
# products are rounded to fewer bits, a thirtieth of theirs: most of them are added up in float32.
NUDGES = {"fp32": 2.0**-21, "tf32": 2.0**-16, "fp16": 2.0**-16, "bf16": 2.0**-13}
ROOM = 10.0  # times the distance that rounding makes: other algorithms round more than once
LEAST = 1e-5  # of a distance that is worth a word: float32 sums in another order
WAYS = ("plain", "again", "rounded", "replayed")
CLASSES = 3
LOUDEST = {"ln": 1.0, "log1p": 6.0, "db": 1.0}  # about the highest value of a spectrogram

Parts = dict[str, Tensor]  # vectors of float64 on the CPU, by the name of what they belong to


def a_run(cfg: Config, device: torch.device) -> tuple[Run, Tensor, Tensor]:
    """A fresh run of `cfg`, and a batch of noise in the range of its clips `(B, *shape)` with
    labels `(B,)`. Sets the process's precision and determinism as training does."""
    device = pick_device(change(cfg, {"device": str(device)}))
    run = Run.start(cfg, [str(k) for k in range(CLASSES)] if cfg.conditional else [], device)
    low, high = -1.0, 1.0
    if not cfg.sound.raw:
        low, high = cfg.sound.quietest, LOUDEST[cfg.sound.compression]
    source = torch.Generator().manual_seed(0)
    x = torch.rand(cfg.batch_size, *cfg.shape, generator=source) * (high - low) + low
    labels = torch.arange(cfg.batch_size) % (CLASSES if cfg.conditional else 1)
    return run, x.to(device), labels.to(device)


def kinds_of_steps(run: Run) -> dict[cuda_graph.Kind, int]:
    """A step of each kind that the run makes, by kind."""
    before, kinds, cycle = run.step, {}, run.cycle
    for run.step in range(cycle):
        kinds.setdefault(train.kind_of_step(run), run.step)
    run.step = before
    return kinds


def changed_by_steps(run: Run) -> dict[str, dict[str, Tensor]]:
    """All tensors that a step changes, the run's own, by what they belong to."""
    parts = {"sums": {"sums": run.sums}}
    for name in ("generator", "critic", "average"):
        if network := getattr(run, name):
            parts[name] = dict([*network.named_parameters(), *network.named_buffers()])
    for name in ("generator_optimiser", "critic_optimiser"):
        state = getattr(run, name).state.values()
        for moment in {m for s in state for m in s}:
            kept = [s[moment] for s in state if torch.is_tensor(s.get(moment))]
            parts[f"{name}.{moment}"] = {str(k): v for k, v in enumerate(kept)}
    if run.scaler.is_enabled():
        scaler = {"scale": run.scaler._scale, "growth": run.scaler._growth_tracker}
        parts["scaler"] = {k: v for k, v in scaler.items() if v is not None}
    return parts


def noise_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def set_noise_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@dataclass
class Kept:
    """A run's state, to go back to: into the same tensors, whose places a graph knows."""

    tensors: dict[str, dict[str, Tensor]]  # copies
    noise: Tensor

    @classmethod
    def of(cls, run: Run) -> Kept:
        parts = changed_by_steps(run)
        copies = {p: {k: v.detach().clone() for k, v in t.items()} for p, t in parts.items()}
        return cls(copies, noise_state(run.device))

    @torch.no_grad()
    def restore(self, run: Run) -> None:
        for part, tensors in changed_by_steps(run).items():
            for name, value in tensors.items():
                value.copy_(self.tensors[part][name])
        set_noise_state(self.noise, run.device)


def vectors(parts: dict[str, dict[str, Tensor]]) -> Parts:
    """Each part as one vector."""
    return {
        part: torch.cat([v.detach().flatten().double().cpu() for v in tensors.values()])
        for part, tensors in parts.items()
        if tensors
    }


@torch.no_grad()
def nudged(run: Run, x: Tensor, step: int) -> Tensor:
    """Moves the weights of `run` as far as rounding does; returns `x` moved likewise."""
    source = torch.Generator(run.device).manual_seed(step)
    precision = run.cfg.optimiser.precision
    if precision == "fp32" and run.cfg.tf32 and run.device.type == "cuda":
        precision = "tf32"
    size = NUDGES[precision]

    def moved(value: Tensor) -> Tensor:
        noise = torch.randn(value.shape, generator=source, device=value.device)
        return value * (1 + size * noise)

    for network in (run.generator, run.critic):
        for weight in network.parameters():
            weight.copy_(moved(weight))
    return moved(x)


def distance(a: Parts, b: Parts) -> dict[str, float]:
    """Of what two steps changed, relative to the second; 0 where neither changed anything."""
    out = {}
    for part, change_b in b.items():
        size, apart = float(change_b.norm()), float((a[part] - change_b).norm())
        out[part] = apart / size if size else float(apart > 0)
    return out


def one_kind(
    run: Run, steps: cuda_graph.Stepper, x: Tensor, labels: Tensor, kind: cuda_graph.Kind
) -> dict:
    """A step of this kind each way, from where the run stands; where it stands is restored.

    A dict that JSON can hold: `replayed`, `again` and `rounded` are distances from `plain` by part
    (relative to what the step changes), `equal` and `repeats` whether the replayed step and the
    plain one done again are the plain one bit for bit, `noise` whether as many random numbers were
    drawn, `wrong` the parts whose distance is more than rounding makes.
    """
    kept, changes, after, noise = Kept.of(run), {}, {}, {}
    for way in WAYS:
        kept.restore(run)
        here = nudged(run, x, run.step) if way == "rounded" else x
        start = vectors(changed_by_steps(run))
        if way == "replayed":
            steps(here, labels, kind=kind)
        else:
            steps.work(here, labels)
        after[way] = vectors(changed_by_steps(run))
        changes[way] = {part: after[way][part] - start[part] for part in start}
        noise[way] = noise_state(run.device)
    kept.restore(run)
    again, rounded, replayed = (distance(changes[way], changes["plain"]) for way in WAYS[1:])
    bound = {p: max(LEAST, ROOM * max(again[p], rounded[p])) for p in again}
    failures = getattr(steps, "failed", {})  # why a kind has no graph
    equal, repeats = (
        all(torch.equal(after[way][p], after["plain"][p]) for p in again)
        for way in ("replayed", "again")
    )
    return {
        "kind": str(kind),
        "captured": kind in getattr(steps, "replays", ()),
        "failed": failures.get(kind, ""),
        "replayed": replayed,
        "again": again,
        "rounded": rounded,
        "equal": equal,
        "repeats": repeats,
        "noise": bool(torch.equal(noise["replayed"], noise["plain"])),
        "wrong": [p for p in again if not replayed[p] <= bound[p]],
    }


@contextmanager
def global_settings() -> Iterator[None]:
    """Within it `a_run` may set precision and determinism: afterwards they are what they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    mode = torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
        torch.set_deterministic_debug_mode(mode)


def compare(cfg: Config, device: torch.device | str) -> list[dict]:
    """A row of `one_kind` for each kind of step of `cfg`, after steps enough to capture each."""
    with global_settings():
        run, x, labels = a_run(cfg, torch.device(device))
        steps, kinds = train.make_stepper(run), kinds_of_steps(run)
        for kind, run.step in kinds.items():
            for _ in range(cuda_graph.WARM_UPS + 2):
                steps(x, labels, kind=kind)
        rows = []
        for kind, run.step in kinds.items():
            rows.append({"recipe": cfg.recipe, **one_kind(run, steps, x, labels, kind)})
        return rows


def main(recipes: tuple[str, ...] = tuple(RECIPES), deterministic: bool = False) -> None:
    """Compare replayed and plain steps of these recipes, at their own size, on this device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in recipes:
        for row in compare(change(RECIPES[name], {"deterministic": deterministic}), device):
            print(json.dumps({"deterministic": deterministic} | row), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
