"""Two processes that want the same, and clocks that go back.

A process is held at one of its writes while another one starts: in the same run, or in another run
on the same sounds whose cache is not there yet. Clocks jump while a run goes on, and files are of
the future.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from survival_trials import operations
from survival_trials.children import PATIENCE, Child, Outcome
from survival_trials.operations import Operation, Watch
from survival_trials.results import LOST, SILENT, SURVIVED, TRACEBACK, Trial, numbered
from survival_trials.scene import Scene
from survival_trials.tiny import differences

REFUSAL = "Another process is training"
YEAR = 365 * 86_400  # s
JUMPS = (-2 * YEAR, -86_400, -3600, -30, 0, 30, 3600, YEAR)  # s


def neighbours(scene: Scene, count: int) -> Iterator[Trial]:
    """`count` trials, in turns over TRIALS."""
    for number, rng in numbered(scene.seed, "neighbours", count, scene.only):
        kind, make = TRIALS[number % len(TRIALS)]
        yield make(scene, Trial("neighbours", number, kind), rng)


def _equal(scene: Scene, trial: Trial, ended: Outcome, run: Path) -> Trial:
    """Whether a run ended well, and as one that nothing happened to."""
    if ended.traced or ended.code < 0:
        return replace(trial, outcome=TRACEBACK, note=ended.last)
    if ended.code or ended.hung:
        return replace(trial, outcome=LOST, note=f"exit code {ended.code}: {ended.last}")
    if found := differences(scene.whole, run):
        return replace(trial, outcome=SILENT, note=f"not the same: {', '.join(found[:8])}")
    return trial


# ---- one run, two processes ----------------------------------------------------------------------


class Gate:
    """Holds a process before one of its operations until it is opened."""

    def __init__(self, folder: Path) -> None:
        self.waiting, self.opened = folder / "waiting", folder / "opened"
        for path in (self.waiting, self.opened):
            path.unlink(missing_ok=True)

    def hold(self, output: Path, index: int) -> None:
        """To be called by the process: it stops before its operation number `index`."""
        seen = [0]

        def act(_: Operation, __: Callable[[], None]) -> None:
            if seen[0] == index:
                self.waiting.touch()
                last = time.monotonic() + PATIENCE
                while not self.opened.exists() and time.monotonic() < last:
                    time.sleep(0.01)
            seen[0] += 1

        Watch(output, act)

    def reached(self, child: Child) -> bool:
        """Wait until the process stands there; false where it ended before."""
        last = time.monotonic() + PATIENCE
        while not self.waiting.exists() and time.monotonic() < last:
            if child.poll() is not None:
                return False
            time.sleep(0.01)
        return self.waiting.exists()


def _one_run(scene: Scene, trial: Trial, rng: random.Random, lock: str) -> Trial:
    """`lock`: "" or what becomes of the file `.lock` while the first process trains."""
    output, gate = scene.fresh("one"), Gate(scene.folder)
    run = scene.run_dir(output)
    paths = operations.final_names(scene.operations)
    own = [k for k, path in enumerate(paths) if f"/{run.name}/" in path]
    index = rng.choice(own[len(own) // 4 :])
    first = scene.start("train", scene.words(output), lambda: gate.hold(output, index), "first")
    if not gate.reached(first):
        return replace(trial, outcome=LOST, note=f"it never came to operation {index}")
    if lock:
        (run / ".lock").unlink()
    if lock == "replaced":
        (run / ".lock").write_text("")
    second = scene.run("train", scene.words(output))
    gate.opened.touch()
    trial = _equal(scene, trial, first.wait(scene.patience), run)
    if second.code != 2 or REFUSAL not in second.said:
        note = f"the second process was not refused: exit code {second.code}, {second.last}"
        return replace(trial, outcome=LOST, note=note)
    return trial


def two_in_one_run(scene: Scene, trial: Trial, rng: random.Random) -> Trial:
    return _one_run(scene, trial, rng, "")


def lock_deleted(scene: Scene, trial: Trial, rng: random.Random) -> Trial:
    return _one_run(scene, trial, rng, rng.choice(("deleted", "replaced")))


def two_on_one_data_set(scene: Scene, trial: Trial, rng: random.Random) -> Trial:
    """Both start at about the same time, and nothing is decoded yet."""
    output = scene.fresh("two")
    names = ("first", "second")
    started = []
    for name in names:
        words = scene.words(output, run_name=name)
        started.append(scene.start("train", words, name=name))
        time.sleep(rng.uniform(0, 0.3))
    ended = [child.wait(scene.patience) for child in started]
    for name, own in zip(names, ended):
        trial = _equal(scene, trial, own, output / name) if trial.outcome == SURVIVED else trial
    return trial


# ---- clocks --------------------------------------------------------------------------------------


def jumping_clock(seed: int) -> None:
    """Let the clock of this process jump now and then, back and forth."""
    rng, real, shift = random.Random(seed), time.time, [0.0]

    def jumping() -> float:
        if rng.random() < 0.3:
            shift[0] = rng.choice(JUMPS)
        return real() + shift[0]

    time.time = jumping


def clock_set_back(scene: Scene, trial: Trial, rng: random.Random) -> Trial:
    """While it runs; it is killed on its way, and goes on."""
    output, seed = scene.fresh("clock"), rng.random()
    index = rng.randrange(len(scene.operations))

    def hand() -> None:
        jumping_clock(seed)
        operations.kill_at(output, index, half=True)

    scene.run("train", scene.words(output), hand)
    ended = scene.run("train", scene.words(output), lambda: jumping_clock(seed + 1))
    return _equal(scene, trial, ended, scene.run_dir(output))


def files_of_the_future(scene: Scene, trial: Trial, rng: random.Random) -> Trial:
    """Of the run and of its cache: those of the data are as they were."""
    output, index = scene.fresh("future"), rng.randrange(len(scene.operations))
    words = scene.words(output)
    scene.run("train", words, lambda: operations.kill_at(output, index, half=True))
    for path in output.rglob("*"):
        moment = time.time() + rng.choice((3600, YEAR, 20 * YEAR))
        os.utime(path, (moment, moment))
    return _equal(scene, trial, scene.run("train", words), scene.run_dir(output))


TRIALS = (
    ("two processes in one run", two_in_one_run),
    ("two runs on one data set that is not decoded yet", two_on_one_data_set),
    ("lock deleted while it trains, second start", lock_deleted),
    ("clock set back while it trains", clock_set_back),
    ("files of the future", files_of_the_future),
)
