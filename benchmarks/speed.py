"""How fast is it, and what does that gain? One command, one table.

    python benchmarks/speed.py --data-dir data
    python benchmarks/speed.py --recipes sn-wgan-gp cgan --batches 16 64 --figure speed.png

For each recipe and batch size: the step of `train.py` and the plain one of `plain.py`, timed in
turns, so that whatever slows the machine slows both; their ratio with its spread; how near the step
is to the arithmetic floor of the device. Then the data: decoded the first time,
opened the second, and decoded again every epoch by a DataLoader. Then one set of samples.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import sys
import tempfile
import time
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

import audio  # noqa: E402
import dataset  # noqa: E402
import desk  # noqa: E402
import runs  # noqa: E402
import train  # noqa: E402
from config import GRIFFIN_LIM, RECIPES, Config  # noqa: E402


@dataclass(frozen=True)
class Options:
    """Measure the step, the data and the samples of some recipes."""

    data_dir: str = str(ROOT / "data")
    """Class folders."""
    recipes: tuple[str, ...] = ("sn-wgan-gp",)
    """Recipes to measure."""
    batches: tuple[int, ...] = ()
    """Batch sizes; none: the recipe's own."""
    turns: int = 5
    """Timed steps of each kind."""
    precision: str = ""
    """fp32, bf16 or fp16 for the fast step; empty: the recipe's own."""
    device: str = "auto"
    """auto, cuda, cpu."""
    figure: str = ""
    """PNG to draw; empty: none."""


@dataclass
class Row:
    """What was measured of one recipe at one batch size; seconds."""

    recipe: str
    batch: int
    plain: list[float]
    fast: list[float]
    flops: int  # of one fast step
    peak_gflops: float

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.plain, self.fast)]

    def cells(self) -> list[str]:
        fast, ratio = statistics.median(self.fast), statistics.median(self.ratios)
        floor = self.flops / self.peak_gflops / 1e9
        return [
            self.recipe,
            str(self.batch),
            f"{statistics.median(self.plain):.4g}",
            f"{fast:.4g}",
            f"{ratio:.2f} ({min(self.ratios):.2f} to {max(self.ratios):.2f})",
            f"{self.batch / fast:.4g}",
            f"{self.flops / 1e9:.4g}",
            f"{floor / fast:.0%}",
        ]


HEADS = ["recipe", "batch", "plain s", "fast s", "ratio", "clips/s", "GFLOP", "of the floor"]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, until the device has done it."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_gflops(device: torch.device) -> float:
    """The quickest that this device multiplies float32 numbers: large products and convolutions."""
    a = torch.randn(2048, 2048, device=device)
    x = torch.randn(16, 128, 20, 88, device=device).to(memory_format=torch.channels_last)
    w = torch.randn(256, 128, 4, 4, device=device).to(memory_format=torch.channels_last)
    works = (
        (2 * 2048**3, lambda: a @ a),
        (2 * 16 * 256 * 128 * 16 * 10 * 44, lambda: torch.conv2d(x, w, None, 2, 1)),
    )
    return max(n / min(seconds(f, device) for _ in range(20)) / 1e9 for n, f in works)


class Flops(TorchDispatchMode):
    """Counts the operations of products and convolutions, gradients of gradients included.

    PyTorch's own counter follows modules, which `autograd.grad` inside a loss does not allow.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def stepper(kind: str, cfg: Config, classes: list[str], real: Tensor, labels: Tensor, pipe) -> None:
    """A process that makes one kind of step whenever it is told to, and tells how long it took.

    Processes of their own, because how memory is kept holds for a whole process, and the plain
    script would not have it.
    """
    if kind == "fast":
        device = runs.pick_device(cfg)
        run = train.Run.start(cfg, classes, device)
    else:
        device = torch.device(
            "cuda" if cfg.device != "cpu" and torch.cuda.is_available() else "cpu"
        )
        run = train.Run.start(dataclasses.replace(cfg, precision="fp32"), classes, device)
        run.generator.to(memory_format=torch.contiguous_format)
        run.critic.to(memory_format=torch.contiguous_format)
    pair = plain.optimisers(run)
    real, labels = real.to(device), labels.to(device)
    run.step = cfg.critic_steps - 1  # the step that brings a generator update too
    step = train.full_step if kind == "fast" else plain.step
    rest = (run, real, labels) if kind == "fast" else (run, pair, real, labels)
    with Flops() as counter:
        step(*rest)
    pipe.send(counter.total)
    while pipe.recv():
        time.sleep(0.3)  # the threads of the other process go on waiting for work for a while
        pipe.send(seconds(lambda: step(*rest), device))


def measure(cfg: Config, clips: dataset.Clips, options: Options, peak: float) -> Row:
    """Time both steps in turns, after two of each to warm up."""
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
        flops = pipes[kind].recv()
    times: dict[str, list[float]] = {kind: [] for kind in pipes}
    for turn in range(1 + options.turns):
        for kind, pipe in pipes.items():
            pipe.send(True)
            taken = pipe.recv()
            if turn:  # the first one warms up
                times[kind].append(taken)
    for pipe, worker in zip(pipes.values(), workers):
        pipe.send(False)
        worker.join()
    return Row(cfg.recipe, cfg.batch_size, times["plain"], times["fast"], flops, peak)


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
    """Seconds for one set of sounds and pictures of every class."""
    device = runs.pick_device(cfg)
    classes = clips.classes if cfg.conditional else []
    run = train.Run.start(cfg, classes, device)
    vocoder, _ = audio.load_vocoder(cfg, device)
    samples = desk.Samples(cfg, classes, clips, np.arange(len(clips)), vocoder)
    samples.write(run.generator, 1)  # the first one also loads fonts and filters
    return seconds(lambda: samples.write(run.generator, 1), device)


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


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.recipes:
            cfg = dataclasses.replace(
                RECIPES[name],
                data_dir=options.data_dir,
                output_dir=folder,
                device=options.device,
                precision=options.precision or RECIPES[name].precision,
            )
            if "/" in cfg.vocoder:  # from the hub: not what is measured here
                cfg = dataclasses.replace(cfg, vocoder=GRIFFIN_LIM)
            device = runs.pick_device(cfg)
            for what, taken, rate in data_times(cfg):
                print(f"{name}: {what}: {taken:.3g} s {rate}", flush=True)
            clips = dataset.load_clips(cfg, dataset.find_clips(cfg))
            print(f"{name}: a set of samples: {sample_seconds(cfg, clips):.3g} s", flush=True)
            peak = peak_gflops(device)
            for batch in options.batches or (cfg.batch_size,):
                sized = dataclasses.replace(cfg, batch_size=batch)
                rows.append(measure(sized, clips, options, peak))
                print(text_table([HEADS, rows[-1].cells()]), flush=True)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{device}"
    note = f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    note += f", n = {options.turns} steps of each kind in turns; floor at {peak:.0f} GFLOP/s"
    print(text_table([HEADS, *(row.cells() for row in rows)]))
    print(note)
    if options.figure:
        draw(options.figure, rows, note.replace(", n =", "\nn ="))


if __name__ == "__main__":
    main()
