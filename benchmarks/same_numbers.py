"""Do two checkouts of this program compute the same numbers, bit for bit?

    python benchmarks/same_numbers.py --old ../before --data-dir ../sounds

Both train every recipe for one epoch of 22 steps on the same clips, each in a process of its own,
then write one set of samples and one scoring. What they left is compared: weights, optimiser states
and random states, WAVs, scores and logs. Pictures are compared too, but may differ: how something
is drawn is no number. Names of weights may differ (a weight is known by its place), and so may
`seconds`. Exit code 1 if anything else differs.

A checkout may be older than version 0.1.0, whose modules lay side by side. Runs take some minutes a
recipe on one core, and threads, of which each process has one, do not change what comes out.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.image import imread
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
from config import RECIPES  # noqa: E402

CLASSES, CLIPS, BATCH = 4, 24, 4  # 88 clips after the holdout: 22 steps
WHOLE = "whole"  # an empty file in a run that is done
STEPS = 20  # at least: wavegan's generator follows every 5th, best's critic has a penalty every 4th
RUN = """
import sys
from pathlib import Path
sys.path[:0] = [""]
if Path("soundgan/evaluation/classifier.py").exists():
    from soundgan.evaluation import classifier
    assert classifier.STEPS == 600
    classifier.STEPS = 60
else:
    import config
    config.EAR_STEPS = 60
import train
sys.exit(train.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Options:
    """Train the recipes with two checkouts and compare all that comes out."""

    old: Path
    """The other checkout."""
    data_dir: Path
    """Folder of class folders: of the first four with 24 sounds or more, 24 sounds each."""
    new: Path = ROOT
    """The checkout to compare with it; this one unless said otherwise."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Which recipes."""
    out: Path | None = None
    """Keep the runs in this folder, as old/RECIPE and new/RECIPE; old ones are not repeated."""


# ---- the runs -----------------------------------------------------------------------------------


def link_clips(data_dir: Path, folder: Path) -> None:
    """Fill `folder` with links to just enough clips of `data_dir` for an epoch."""
    classes = [sorted(p for p in d.iterdir() if p.is_file()) for d in sorted(data_dir.iterdir())]
    enough = [files[:CLIPS] for files in classes if len(files) >= CLIPS][:CLASSES]
    if len(enough) < CLASSES:
        sys.exit(f"{data_dir} has too few classes of {CLIPS} sounds: it takes {CLASSES}.")
    for files in enough:
        inside = folder / files[0].parent.name
        inside.mkdir(parents=True, exist_ok=True)
        for path in files:
            link = inside / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())


def train(checkout: Path, recipe: str, data_dir: Path, folder: Path) -> Path:
    """Run one recipe of a checkout in `folder`, in another process; returns the run's folder."""
    run = folder / recipe
    shutil.rmtree(run, ignore_errors=True)
    flags = {
        "data-dir": data_dir.resolve(),
        "output-dir": folder.resolve(),
        "run-name": recipe,
        "epochs": 1,
        "batch-size": BATCH,
        "sample-every": 1,
        "score-every": 1,
        "score-clips": 4,
        "vocoder": "none" if RECIPES[recipe].sound.raw else "griffin-lim",
        "holdout": 0.1,
        "device": "cpu",
    }
    words = [str(word) for name, value in flags.items() for word in ("--" + name, value)]
    done = subprocess.run(
        [sys.executable, "-c", RUN, recipe, *words],
        cwd=checkout,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{checkout}, {recipe}: exit code {done.returncode}\n{done.stderr}")
    (run / WHOLE).touch()
    return run


# ---- what differs -------------------------------------------------------------------------------


def differences(old: Path, new: Path) -> Iterator[str]:
    """What differs between two runs, a line each."""
    yield from checkpoints(old, new)
    for path in both(old, new, "checkpoints/*.pt", "*.safetensors"):
        if path.suffix == ".safetensors" and contents(old / path) != contents(new / path):
            yield f"{path}: other weights"
    for path in both(old, new, "samples/**/*.wav"):
        if (old / path).read_bytes() != (new / path).read_bytes():
            yield str(path)
    for path in both(old, new, "*.csv"):
        yield from unlike(str(path), table(old / path), table(new / path), named=True)
    was, now = (json.loads((run / "scores.json").read_bytes()) for run in (old, new))
    for name in ("rows", "per_class"):
        yield from unlike(f"scores.json: {name}", was[name], now[name], named=True)


def both(old: Path, new: Path, *patterns: str) -> list[Path]:
    """Files, relative to their run, that one or the other of two runs has; each lacking is fatal,
    for reading it fails."""
    found = {path.relative_to(run) for run in (old, new) for p in patterns for path in run.glob(p)}
    return sorted(found)


def checkpoints(old: Path, new: Path) -> Iterator[str]:
    """What differs between the last checkpoints, and between the best ones."""
    for name in ("last.pt", "best.pt"):
        was, now = (
            torch.load(run / "checkpoints" / name, map_location="cpu", weights_only=True)
            for run in (old, new)
        )
        if name == "last.pt" and was["step"] < STEPS:
            yield f"nothing, but after {was['step']} steps only: take more sounds"
        for part in (
            *("generator", "critic", "average", "generator_optimiser", "critic_optimiser"),
            *("scaler", "sums", "random", "epoch", "step", "step_in_epoch", "generator_updates"),
            "classes",
        ):
            pair = [state[part] for state in (was, now)]
            yield from unlike(f"checkpoints/{name}: {part}", *pair)


def unlike(place: str, a: object, b: object, named: bool = False) -> Iterator[str]:
    """Where two nested values differ. Dicts are compared in their order; keys only if `named`."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            yield f"{place}: {a.dtype} {tuple(a.shape)}, {b.dtype} {tuple(b.shape)}"
        elif bits(a) != bits(b):
            far = (a.double() - b.double()).abs().max().item()
            yield f"{place}: values, by {far:.3g} at most"
    elif isinstance(a, dict) and isinstance(b, dict):
        if len(a) != len(b):
            yield f"{place}: {len(a)} and {len(b)} entries"
        for (key, one), (other_key, other) in zip(a.items(), b.items()):
            name = key if key == other_key else f"{key} ({other_key})"
            if named and key != other_key:
                yield f"{place}: {name}"
            yield from unlike(f"{place}: {name}", one, other, named)
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            yield f"{place}: {len(a)} and {len(b)} entries"
        for k, (one, other) in enumerate(zip(a, b)):
            yield from unlike(f"{place}[{k}]", one, other, named)
    elif type(a) is not type(b) or (a != b and not nan(a, b)):
        yield f"{place}: {a!r}, {b!r}"


def contents(path: Path) -> list[tuple]:
    """What the weights of a file are, without their names, by which the file sorts them."""
    return sorted((str(x.dtype), tuple(x.shape), bits(x)) for x in load_file(path).values())


def bits(x: torch.Tensor) -> bytes:
    return x.contiguous().numpy().tobytes()


def nan(a: object, b: object) -> bool:
    return isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV without their seconds."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(file)]


def pictures(old: Path, new: Path) -> str:
    """In words: how many pictures have other pixels."""
    paths = both(old, new, "samples/**/*.png", "*.png")
    others = [
        str(p)
        for p in paths
        if not ((old / p).exists() and (new / p).exists())
        or not np.array_equal(imread(old / p), imread(new / p))
    ]
    count = f"{len(paths) - len(others)} of {len(paths)} pictures equal"
    return f"{count} (others: {', '.join(others)})" if others else count


# ---- the command --------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = tyro.cli(Options, args=argv, description=__doc__)
    failed = False
    kept = nullcontext(options.out) if options.out else tempfile.TemporaryDirectory()
    with kept as folder:
        data_dir = Path(folder) / "data"
        link_clips(options.data_dir, data_dir)
        for recipe in options.recipes:
            old = Path(folder) / "old" / recipe
            if not (old / WHOLE).exists():
                train(options.old, recipe, data_dir, old.parent)
            new = train(options.new, recipe, data_dir, Path(folder) / "new")
            found = list(differences(old, new))
            failed = failed or bool(found)
            files = len(both(old, new, "samples/**/*.wav"))
            verdict = f"{len(found)} DIFFERENCES" if found else "same numbers"
            print(f"{recipe}: {verdict}; {files} WAVs; {pictures(old, new)}", flush=True)
            for line in found[:20]:
                print(f"  {line}", flush=True)
            if len(found) > 20:
                print(f"  ... and {len(found) - 20} more", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
