"""How fast is it, and what does that gain? One command, one table.

    python benchmarks/speed.py --data-dir data
    python benchmarks/speed.py --recipes sn-wgan-gp cgan --batches 16 64 --ranks 1 2 --profile

For each recipe and batch size: the step of `train.py` and the plain one of `plain.py`, timed in
turns, so that whatever slows the machine slows both; how near the step comes to the floor of the
device, which is arithmetic or memory, whichever takes longer; their ratio with its spread. On CUDA
each turn is STEPS of them back to back, after the clock was raised: a single one would measure the
way there, and a GPU that idles. Then what else a run consists of: the data decoded the first time,
opened the second, and decoded again every epoch by a DataLoader; a set of samples with its page;
whole runs; the same on several ranks.
`size.py` beside this one has the cost of 400 to 100 000 clips.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import plain  # noqa: E402
import timing  # noqa: E402

import train  # noqa: E402
from config import RECIPES  # noqa: E402
from soundgan import audio, dataset, report, run_folder  # noqa: E402
from soundgan.config_io import change  # noqa: E402
from soundgan.models.residual import ProjectionCritic  # noqa: E402
from soundgan.report.samples import Samples  # noqa: E402
from soundgan.settings import GRIFFIN_LIM, Config  # noqa: E402
from soundgan.training.devices import peak_memory, pick_device  # noqa: E402
from soundgan.training.run import Run  # noqa: E402


@dataclass(frozen=True)
class Options:
    """Measure the step, the data, the samples and whole runs of some recipes."""

    data_dir: str = str(ROOT / "data")
    """Class folders."""
    recipes: tuple[str, ...] = ("sn-wgan-gp",)
    """Recipes to measure."""
    batches: tuple[int, ...] = ()
    """Batch sizes; none: the recipe's own."""
    turns: int = 5
    """Turns of each kind: a step, on CUDA STEPS of them."""
    warm_ups: int = 4
    """Steps of each kind before: memory is taken, kernels are chosen, graphs are captured."""
    precision: str = ""
    """fp32, bf16 or fp16 for the fast step; empty: the recipe's own."""
    compile: bool = True
    """The constant of that name, for the fast step."""
    vocoder: str = GRIFFIN_LIM
    """For the samples and the whole runs of recipes that would fetch one; empty: fetch it."""
    epochs: int = 0
    """Also time whole runs (`python train.py`, samples and scores included) of so many epochs; -1:
    the recipe's own number."""
    ranks: tuple[int, ...] = ()
    """Also time an epoch of the first recipe on so many ranks each."""
    profile: bool = False
    """Also say where the time of both steps goes: by operations, on CUDA by kernels of the steps
    as they were timed (torch.profiler)."""
    device: str = "auto"
    """auto, cuda, cpu."""
    figure: str = ""
    """PNG to draw; empty: none."""


STEPS = 20  # that are timed at once on CUDA
PROFILED = 5  # that are profiled at once there

# ---- the floor ----------------------------------------------------------------------------------


class Work(TorchDispatchMode):
    """Counts what products and convolutions compute and must move, gradients of gradients included.

    Everything between them could be part of their kernels, so a floor has only these. PyTorch's own
    counter follows modules, which `autograd.grad` inside a loss does not allow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
            there = (*args, *(out if isinstance(out, (tuple, list)) else (out,)))
            self.bytes += sum(t.numel() * t.element_size() for t in there if torch.is_tensor(t))
        return out


@dataclass(frozen=True)
class Ceiling:
    """The most that a device was seen to do, in one second."""

    flops: float
    bytes: float

    def floor(self, work: tuple[int, int]) -> float:
        """Least seconds for (operations, bytes)."""
        return max(work[0] / self.flops, work[1] / self.bytes)

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.0f} GFLOP/s and {self.bytes / 1e9:.0f} GB/s"


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, until the device has done it."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def ceiling(device: torch.device) -> Ceiling:
    """Large products and convolutions of float32 numbers (TF32 where training uses it); a copy."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device)
    x = torch.randn(16, 128, 20, 88, device=device).to(memory_format=torch.channels_last)
    w = torch.randn(256, 128, 4, 4, device=device).to(memory_format=torch.channels_last)
    works = (
        (2 * size**3, lambda: a @ a),
        (2 * 16 * 256 * 128 * 16 * 10 * 44, lambda: torch.conv2d(x, w, None, 2, 1)),
    )
    flops = max(n / min(seconds(f, device) for _ in range(20)) for n, f in works)
    y = torch.randn(2**28 if device.type == "cuda" else 2**25, device=device)
    z = torch.empty_like(y)
    return Ceiling(flops, 2 * y.nbytes / min(seconds(lambda: z.copy_(y), device) for _ in range(9)))


# ---- steps --------------------------------------------------------------------------------------


@dataclass
class Row:
    """What was measured of one recipe at one batch size; seconds, bytes."""

    recipe: str
    batch: int
    plain: list[float]
    fast: list[float]
    floor: float
    memory: int  # most that the process of the fast step held

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.plain, self.fast)]

    def cells(self) -> list[str]:
        fast, ratio = statistics.median(self.fast), statistics.median(self.ratios)
        return [
            self.recipe,
            str(self.batch),
            f"{statistics.median(self.plain):.4g}",
            f"{fast:.4g}",
            f"{self.floor / fast:.0%}",
            f"{ratio:.2f} ({min(self.ratios):.2f} to {max(self.ratios):.2f})",
            f"{self.batch / fast:.4g}",
            f"{self.memory / 2**30:.2f}",
        ]


HEADS = ["recipe", "batch", "plain s", "fast s", "of the floor", "ratio", "clips/s", "GiB"]


class Stopwatch(TorchDispatchMode):
    """Seconds of each operation, one after the other."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.times = device, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = []
        taken = seconds(lambda: out.append(func(*args, **(kwargs or {}))), self.device)
        self.times[func._overloadpacket.__name__] += taken
        return out[0]


KINDS = {
    "convolutions": ("convolution",),
    "their gradients": ("convolution_backward",),
    "norms": ("native_group_norm", "native_batch_norm", "_native_batch_norm", "cudnn_batch_norm"),
    "leaky_relu, relu": ("leaky_relu", "relu", "threshold"),
    "products": ("mm", "addmm", "bmm", "mv"),
    "optimiser": ("_fused_adam", "_foreach"),
}


def kind_of(operation: str) -> str:
    """Which row of a profile an operation belongs to."""
    for kind, names in KINDS.items():
        whole = kind in ("convolutions", "their gradients", "products")
        if any(operation == n if whole else operation.startswith(n) for n in names):
            return kind
    return timing.REST


def profile(
    step: Callable[[], object], made: Callable[[], object], device: torch.device
) -> dict[str, float]:
    """Seconds of one step by kind of operation: of `step`, which launches each by itself (measuring
    makes many small ones slower); on CUDA of the kernels of steps as they are `made`."""
    if device.type == "cuda":
        return timing.by_kind(timing.kernels(made, PROFILED, device))
    with Stopwatch(device) as watch:
        step()
    kinds = Counter()
    for operation, taken in watch.times.items():
        kinds[kind_of(operation)] += taken
    return dict(kinds)


def time_of(make: Callable[[], object], device: torch.device) -> float:
    """Seconds of one step, of those that follow one: the other process has had the caches."""
    timing.raise_clock(device)
    make()
    if device.type == "cuda":
        return timing.back_to_back(make, STEPS, device).mean
    return seconds(make, device)


def stepper(kind: str, cfg: Config, classes: list[str], real: Tensor, labels: Tensor, pipe) -> None:
    """A process that makes one kind of step whenever it is asked to, and says how long it took.

    Processes of their own, because how memory is kept holds for a whole process, and the plain
    script would not have it.
    """
    if kind == "fast":
        device = pick_device(cfg)
        run = Run.start(cfg, classes, device)
        step = train.make_stepper(run)
        make = lambda *batch: step(*batch, kind=train.kind_of_step(run))  # noqa: E731
    else:
        on_cuda = cfg.device != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if on_cuda else "cpu")
        run = Run.start(change(cfg, {"optimiser.precision": "fp32"}), classes, device)
        for network in (run.generator, run.critic):
            network.to(memory_format=torch.contiguous_format)
        pair = plain.optimisers(run)
        make = lambda *batch: plain.step(run, pair, *batch)  # noqa: E731
    batch = real.to(device), labels.to(device)
    run.step = cfg.optimiser.critic_steps - 1  # the step that brings a generator update too
    answers = {
        "count": lambda: _counted(lambda: train.full_step(run, *batch)),
        "time": lambda: time_of(lambda: make(*batch), device),
        "profile": lambda: profile(_once(kind, run, make, batch), lambda: make(*batch), device),
        "memory": lambda: _most_memory(device),
    }
    while asked := pipe.recv():
        time.sleep(0.3)  # the threads of the other process go on waiting for work for a while
        pipe.send(answers[asked]())


def _once(kind: str, run: Run, make: Callable, batch: tuple) -> Callable[[], object]:
    """One step, operation by operation."""
    return lambda: train.full_step(run, *batch) if kind == "fast" else make(*batch)


def _counted(step: Callable[[], object]) -> tuple[int, int]:
    with Work() as work:
        step()
    return work.flops, work.bytes


def _most_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def measure(cfg: Config, clips: dataset.Clips, options: Options, most: Ceiling) -> Row:
    """Time both steps in turns, after some of each to warm up."""
    rows = np.resize(np.arange(len(clips)), cfg.batch_size)  # small sets are repeated
    real, labels = torch.from_numpy(np.array(clips.data[rows])), torch.tensor(clips.labels)[rows]
    classes = clips.classes if cfg.conditional else []
    start = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for kind in ("plain", "fast"):
        pipes[kind], theirs = start.Pipe()
        work = (kind, cfg, classes, real, labels, theirs)
        workers.append(start.Process(target=stepper, args=work, daemon=True))
        workers[-1].start()
        theirs.close()  # so that the end of the worker is the end of the pipe

    def ask(kind: str, what: str):
        pipes[kind].send(what)
        return pipes[kind].recv()

    times: dict[str, list[float]] = {kind: [] for kind in pipes}
    for turn in range(options.warm_ups + options.turns):
        for kind in pipes:
            taken = ask(kind, "time")
            if turn >= options.warm_ups:
                times[kind].append(taken)
    memory = ask("fast", "memory")
    if options.profile:
        parts = {kind: ask(kind, "profile") for kind in pipes}
        print(f"{cfg.recipe}, batch {cfg.batch_size}: seconds of one step by kind of operation")
        names = [n for n in (*KINDS, "copies", timing.REST) if any(n in p for p in parts.values())]
        cells = [[n, *(f"{parts[kind].get(n, 0):.3f}" for kind in pipes)] for n in names]
        print(text_table([["", *pipes], *cells]), flush=True)
    floor = most.floor(ask("fast", "count"))
    for pipe, worker in zip(pipes.values(), workers):
        pipe.send("")
        worker.join()
    return Row(cfg.recipe, cfg.batch_size, times["plain"], times["fast"], floor, memory)


# ---- what else a run consists of ----------------------------------------------------------------


def data_times(cfg: Config) -> list[tuple[str, float, str]]:
    """Seconds to decode the first time, to open the second, and an epoch of a plain DataLoader."""
    found = dataset.find_clips(cfg)
    start = time.perf_counter()
    clips = dataset.load_clips(cfg, found)
    first = time.perf_counter() - start
    start = time.perf_counter()
    dataset.load_clips(cfg, dataset.find_clips(cfg))
    second = time.perf_counter() - start
    files = plain.Files(cfg, dataset.recordings(clips, range(len(clips))))
    loader = DataLoader(files, cfg.batch_size, shuffle=True, drop_last=True)
    start = time.perf_counter()
    for _ in loader:
        pass
    again = time.perf_counter() - start
    count = len(clips)
    return [
        ("decoded the first time", first, f"{count / first:.0f} clips/s"),
        ("opened the next time", second, ""),
        ("an epoch of a DataLoader that decodes", again, f"{count / again:.0f} clips/s"),
    ]


def sample_seconds(cfg: Config, clips: dataset.Clips) -> float:
    """Seconds for one set of sounds and pictures of every class, and the page."""
    device = pick_device(cfg)
    classes = clips.classes if cfg.conditional else []
    run = Run.start(cfg, classes, device)
    vocoder, _ = audio.load_vocoder(cfg, device)
    samples = Samples(cfg, classes, clips, np.arange(len(clips)), vocoder)
    run_folder.write_config(cfg, classes)
    samples.write_real()  # which also loads fonts and filters

    def a_set() -> None:
        samples.write(run.generator, 1)
        report.write_pages(cfg.run_dir)

    a_set()
    return seconds(a_set, device)


def train_in(cfg: Config, name: str, world: int, **fields: object) -> tuple[float, list[float]]:
    """Train with `python train.py`, or on several ranks: seconds in all, and of each epoch."""
    command = [sys.executable, str(ROOT / "train.py"), cfg.recipe]
    if world > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    fields |= {"run_name": name, "data_dir": cfg.data_dir, "output_dir": cfg.output_dir}
    fields |= {"vocoder": cfg.vocoder, "device": cfg.device}
    for field, value in fields.items():
        command += [f"--{field.replace('_', '-')}", str(value)]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // world))}
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr}")
    taken = time.perf_counter() - start
    with open(Path(cfg.output_dir, name, "log.csv"), newline="") as file:
        return taken, [float(row["seconds"]) for row in csv.DictReader(file)]


def whole_run(cfg: Config, epochs: int) -> str:
    epochs = cfg.epochs if epochs < 0 else epochs
    taken, each = train_in(cfg, "whole", 1, epochs=epochs)
    return f"{cfg.recipe}: {epochs} epochs in {taken:.1f} s, {sum(each):.1f} s of them in steps"


def on_ranks(cfg: Config, counts: tuple[int, ...]) -> list[str]:
    """Seconds of the second epoch on so many ranks; the first one also warms up."""
    lines = []
    for world in counts:
        quiet = {"score_every": 0, "sample_every": 100}
        each = train_in(cfg, f"ranks{world}", world, epochs=2, **quiet)[1]
        lines.append(f"{cfg.recipe}, batch {cfg.batch_size}: {each[1]:.1f} s an epoch on {world}")
    return lines


# ---- the report ---------------------------------------------------------------------------------


def text_table(rows: list[list[str]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)


def draw(path: str, rows: list[Row], title: str) -> None:
    """Bars of clips a second, plain and fast, by recipe and batch size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.55 * len(rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for offset, name in ((-0.2, "plain"), (0.2, "fast")):
        times = [getattr(row, name) for row in rows]
        rates = [row.batch / statistics.median(t) for row, t in zip(rows, times)]
        low = [r - row.batch / max(t) for r, row, t in zip(rates, rows, times)]
        high = [row.batch / min(t) - r for r, row, t in zip(rates, rows, times)]
        places = [k + offset for k in range(len(rows))]
        axes.barh(places, rates, 0.38, xerr=(low, high), capsize=2, label=name)
    axes.set_yticks(range(len(rows)), [f"{row.recipe}, batch {row.batch}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("clips a second, full step (median; whiskers: slowest and quickest)")
    axes.set_title(title, fontsize=9)
    axes.legend()
    figure.savefig(path)


def asked_for(name: str, options: Options, folder: str) -> Config:
    """A recipe with what the options change; ends the program where it cannot be measured."""
    recipe = RECIPES[name]
    if isinstance(recipe.critic, ProjectionCritic):
        sys.exit(f"--recipes {name}: plain.py has only the published systems.")
    changes = {"data_dir": options.data_dir, "output_dir": folder, "device": options.device}
    changes["compile"] = options.compile
    if options.precision:
        changes["optimiser.precision"] = options.precision
    if "/" in recipe.vocoder and options.vocoder:
        changes["vocoder"] = options.vocoder
    return change(recipe, changes)


def around(cfg: Config) -> list[str]:
    """What data and samples of a recipe take."""
    said = [f"{cfg.recipe}: {what}: {taken:.3g} s {rate}" for what, taken, rate in data_times(cfg)]
    clips = dataset.load_clips(cfg, dataset.find_clips(cfg))
    taken = sample_seconds(cfg, clips)
    return [*said, f"{cfg.recipe}: a set of samples and the page: {taken:.3g} s"]


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    rows: list[Row] = []
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.recipes:
            cfg = asked_for(name, options, folder)
            device = pick_device(cfg)
            said += around(cfg)
            print("\n".join(said[-4:]), flush=True)
            clips = dataset.load_clips(cfg, dataset.find_clips(cfg))
            most = ceiling(device)
            for batch in options.batches or (cfg.batch_size,):
                rows.append(measure(change(cfg, {"batch_size": batch}), clips, options, most))
                print(text_table([HEADS, rows[-1].cells()]), flush=True)
            if options.epochs:
                said.append(whole_run(cfg, options.epochs))
            if options.ranks and name == options.recipes[0]:
                said += on_ranks(cfg, options.ranks)
    count = f"{options.turns} times {STEPS}" if device.type == "cuda" else f"{options.turns}"
    note = f"{timing.name_of(device)}, which reaches {most} (the floor)"
    note += f", n = {count} steps of each kind in turns"
    print("\n".join([text_table([HEADS, *(row.cells() for row in rows)]), *said, note]))
    if options.figure:
        draw(options.figure, rows, note.replace(", n =", "\nn ="))


if __name__ == "__main__":
    main()
