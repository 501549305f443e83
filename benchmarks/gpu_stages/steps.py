"""How long a step takes: as one writes it first, operation by operation, and replayed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import one_step
import plain
import timing
import torch

import train
from gpu_stages.asked import Asked, say
from soundgan.config_io import change
from soundgan.models.residual import ProjectionCritic
from soundgan.settings import Config
from soundgan.training import cuda_graph
from soundgan.training.run import Run

PLAIN, REPLAYED = 12, 60  # steps that are timed of each
PROFILED = 5
SHOWN = 8  # kernels, the longest


@dataclass
class Made:
    """A run that has made its first steps, and what makes the next ones."""

    run: Run
    step: cuda_graph.Stepper
    batch: tuple[torch.Tensor, torch.Tensor]
    first: float  # s that the first step took: cuDNN's search, kernels loaded
    kinds: dict[cuda_graph.Kind, int]

    def eager(self) -> None:
        self.step.work(*self.batch)

    def as_a_run(self, kind: cuda_graph.Kind) -> Callable[[], None]:
        """Steps as a run makes them, after those that come before a capture."""
        make = lambda: self.step(*self.batch, kind=kind)  # noqa: E731
        for _ in range(cuda_graph.WARM_UPS + 2):
            make()
        return make

    def share(self, kind: cuda_graph.Kind) -> float:
        """How many of a run's steps are of this kind."""
        before, count, cycle = self.run.step, 0, self.run.cycle
        for self.run.step in range(cycle):
            count += train.kind_of_step(self.run) == kind
        self.run.step = before
        return count / cycle

    def failure(self, kind: cuda_graph.Kind) -> str:
        """Why there is no graph of such steps."""
        return getattr(self.step, "failed", {}).get(kind, "")


def made(cfg: Config, device: torch.device, prepare: Callable[[Run], None] | None = None) -> Made:
    """A run of a recipe, with a batch, after its first step; `prepare`: what is done before."""
    run, *batch = one_step.a_run(cfg, device)
    if prepare:
        prepare(run)
    step, start = train.make_stepper(run), time.perf_counter()
    run.step = max(one_step.kinds_of_steps(run).values())
    step.work(*batch)
    synchronize(device)
    first = time.perf_counter() - start
    return Made(run, step, tuple(batch), first, one_step.kinds_of_steps(run))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget(device: torch.device) -> None:
    """Give back the memory of what is no longer there, and count anew what is held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> dict[str, float]:
    """Most GiB of the device that were held since `forget`."""
    return {"gib": torch.cuda.max_memory_allocated(device) / 2**30} if device.type == "cuda" else {}


def plain_ms(cfg: Config, device: torch.device, count: int) -> float:
    """Milliseconds of a step of `plain.py`, with PyTorch's own settings."""
    run, *batch = one_step.a_run(change(cfg, {"optimiser.precision": "fp32"}), device)
    for network in (run.generator, run.critic):
        network.to(memory_format=torch.contiguous_format)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with one_step.global_settings():
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = False, True, False
        pair = plain.optimisers(run)
        make = lambda: plain.step(run, pair, *batch)  # noqa: E731
        for _ in range(4 if count > 2 else 1):
            make()
        timing.raise_clock(device)
        return 1e3 * timing.back_to_back(make, count, device).mean


def replayed(own: Made, kind: cuda_graph.Kind, count: int) -> dict[str, object]:
    """Milliseconds of steps as a run makes them."""
    device, start = own.run.device, time.perf_counter()
    own.run.step = own.kinds[kind]
    make = own.as_a_run(kind)
    synchronize(device)
    ready = time.perf_counter() - start
    timing.raise_clock(device, 0.3)
    times = timing.back_to_back(make, count, device)
    return {
        "captured": kind in getattr(own.step, "replays", ()),
        "failed_capture": own.failure(kind),
        "capture_s": ready,
        "ms": 1e3 * times.mean,
        "median_ms": 1e3 * times.median,
        "finite": bool(torch.isfinite(own.run.sums).all()),
    }


def steps(recipe: str, asked: Asked) -> None:
    """Time each kind of step; the plain script has those with a generator update only."""
    device, cfg = asked.on(), asked.config(recipe)
    few, many = (2, 2) if asked.tiny else (PLAIN, REPLAYED)
    published = not isinstance(cfg.critic, ProjectionCritic)
    script = plain_ms(cfg, device, few) if published else None
    forget(device)
    with one_step.global_settings():
        own = made(cfg, device)
        for kind, number in own.kinds.items():
            own.run.step = number
            own.eager()  # cuDNN may search once more
            timing.raise_clock(device)
            eager = timing.back_to_back(own.eager, few, device)
            found = {"kind": str(kind), "share": own.share(kind), "batch": cfg.batch_size}
            found |= {"first_s": own.first, "eager_ms": 1e3 * eager.mean}
            if script and kind.generator:
                found["plain_ms"] = script
            found |= replayed(own, kind, many) | memory(device)
            say(asked.stage, recipe, device, **found)


def kernels(recipe: str, asked: Asked) -> None:
    """Kernels of each kind of step, replayed and one by one: CUPTI has missed some of graphs."""
    device, cfg = asked.on(), asked.config(recipe)
    count = 1 if asked.tiny else PROFILED
    with one_step.global_settings():
        own = made(cfg, device)
        for kind, number in own.kinds.items():
            own.run.step = number
            make = own.as_a_run(kind)
            found, plainly = (timing.kernels(step, count, device) for step in (make, own.eager))
            say(
                *(asked.stage, recipe, device),
                kind=str(kind),
                share=own.share(kind),
                captured=kind in getattr(own.step, "replays", ()),
                kernels=round(sum(k.count for k in found)),
                busy_ms=1e3 * sum(k.seconds for k in found),
                kernels_one_by_one=round(sum(k.count for k in plainly)),
                busy_one_by_one_ms=1e3 * sum(k.seconds for k in plainly),
                by_kind_ms={name: 1e3 * s for name, s in timing.by_kind(found).items()},
                longest=[[k.name[:80], k.count, 1e3 * k.seconds] for k in found[:SHOWN]],
            )
