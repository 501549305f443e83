"""Memory and open files over many epochs: they must stay as they are."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import train
from survival_trials.results import LOST, TRACEBACK, Results, Trial
from survival_trials.scene import Scene

KIND = "memory and open files over {} epochs"
LOOKS = 10  # measurements, evenly over the epochs
SETTLED = 3  # of these measurements, after which nothing may grow
GROWTH = 24 << 20  # bytes by which memory may go up and down


def many_epochs(scene: Scene, epochs: int, results: Results) -> Iterator[Trial]:
    """One run of so many epochs, with samples and scores now and then; its figures go to
    `results`."""
    output, noted = scene.fresh("endurance"), scene.folder / "measured.json"
    noted.write_text("[]")
    every = max(1, epochs // LOOKS)
    about = {"epochs": epochs, "sample_every": every, "score_every": 2 * every}
    child = scene.start("train", scene.words(output, **about), lambda: _measure(noted, every))
    ended = child.wait(seconds=600 + 5 * epochs)
    trial = Trial("epochs", 0, KIND.format(epochs))
    rows = json.loads(noted.read_text())
    results.figures[f"epochs {[row['epoch'] for row in rows]}"] = (
        f"memory {[row['memory'] >> 20 for row in rows]} MiB, open files "
        f"{[row['files'] for row in rows]}, threads {[row['threads'] for row in rows]}"
    )
    if ended.traced:
        yield replace(trial, outcome=TRACEBACK, note=ended.last)
    elif ended.code or len(rows) < min(epochs, LOOKS):
        yield replace(trial, outcome=LOST, note=f"exit code {ended.code}: {ended.last}")
    elif grown := _grown(rows):
        yield replace(trial, outcome=LOST, note=f"grows: {', '.join(grown)}")
    else:
        yield trial


def _grown(rows: list[dict[str, int]]) -> list[str]:
    """What the later measurements have more of than those before."""
    before, after = rows[: SETTLED + 1], rows[SETTLED + 1 :]
    allowed = {"memory": GROWTH, "files": 0, "threads": 0}
    return [
        name
        for name, more in allowed.items()
        if max(row[name] for row in after) > max(row[name] for row in before) + more
    ]


def _measure(noted: Path, every: int) -> None:
    """Have this process measured after epochs, when all that belongs to one is written."""
    real, rows = train.write_epoch, []

    def measured(run: object, *rest: object) -> None:
        real(run, *rest)
        if run.epoch % every:
            return
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        row = {"epoch": run.epoch, "memory": pages * resource.getpagesize()}
        row |= {"files": len(os.listdir("/proc/self/fd"))}
        rows.append(row | {"threads": len(os.listdir("/proc/self/task"))})
        noted.write_text(json.dumps(rows))

    train.write_epoch = measured
