"""Kill a run without warning, again and again, and see whether it is still the same run.

    python benchmarks/resume.py --data-dir data --epochs 12 --kills 3

Trains once without interruption and once killed with SIGKILL at random moments and continued by the
same command. Then compares weights, optimisers, the log and every WAV, byte for byte (on the CPU),
and prints seconds and peak memory of the whole run.
"""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from config import RECIPES  # noqa: E402
from soundgan.settings import GRIFFIN_LIM  # noqa: E402


@dataclass(frozen=True)
class Options:
    """Kill a run without warning and compare it with one that was never killed."""

    data_dir: str = str(ROOT / "data")
    """Class folders to train on."""
    epochs: int = 12
    """Epochs of both runs."""
    kills: int = 3
    """How often the second run is killed."""
    seed: int = 0
    """Decides the moments of the kills."""
    keep: str = ""
    """Folder for both runs; empty: a temporary one."""
    recipe: str = "sn-wgan-gp"
    """Recipe to train."""
    background: bool = False
    """Make the killed run's samples in a second process, which must then not matter."""


def start(options: Options, folder: Path, background: bool = False) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train.py"), options.recipe]
    if "/" in RECIPES[options.recipe].vocoder:  # from the hub: not what is measured here
        command += ["--vocoder", GRIFFIN_LIM]
    command += ["--data-dir", options.data_dir, "--output-dir", str(folder), "--device", "cpu"]
    command += ["--epochs", str(options.epochs), "--sample-every", "5"]
    command += ["--background", "on" if background else "off"]
    log = open(folder.with_suffix(".log"), "a")  # noqa: SIM115 (the process writes to it)
    return subprocess.Popen(command, stdout=log, stderr=log)


def differences(a: Path, b: Path) -> list[str]:
    """Names of what is not the same in two runs, seconds aside."""
    found = []
    for path in sorted([*a.rglob("*.wav"), *a.rglob("*.safetensors")]):
        twin = b / path.relative_to(a)
        if not twin.exists() or twin.read_bytes() != path.read_bytes():
            found.append(str(path.relative_to(a)))
    rows = [
        [line.split(",")[:2] + line.split(",")[3:] for line in (r / "log.csv").open()]
        for r in (a, b)
    ]
    if rows[0] != rows[1]:
        found.append("log.csv")
    states = [torch.load(r / "checkpoints" / "last.pt", weights_only=True) for r in (a, b)]
    for name, value in flatten(states[0]).items():
        twin = flatten(states[1]).get(name)
        same = torch.equal(value, twin) if isinstance(value, torch.Tensor) else value == twin
        if not same and "config" not in name:
            found.append(f"last.pt: {name}")
    return found


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)) and len(value) < 100:
        items = enumerate(value)
    else:
        return {prefix: value}
    return {k: v for n, x in items for k, v in flatten(x, f"{prefix}/{n}").items()}


def main(options: Options) -> int:
    folder = Path(options.keep or tempfile.mkdtemp(prefix="resume-"))
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)

    began = time.perf_counter()
    if start(options, folder / "whole").wait() != 0:
        print(f"The run failed: see {folder / 'whole.log'}")
        return 1
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"Never stopped: {seconds:.0f} s, peak memory {peak:.2f} GiB", flush=True)

    for number in range(options.kills):
        wait = rng.uniform(0.1, 0.9) * seconds / options.kills
        process = start(options, folder / "killed", options.background)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        print(f"Kill {number + 1}: after {wait:.0f} s, exit code {code}", flush=True)
    if start(options, folder / "killed", options.background).wait() != 0:
        print(f"The killed run could not be continued: see {folder / 'killed.log'}")
        return 1

    found = differences(*(folder / name / options.recipe for name in ("whole", "killed")))
    print(
        f"Different: {', '.join(found)}" if found else "Identical: weights, optimisers, log, WAVs"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
