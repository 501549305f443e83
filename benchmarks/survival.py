"""Kill, damage and mislead the program, and count what it survives.

    python benchmarks/survival.py
    python benchmarks/survival.py --only kills --kills 1000 --seed 7
    python benchmarks/survival.py --only files --trial 37

Trains tiny runs (seconds) on made-up tones. Some are killed with SIGKILL at random moments and at
chosen writes and continued by the same command; sound files, checkpoints, caches, logs and lists
are damaged; disks are full; two processes want the same; clocks go back. What comes of each is
compared with a run that nothing happened to: weights, optimisers, log, WAVs and scores, bit for
bit. Prints one table, and every trial that was not survived with the number that repeats it.

With --data-dir the kills are of a run with a recipe's own constants on sounds of yours, without
scores. Needs Linux.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # a process with threads cannot be forked
from survival_trials import damage, disks, endurance, kills, neighbours, sounds  # noqa: E402
from survival_trials.results import SURVIVED, Results, Trial, markdown  # noqa: E402
from survival_trials.scene import Scene, prepare  # noqa: E402
from survival_trials.tiny import Setting  # noqa: E402

import config  # noqa: E402
from soundgan import files  # noqa: E402
from soundgan.console import friendly  # noqa: E402
from soundgan.errors import UserError, nearest  # noqa: E402
from soundgan.settings import GRIFFIN_LIM  # noqa: E402


@dataclass(frozen=True)
class Options:
    """Kill, damage and mislead the program, and count what it survives."""

    kills: int = 100
    """SIGKILLs, half at random moments, half before or within chosen writes."""
    worker: int = 6
    """SIGKILLs of runs whose samples and scores a worker process makes."""
    sounds: int = 500
    """Damaged sound files."""
    files: int = 200
    """Damaged files of a run, its cache and its vocoder."""
    disks: int = 30
    """Moments at which the disk is full."""
    neighbours: int = 12
    """Pairs of processes, and clocks that are set back."""
    epochs: int = 1000
    """Epochs over which memory and open files must stay as they are."""
    only: tuple[str, ...] = ()
    """Parts to make, by the names above; none: all."""
    trial: int = -1
    """Number of the one trial to make, of the one part that --only names; -1: all."""
    seed: int = 0
    """Decides all that is random, with the trial's number."""
    keep: str = ""
    """Folder for the trials; empty: a temporary one, which is removed where all was survived."""
    markdown: str = ""
    """File to write the table to; where it holds the marks BEGIN and END, between these."""
    json_lines: str = ""
    """File to write every trial to, one a line."""
    data_dir: str = ""
    """Class folders to train on in the kills, with the recipe's own constants; empty: tiny runs."""
    recipe: str = "sn-wgan-gp"
    """Recipe of the kills, with --data-dir."""
    run_epochs: int = 12
    """Epochs of each run of the kills, with --data-dir."""


# Number of trials of each part: the option of its name.
PARTS = ("kills", "worker", "sounds", "files", "disks", "neighbours", "epochs")
BEGIN, END = "<!-- survival: begin -->", "<!-- survival: end -->"  # of the table's place in a page
OWN_SOUNDS = ("kills", "worker")  # parts that --data-dir is for


def trials_of(part: str, scene: Scene, options: Options, results: Results) -> Iterator[Trial]:
    """The trials of a part."""
    count = getattr(options, part)
    if part in ("kills", "worker"):
        return kills.kills(scene, count, part)
    if part == "sounds":
        return sounds.damaged_sounds(scene, count)
    if part == "files":
        return damage.damaged_files(scene, count)
    if part == "disks":
        return disks.full_disks(scene, count)
    if part == "neighbours":
        return neighbours.neighbours(scene, count)
    return endurance.many_epochs(scene, count, results)


def own_setting(options: Options) -> Setting | None:
    """What --data-dir and the options beside it ask for."""
    if not options.data_dir:
        return None
    constants: dict[str, object] = {"device": "cpu", "epochs": options.run_epochs}
    constants |= {"sample-every": 5, "score-every": 0, "background": "off"}  # scores take minutes
    if "/" in config.RECIPES[options.recipe].vocoder:  # from the hub: not what is tried here
        constants["vocoder"] = GRIFFIN_LIM
    data = Path(options.data_dir).resolve()
    return Setting(data, options.recipe, tuple(constants.items()))


def checked(options: Options) -> tuple[str, ...]:
    """The parts to make; raises UserError for options that contradict each other."""
    usual = OWN_SOUNDS if options.data_dir else PARTS
    only = options.only or tuple(part for part in usual if getattr(options, part) > 0)
    for part in only:
        if part not in usual:
            raise UserError(f"--only {part}: the parts are {', '.join(usual)}.")
    if options.trial >= 0 and len(only) != 1:
        raise UserError("--trial needs the part that it is of: --only PART.")
    if options.recipe not in config.RECIPES:
        raise UserError(f"--recipe {options.recipe}: {nearest(options.recipe, [*config.RECIPES])}")
    if not Path("/proc/self/statm").exists():
        raise UserError("This needs Linux: processes are forked, and their memory is read.")
    return only


def command_of(part: str, options: Options) -> str:
    """What repeats all trials of a part."""
    words = ["python benchmarks/survival.py", "--only", part, f"--{part}", getattr(options, part)]
    words += ["--seed", options.seed] if options.seed else []
    words += ["--data-dir", options.data_dir] if options.data_dir else []
    return " ".join(map(str, words))


def make(options: Options, parts: tuple[str, ...], folder: Path) -> Results:
    """All trials, shown as they come."""
    results = Results()

    def show(trial: Trial) -> None:
        if trial.outcome != SURVIVED:
            print(f"{trial.outcome}: {trial.part} {trial.number}, {trial.note[:300]}", flush=True)

    scene = prepare(folder, options.seed, options.trial, own_setting(options))
    results.figures["a run that nothing happens to"] = (
        f"{scene.epochs} epochs, {scene.seconds:.1f} s, "
        f"{len(scene.operations)} operations on files, peak memory {scene.peak / 2**30:.2f} GiB"
    )
    for part in parts:
        print(f"{part}: {getattr(options, part)} ...", flush=True)
        results.collect(trials_of(part, scene, options, results), show)
    return results


def write_table(path: Path, table: str) -> None:
    """Write the table to a file, or into the page that has a place for it."""
    text = path.read_text() if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        table = f"{before}{begin}\n\n{table}\n{end}{after}"
    files.write_bytes(path, table.encode())


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    with friendly() as outcome:
        parts = checked(options)
        folder = Path(options.keep or tempfile.mkdtemp(prefix="survival-")).resolve()
        results = make(options, parts, folder)
        table = markdown(results, {part: command_of(part, options) for part in PARTS})
        print(f"\n{table}")
        if options.markdown:
            write_table(Path(options.markdown), table)
        if options.json_lines:
            lines = "".join(f"{json.dumps(vars(trial))}\n" for trial in results.trials)
            files.write_bytes(Path(options.json_lines), lines.encode())
        failures = results.failures()
        outcome.code = int(bool(failures))
        for trial in failures:
            again = f"--only {trial.part} --trial {trial.number} --seed {options.seed}"
            print(f"{trial.outcome} ({again}): {trial.kind}: {trial.note[:300]}")
        if not options.keep:
            shutil.rmtree(folder) if not failures else print(f"The trials are in {folder}.")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
