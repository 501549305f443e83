"""Which recipe makes the better sounds in the same time? Trains each for so long, and scores it.

    python benchmarks/compare.py --data-dir data --minutes 10 20 40 --seeds 0 1 2
    python benchmarks/compare.py --variants best best:critic.augment=0 sn-wgan-gp

A variant is a recipe, with constants changed behind a colon by their full names; `objective=NAME`
makes a part another kind. Each is trained by `train.py` on the clock, stopped (SIGTERM) after each
of the minutes, scored by `evaluate.py` against the same held-out sounds, and continued;
scoring takes none of its time. Every scoring is a row of OUT/scores.csv as soon as it is there, and
the same command goes on where it was stopped.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from config import RECIPES  # noqa: E402
from soundgan import config_io  # noqa: E402
from soundgan.errors import Diverged, Interrupted  # noqa: E402
from soundgan.evaluation.scores import GENERATED, SCORES  # noqa: E402
from soundgan.settings import GRIFFIN_LIM, parts_of  # noqa: E402

FLATTEST = "flattest"  # diversity of the class that has the least: near 0 where one collapsed
CLOCK = "trained_seconds.txt"  # in the folder of a run
LONGEST_NAME = 100  # of a variant, as part of a folder's
AT_A_TIME = "at_a_time"  # sounds of which the figures are taken that depend on their number
COLUMNS = ("variant", "seed", "minutes", "step", "clips", AT_A_TIME, *SCORES, FLATTEST)


def added(*names: str) -> str:
    """The default with these constants as they are in `best`."""
    usual = config_io.flat(RECIPES["best"])
    changes = (f"{name}={usual[f'{name}.kind' if name in PARTS else name]}" for name in names)
    return f"sn-wgan-gp:{','.join(changes)}"


PARTS = tuple(parts_of(RECIPES["best"]))
LOSS = (
    *("objective", "objective.r1_r2_weight", "objective.r1_r2_every"),
    "optimiser.critic_steps",
)
RATES = ("optimiser.generator_lr", "optimiser.critic_lr")

# What `best` is made of, each taken away; and each that the default can have, added.
ABLATION = (
    "best",
    "best:sound.standardise=False",
    "best:objective=WassersteinGP,objective.gp_weight=10,objective.r1_r2_weight=0",
    "best:objective.r1_r2_weight=0",
    "best:objective.r1_r2_weight=30",
    "best:objective.r1_r2_every=1",
    "best:objective.r1_r2_by=difference",
    "best:objective.class_weight=0",
    "best:objective.latent_weight=0",
    "best:sound.jitter=0",
    "best:critic.augment=0",
    "best:optimiser.ema_half_life=0",
    "best:batch_size=16",
    "best:optimiser.generator_lr=2e-4,optimiser.critic_lr=2e-4",
    "best:optimiser.precision=fp32",
    # ... and its networks: all else of it, with those of the default.
    added("sound.standardise", *LOSS, "sound.jitter", "critic.augment", "optimiser.ema_half_life")
    + ",objective.l1_weight=0.0,critic.spectral_norm=False,critic.norm=none,"
    + added("batch_size", *RATES, "optimiser.precision").partition(":")[2],
    "sn-wgan-gp",
    added("sound.standardise"),
    added(*LOSS),
    added("critic.augment"),
    added("optimiser.ema_half_life"),
    added("batch_size"),
    added(*RATES),
    "sn-wgan-gp:objective.l1_weight=0",
    "sn-wgan-gp:critic.spectral_norm=False",
    "sn-wgan-gp:critic.norm=none",
    "sn-wgan-gp:objective.gp_weight=10",
    "sn-wgan-gp:optimiser.generator_lr=2e-5,optimiser.critic_lr=1e-4",
)


@dataclass(frozen=True)
class Options:
    """Train variants for the same time and score them."""

    data_dir: str = str(ROOT / "data")
    """Class folders."""
    holdout_dir: str = ""
    """Class folders to score against; empty: a tenth of DATA_DIR."""
    out: str = "compare"
    """Folder of the runs and of scores.csv."""
    variants: tuple[str, ...] = (*RECIPES,)
    """RECIPE or RECIPE:constant=value,constant=value; "ablation" stands for all of that."""
    minutes: tuple[float, ...] = (10.0, 20.0, 40.0)
    """After so many minutes of training (its start included) each is scored."""
    seeds: tuple[int, ...] = (0,)
    """One run of each variant a seed."""
    vocoder: str = GRIFFIN_LIM
    """For those on the grid of HiFi-GAN; empty: each recipe's own."""
    device: str = "auto"
    """auto, cuda, cpu."""


def seconds_of(run_dir: Path) -> float:
    """How long a run was trained."""
    return float(path.read_text()) if (path := run_dir / CLOCK).exists() else 0.0


def train_for(command: list[str], seconds: float, run_dir: Path) -> int:
    """Train for so many seconds at most, and note how many it were; returns the exit code."""
    start, before = time.perf_counter(), seconds_of(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
    finally:  # also where the comparison itself is stopped
        took = min(time.perf_counter() - start, seconds)
        (run_dir / CLOCK).write_text(f"{before + took:.3f}")
    if process.returncode not in (0, Interrupted.exit_code, Diverged.exit_code):
        sys.exit(f"{' '.join(command)}:\n{said.decode(errors='replace')[-2000:]}")
    return process.returncode


def run_name(variant: str, seed: int) -> str:
    """Folder of a run below OUT."""
    name = variant.replace(":", "_").replace("=", "-").replace(",", "_").replace("/", "-")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"
    return f"{name}-seed{seed}"


def recipe_of(variant: str) -> str:
    """Name of the recipe that a variant changes."""
    return variant.partition(":")[0]


def flags_of(variant: str) -> list[str]:
    """What a variant changes, as options of `train.py`."""
    flags = []
    for change in filter(None, variant.partition(":")[2].split(",")):
        name, _, value = change.partition("=")
        if value in ("True", "False"):
            flags.append(config_io.flag(name, value == "True"))
        else:
            flags += [config_io.flag(name), value]
    return flags


def words(variant: str, seed: int, options: Options) -> list[str]:
    """What follows `train.py` on the command line."""
    fields = {"data-dir": Path(options.data_dir).resolve()}
    fields |= {"output-dir": Path(options.out).resolve(), "run-name": run_name(variant, seed)}
    fields |= {"seed": seed, "device": options.device}
    fields |= {"epochs": 10**6, "score-every": 0, "sample-every": 10**6}
    if options.vocoder and "/" in RECIPES[recipe_of(variant)].vocoder:
        fields["vocoder"] = options.vocoder
    if options.holdout_dir:
        fields["holdout-dir"] = Path(options.holdout_dir).resolve()
    own = [x for key, value in fields.items() for x in (f"--{key}", str(value))]
    return [recipe_of(variant), *own, *flags_of(variant)]


def compare(variant: str, seed: int, options: Options, table: Path) -> None:
    """Train one variant on the clock and add its rows to the table."""
    command = [sys.executable, "train.py", *words(variant, seed, options)]
    run_dir = Path(options.out).resolve() / run_name(variant, seed)
    own = [r for r in rows_of(table) if (r["variant"], r["seed"]) == (variant, str(seed))]
    done = {float(row["minutes"]) for row in own}
    for minutes in sorted(set(options.minutes) - done):
        missing = round(60 * minutes - seconds_of(run_dir), 3)
        if missing < 0:
            print(f"{run_dir} was trained for longer than {minutes:g} min: not scored then.")
            continue
        if missing and train_for(command, missing, run_dir) == Diverged.exit_code:
            print(f"{variant}, seed {seed}: diverged before {minutes:g} min.", flush=True)
            return
        score = [sys.executable, "evaluate.py", str(run_dir)]
        subprocess.run(score, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        scores = json.loads((run_dir / "scores.json").read_text())
        add_all(table, variant, seed, minutes, scores)


def add_all(table: Path, variant: str, seed: int, minutes: float, scores: dict) -> None:
    """The row of a variant's sounds, and those of real ones that the table has not got yet."""
    spreads = [own["diversity"] for own in scores["per_class"].values()]
    flattest = min((s for s in spreads if s is not None), default=None)
    add(table, variant, seed, minutes, scores, scores["rows"][GENERATED] | {FLATTEST: flattest})
    known = {row["variant"] for row in rows_of(table)}
    for row, figures in scores["rows"].items():
        name = real_row(row, variant)
        if row != GENERATED and name not in known:
            add(table, name, seed, minutes, scores, figures)


def real_row(row: str, variant: str) -> str:
    """Name of a row of real sounds: recipes differ in what they cut, and in how it is vocoded."""
    return f"{row} ({recipe_of(variant)})"


def rows_of(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def add(table: Path, what: str, seed: int, minutes: float, scores: dict, figures: dict) -> None:
    """One row, shown and kept."""
    row = {"variant": what, "seed": seed, "minutes": minutes, "step": scores["step"]} | figures
    row[AT_A_TIME] = scores.get(AT_A_TIME)
    earlier = rows_of(table)
    names = [*dict.fromkeys([*earlier[0], *COLUMNS])] if earlier else COLUMNS
    lacking = earlier and len(names) > len(earlier[0])  # a table of before a figure was added
    with open(table, "w" if lacking else "a", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        if lacking or not earlier:
            writer.writeheader()
        writer.writerows([*(earlier if lacking else []), row])
    shown = ("accuracy", "frechet", "kernel", "coverage", "cas", "auc", "copy_ratio", "diversity")
    said = ", ".join(f"{n} {row[n]:.3g}" for n in shown if row.get(n) is not None)
    print(f"{what}, seed {seed}, {minutes:g} min, step {scores['step']}: {said}", flush=True)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    variants = [
        v for name in options.variants for v in (ABLATION if name == "ablation" else (name,))
    ]
    if unknown := sorted({*map(recipe_of, variants)} - set(RECIPES)):
        sys.exit(f"--variants: there is no recipe {', '.join(unknown)} ({', '.join(RECIPES)}).")
    Path(options.out).mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for seed in options.seeds:
        for variant in variants:
            compare(variant, seed, options, Path(options.out) / "scores.csv")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
