"""Everything that needs a GPU, in one command: check, time, train.

    python benchmarks/gpu.py --data-dir data --out gpu

Runs the tests that need CUDA, times every recipe (plain and replayed steps, a profile, batches of
16 to 256, data sets of several sizes, bf16, as many ranks as there are GPUs), trains the default
and `best` from beginning to end, and scores all six after one and two minutes, with three seeds;
last and longest, each part of `best` and of the default likewise (--only leaves parts out). What
each prints goes to OUT/<part>.txt; one that fails does not stop the others, and one that was given
up goes on with the same command. Nothing is fetched: samples are played by Griffin-Lim unless
--vocoder says other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from config import RECIPES  # noqa: E402
from soundgan.models.residual import ProjectionCritic  # noqa: E402
from soundgan.settings import GRIFFIN_LIM  # noqa: E402

CHECKS = ("tests/training/test_cuda.py", "tests/training/test_batches.py")
GRACE = 30.0  # s that what a part started has for saving


@dataclass(frozen=True)
class Options:
    """Check, time and train on the GPU of this machine."""

    data_dir: str = str(ROOT / "data")
    """Class folders."""
    holdout_dir: str = ""
    """Class folders to score against; empty: a tenth of DATA_DIR."""
    out: str = "gpu"
    """Folder for everything that is printed, drawn and trained."""
    vocoder: str = GRIFFIN_LIM
    """Of the whole run; "" takes the recipe's own, which is fetched once."""
    only: tuple[str, ...] = ()
    """Parts to run; none: all of them."""
    minutes: float = 300.0
    """After so many minutes a part is given up."""


def parts(options: Options, out: Path) -> dict[str, list[str]]:
    """The command of each part."""
    data = str(Path(options.data_dir).resolve())
    speed = ["benchmarks/speed.py", "--data-dir", data, "--turns", "20"]
    vocoder = ["--vocoder", options.vocoder] if options.vocoder else []
    published = [n for n, cfg in RECIPES.items() if not isinstance(cfg.critic, ProjectionCritic)]
    gpus = [str(n) for n in (1, 2, 4, 8) if n <= torch.cuda.device_count()]
    held = ["--holdout-dir", str(Path(options.holdout_dir).resolve())]
    sounds = ["--data-dir", data, *(held if options.holdout_dir else [])]
    run = [*sounds, "--output-dir", str(out / "runs"), *vocoder]
    compare = ["benchmarks/compare.py", *sounds, "--out", str(out / "compare")]
    return {
        "checks": ["-m", "pytest", "-q", "-rP", *CHECKS],
        "whole": ["train.py", *run],
        "best": ["train.py", "best", *run],
        "compare": [*compare, "--minutes", "1", "2", "--seeds", "0", "1", "2"],
        "steps": [*speed, "--recipes", *published, "--profile", "--figure", str(out / "speed.png")],
        "batches": [*speed, "--batches", "16", "64", "256", "--ranks", *gpus],
        "compiled": [*speed, "--batches", "16", "256", "--compile"],
        "bf16": [*speed, "--batches", "16", "256", "--precision", "bf16"],
        "sizes": ["benchmarks/size.py", "--device", "cuda"],
        "ablation": [
            *compare,
            *("--variants", "ablation", "--minutes", "2", "--seeds", "0", "1", "2"),
        ],
    }


def run_part(command: Sequence[str], said: IO[str], minutes: float) -> str:
    """Run Python with these words, for so many minutes at most; returns how it ended.

    It has a process group of its own, so that what it started ends with it.
    """
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=said, stderr=said, start_new_session=True
    )
    try:
        code = process.wait(timeout=60 * minutes)
        return "done" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        return f"given up after {minutes:g} minutes (--minutes)"
    finally:
        end_group(process)


def end_group(process: subprocess.Popen) -> None:
    """SIGTERM to all of a process group, and SIGKILL to those that take longer than GRACE."""
    with suppress(ProcessLookupError):  # none is left
        os.killpg(process.pid, signal.SIGTERM)
        last = time.monotonic() + GRACE
        while time.monotonic() < last:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if not torch.cuda.is_available():
        print("Error: PyTorch sees no CUDA GPU here; benchmarks/speed.py measures a CPU.")
        return 2
    out = Path(options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    commands = parts(options, out)
    if unknown := sorted(set(options.only) - set(commands)):
        print(f"Error: --only {' '.join(unknown)}: the parts are {', '.join(commands)}.")
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    failed = []
    for name in options.only or commands:
        start = time.perf_counter()
        with open(out / f"{name}.txt", "w") as file:
            how = run_part(commands[name], file, options.minutes)
        if how != "done":
            failed.append(name)
        print(f"\n== {name}: {how}, {time.perf_counter() - start:.1f} s", flush=True)
        print("\n".join((out / f"{name}.txt").read_text().splitlines()[-25:]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
