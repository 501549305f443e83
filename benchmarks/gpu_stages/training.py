"""Runs as a user starts them: scored after two minutes, and from beginning to end."""

from __future__ import annotations

import csv
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import compare

from gpu_stages.asked import ROOT, Asked, flags, say
from soundgan.settings import GRIFFIN_LIM

FOLD = "2"  # held out, as in benchmarks/results/esc10-fold2
SECONDS = 120.0  # of training before the scores, its start included
LEAST = 10.0  # s without which a whole run is not begun
SAVING = 12.0  # s that a run has for saving before the end of the stage
FEW_STEPS = (  # scores whose classifiers are hardly trained
    "import sys, evaluate; from soundgan.evaluation import classifier; classifier.STEPS = 10; "
    "sys.exit(evaluate.main())"
)
BEGINS = "Sounds and pictures while it learns"  # what train.py says before its first step


def by_fold(data: Path, out: Path, fold: str = FOLD) -> tuple[Path, Path, dict[str, int]]:
    """Two trees of class folders with links to the sounds of `data`: all other folds, and `fold`,
    which is the first part of a file's name (ESC-50: `2-101676-A-10.wav`); with how many are in
    each. Raises ValueError where one would be empty."""
    trees = {"training": out / "train", "held out": out / "held"}
    count = dict.fromkeys(trees, 0)
    for path in sorted(p for p in data.glob("*/*") if p.is_file()):
        own = "held out" if path.name.partition("-")[0] == fold else "training"
        link = trees[own] / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
        count[own] += 1
    if not all(count.values()):
        raise ValueError(
            f"--data-dir {data} has {count['held out']} sounds of fold {fold} and "
            f"{count['training']} others: their names must begin with the fold, as in ESC-10."
        )
    return trees["training"], trees["held out"], count


def score(recipe: str, asked: Asked) -> None:
    """A recipe trained for SECONDS and scored against fold 2, as `compare.py` does."""
    device, cfg = asked.on(), asked.config(recipe)
    with tempfile.TemporaryDirectory() as folder:
        training, held, count = by_fold(Path(asked.data_dir), Path(folder))
        options = compare.Options(
            data_dir=str(training),
            holdout_dir=str(held),
            out=f"{folder}/runs",
            device=asked.device,
        )
        run_dir = Path(options.out) / compare.run_name(recipe, 0)
        words = compare.words(recipe, 0, options)
        if asked.tiny:
            words += [*tiny_flags(cfg, "--sample-every", "--score-every"), "--epochs", "3"]
        seconds = min(SECONDS, asked.left() - SAVING)
        code = compare.train_for([sys.executable, "train.py", *words], seconds, run_dir)
        pace = epochs_of(rows_of(run_dir / "log.csv"))
        trained = compare.seconds_of(run_dir)
        start, program = time.perf_counter(), ["evaluate.py"]
        if asked.tiny:
            program = ["-c", FEW_STEPS]
        command = [sys.executable, *program, str(run_dir)]
        say(asked.stage, recipe, device, trained_s=trained, clips=count, code=code, **pace)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"evaluate.py: {done.stderr[-600:]}")
        scores = json.loads((run_dir / "scores.json").read_text())
        taken = time.perf_counter() - start
        for row, figures in scores["rows"].items():
            own = {"row": row, "step": scores["step"], "scored_s": taken}
            say(asked.stage, recipe, device, **own, **figures)


def tiny_flags(cfg, *without: str) -> list[str]:
    """Options for the tests' sizes, but those of a run that the stage decides itself."""
    own = ("--data-dir", "--output-dir", "--device", "--vocoder", "--run-name", *without)
    words, kept = flags(cfg), []
    for word in words:
        kept += [[word]] if word.startswith("--") else []
        if not word.startswith("--"):
            kept[-1].append(word)
    return [w for option in kept if option[0] not in own for w in option]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a table of a run; none where it has not got one."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def epochs_of(log: list[dict[str, str]]) -> dict[str, object]:
    """What the log says of a run's pace."""
    each = [float(row["seconds"]) for row in log]
    if not each:
        return {"epochs": 0}
    found = {"epochs": len(each), "steps": int(log[-1]["step"]), "in_steps_s": sum(each)}
    return found | {"first_epoch_s": each[0], "median_epoch_s": statistics.median(each)}


@dataclass(frozen=True)
class Ended:
    """A program that was run to its end, or stopped."""

    code: int
    seconds: float
    begun: float  # s until it had said the line that was waited for; 0: it has not
    said: list[str]  # its last lines


def watched(command: list[str], seconds: float, line: str) -> Ended:
    """Run a program; SIGTERM after so many seconds."""
    start, begun, said = time.perf_counter(), 0.0, []
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    timer = threading.Timer(seconds, process.send_signal, [signal.SIGTERM])
    timer.daemon = True
    timer.start()
    try:
        for text in process.stdout:
            if not begun and line in text:
                begun = time.perf_counter() - start
            said = [*said, text.rstrip()[-300:]][-6:]
        code = process.wait()
    finally:
        timer.cancel()
    return Ended(code, time.perf_counter() - start, begun, said)


def whole(item: str, asked: Asked) -> None:
    """A run as a user starts it: how long in all, until its first step, in steps, and waiting."""
    device, (recipe, _, pace) = asked.on(), item.partition(": ")
    cfg = asked.config(recipe)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", recipe, "--data-dir", asked.data_dir]
        command += ["--output-dir", folder, "--run-name", "whole", "--device", asked.device]
        command += ["--vocoder", GRIFFIN_LIM] if "/" in cfg.vocoder else []
        command += PACES[pace]
        if asked.tiny:  # without scores, which take long whatever the size
            command += [*tiny_flags(cfg, *PACES[pace]), "--score-every", "0"]
        if (seconds := min(asked.limit, asked.left()) - SAVING) < LEAST:
            raise RuntimeError(f"no time was left: {seconds:.0f} s")
        ended = watched(command, seconds, BEGINS)
        run_dir = Path(folder) / "whole"
        log, scored = rows_of(run_dir / "log.csv"), rows_of(run_dir / "scores.csv")
        sets = len([*run_dir.glob("samples/epoch_*")])
    found = epochs_of(log) | {"code": ended.code, "seconds": ended.seconds}
    found |= {"begun_s": ended.begun, "sets": sets, "scorings": len(scored)}
    if ended.begun and log:
        found["waiting_s"] = ended.seconds - ended.begun - found["in_steps_s"]
    say(asked.stage, item, device, finished=ended.code == 0, **found)
    if ended.code not in (0, 75):
        raise RuntimeError(" | ".join(ended.said)[-900:])


PACES = {
    "auto": ["--sample-every", "auto", "--score-every", "auto"],
    "every 10 epochs": ["--sample-every", "10", "--score-every", "50"],
}
