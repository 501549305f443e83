"""How much does the size of a data set cost? Time to open it, and to read batches ahead from it.

    python benchmarks/size.py
    python benchmarks/size.py --counts 4000 --dense --cold

The decoded clips are made up: the cache is a sparse file (it takes 4 kB of disk a clip, and reads
as zeros), or with `--dense` one of noise (113 kB a clip). The sound files are empty.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
from config import RECIPES  # noqa: E402
from soundgan import dataset  # noqa: E402
from soundgan.config_io import change  # noqa: E402
from soundgan.dataset import Clips, cache  # noqa: E402
from soundgan.dataset.fingerprint import fingerprint_of  # noqa: E402
from soundgan.settings import Config  # noqa: E402
from soundgan.training.batches import Batches  # noqa: E402
from soundgan.training.devices import pick_device  # noqa: E402

CLASSES = 50


@dataclass(frozen=True)
class Options:
    """Measure data sets of several sizes."""

    counts: tuple[int, ...] = (400, 4_000, 40_000, 100_000)
    """Clips of each set."""
    batches: int = 500
    """Batches to read, at most an epoch."""
    recipe: str = "sn-wgan-gp"
    """Whose clips."""
    dense: bool = False
    """Write noise, not a sparse file."""
    cold: bool = False
    """Let the system forget the file before batches are read (Linux; of use with --dense)."""
    device: str = "cpu"
    """Where the batches go: cpu, cuda."""


@dataclass(frozen=True)
class Row:
    """What was measured of one size; seconds."""

    count: int
    find: float  # the sound files, by name
    open: float  # the decoded clips, checked, with a look at each file's size and times
    split: float  # what is held out
    batches: int
    stream: float  # all of these batches, from disk to device

    def __str__(self) -> str:
        ready = self.find + self.open + self.split
        return (
            f"{self.count:>7} clips: ready in {ready:.2f} s (find {self.find:.2f}, open "
            f"{self.open:.2f}, split {self.split:.2f}); {self.batches / self.stream:.0f} batches/s "
            f"read ahead (n = {self.batches})"
        )


def names_of(count: int) -> list[str]:
    """`count` files in class folders, sorted, three takes of each source."""
    return sorted(
        f"class{n % CLASSES:02d}/{n // CLASSES // 3:05d}-{'abc'[n // CLASSES % 3]}.wav"
        for n in range(count)
    )


def pretend(cfg: Config, found: dataset.Found, dense: bool = False) -> Path:
    """Keep what decoding `found` would have kept; returns the path of the clips.

    The last value of a clip is its number, so that no two are equal; the others are zeros, or
    (`dense`) noise, the same in every 64th clip.
    """
    labels = [int(name[5:7]) for name in found.files]
    count, values = len(labels), math.prod(cfg.shape)
    noise = np.random.default_rng(0).standard_normal((64, values - 1), dtype=np.float32)
    some = noise if dense else np.zeros((1, values - 1), np.float32)
    begun = [hashlib.blake2b(clip, digest_size=16) for clip in some]  # as files.digest

    def digest(row: int) -> str:
        total = begun[row % len(some)].copy()
        total.update(np.float32(row))
        return total.hexdigest()

    folder = cfg.cache_dir / cache._key(cfg, found.root)
    folder.mkdir(parents=True)
    clips = Clips(
        data=np.empty(0, np.float32),
        labels=labels,
        classes=[f"class{k:02d}" for k in range(max(labels) + 1)],
        files=found.files,
        numbers=[0] * count,
        seconds=[cfg.clip_seconds] * count,
        rates=[cfg.sound.sample_rate] * count,
        digests=[digest(row) for row in range(count)],
        left_out=[],
        root=str(found.root),
        fingerprint=fingerprint_of(cfg, found),
    )
    with open(folder / "clips.f32", "wb") as file:
        for row in range(count):
            if dense:
                file.write(some[row % len(some)])
            else:
                file.seek(4 * (values - 1), os.SEEK_CUR)
            file.write(np.float32(row).tobytes())
    cache.write_meta(folder, cfg, clips)
    return folder / "clips.f32"


def forget(path: Path) -> None:
    """Let the system drop what it keeps of a file in memory."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make_up(count: int, options: Options, folder: str) -> tuple[Config, Path]:
    """A data set in `folder`, found and decoded: its constants, and the file of its clips."""
    places = {"data_dir": f"{folder}/data", "output_dir": f"{folder}/outputs"}
    cfg = change(RECIPES[options.recipe], places | {"device": options.device})
    for name in names_of(count):
        path = Path(cfg.data_dir, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return cfg, pretend(cfg, dataset.find_clips(cfg), dense=options.dense)


def measure(count: int, options: Options) -> Row:
    """Time a run's way to its first batch, and the batches after it."""
    with tempfile.TemporaryDirectory() as folder:
        cfg, clips_file = make_up(count, options, folder)
        times = [time.perf_counter()]
        found = dataset.find_clips(cfg)
        times.append(time.perf_counter())
        clips = dataset.load_clips(cfg, found)
        times.append(time.perf_counter())
        rows = dataset.split(cfg, clips, known=False).training
        times.append(time.perf_counter())
        device = pick_device(cfg)
        coming = Batches(clips, rows, cfg, device, resident=False).epoch(0)
        if options.cold:
            forget(clips_file)
        start, read = time.perf_counter(), 0
        with closing(coming):
            for _ in itertools.islice(coming, options.batches):
                read += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        stream = time.perf_counter() - start
        find, opened, split = (b - a for a, b in itertools.pairwise(times))
        return Row(count, find, opened, split, read, stream)


if __name__ == "__main__":
    asked = tyro.cli(Options, description=__doc__)
    for count in asked.counts:
        print(measure(count, asked), flush=True)
