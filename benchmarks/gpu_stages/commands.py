"""What takes hours, on a machine of one's own: other programs of this folder, with what they need.

What each prints goes to OUT/<name>.txt; one that was stopped goes on with the same command.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from config import RECIPES
from gpu_stages.asked import ROOT, Asked, say
from soundgan.models.residual import ProjectionCritic

LAST = 25  # lines that are told


def words_of(asked: Asked) -> dict[str, list[str]]:
    """What follows `python` for each command."""
    data = ["--data-dir", asked.data_dir]
    device = ["--device", asked.device]
    published = [n for n, cfg in RECIPES.items() if not isinstance(cfg.critic, ProjectionCritic)]
    gpus = [str(n) for n in (1, 2, 4, 8) if n <= torch.cuda.device_count()]
    speed = ["benchmarks/speed.py", *data, *device]
    compare = ["benchmarks/compare.py", *data, *device, "--out", str(Path(asked.out, "compare"))]
    figure = ["--figure", str(Path(asked.out, "speed.png"))]
    return {
        "seeds": [*compare, "--minutes", "1", "2", "--seeds", "0", "1", "2"],
        "speed": [*speed, "--recipes", *published, "--profile", "--epochs", "-1", *figure],
        "ranks": [*speed, *(["--ranks", *gpus] if gpus else [])],
        "sizes": ["benchmarks/size.py", "--device", "cpu" if asked.device == "cpu" else "cuda"],
        "ablation": [
            *(*compare, "--variants", "ablation"),
            *("--minutes", "2", "--seeds", "0", "1", "2"),
        ],
    }


def command(item: str, asked: Asked) -> None:
    path = Path(asked.out, f"{item}.txt")
    with open(path, "w") as file:
        done = subprocess.run(
            [sys.executable, *words_of(asked)[item]], cwd=ROOT, stdout=file, stderr=file
        )
    say(asked.stage, item, code=done.returncode, last=path.read_text().splitlines()[-LAST:])
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {path} has what it said")
