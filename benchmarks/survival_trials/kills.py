"""SIGKILL at random moments and at chosen writes: the same command goes on, and nothing is lost.

A run is killed once to three times, continued by the same command to its end, and compared with the
one that was never killed. What was finished before a kill is noted outside of the run's folder, so
that an epoch that was lost is seen even where the end is the same.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import train
from survival_trials import operations
from survival_trials.children import Outcome
from survival_trials.results import LOST, SILENT, SURVIVED, TRACEBACK, Trial, numbered
from survival_trials.scene import Scene, after_training
from survival_trials.tiny import differences

KINDS = ("checkpoint", "cache", "log", "sample", "score", "page", "weights", "other")
RANDOM = "SIGKILL at a random moment"
CHOSEN = "SIGKILL before or within a write: {}"
WORKER = "SIGKILL while a worker process makes samples and scores"
MOST = 3  # kills of one run
IN_HAND = re.compile(r"Continuing .* after epoch (\d+)")


def kills(scene: Scene, count: int, part: str = "kills") -> Iterator[Trial]:
    """`count` kills of as many runs as that takes; every second one at a chosen write.

    Part "worker": all at random moments, of runs that have a worker process.
    """
    chain: list[tuple[int, random.Random]] = []
    for number, rng in numbered(scene.seed, part, count, scene.only):
        chain.append((number, rng))
        last = scene.only >= 0 or number + 1 == count
        if last or len(chain) == MOST or rng.random() < 0.5:
            yield from _kill_and_compare(scene, part, chain)
            chain = []


def _kill_and_compare(
    scene: Scene, part: str, chain: list[tuple[int, random.Random]]
) -> Iterator[Trial]:
    """Kill one run as often as the chain is long, and continue it to its end.

    What comes of that is the outcome of all its kills.
    """
    output, seen = scene.fresh(part), scene.folder / f"{part}-epochs.txt"
    seen.write_text("")
    trials: list[Trial] = []
    for number, rng in chain:
        trials.append(_kill(scene, output, seen, Trial(part, number, ""), rng, 0.5 ** len(trials)))
    began = time.monotonic()
    finished = _finished(seen)
    ended = scene.run("train", scene.words(output))
    end = judged(trials[-1], ended, ended.code == 0, finished)
    found = differences(scene.whole, scene.run_dir(output)) if end.outcome == SURVIVED else []
    if trials[-1].kind == WORKER:  # it lays its curves out, which is left out in this process
        found = [name for name in found if name != "losses.png"]
    if found:
        end = replace(end, outcome=SILENT, note=f"not the same: {', '.join(found[:8])}")
    share = (time.monotonic() - began) / len(trials)
    for trial in trials:
        if trial.outcome == SURVIVED:
            trial = replace(trial, outcome=end.outcome, note=end.note)
        yield replace(trial, seconds=trial.seconds + share)


def _kill(
    scene: Scene, output: Path, seen: Path, trial: Trial, rng: random.Random, share: float
) -> Trial:
    """Start the command, or continue it, and kill it: at the latest when its training is done.

    `share`: how much of a whole run there is to be killed in.
    """
    kind, before, after = _plan(scene, output, trial, rng, share)

    def hand() -> None:
        _note_epochs(seen)
        _kill_when_done()
        before()

    began, finished = time.monotonic(), _finished(seen)
    worker = {"background": "on"} if kind == WORKER else {}
    child = scene.start("train", scene.words(output, **worker), hand)
    ended = None
    while ended is None and time.monotonic() < began + after:
        time.sleep(0.002)
        ended = child.poll()
    if ended is None:
        child.signal(signal.SIGKILL)
        ended = child.wait(scene.patience)
    trial = replace(trial, kind=kind, seconds=time.monotonic() - began)
    return judged(trial, ended, ended.code == -signal.SIGKILL, finished)


def _plan(
    scene: Scene, output: Path, trial: Trial, rng: random.Random, share: float
) -> tuple[str, Callable[[], object], float]:
    """Row of the table; what the process does before its command; seconds after which it is killed.

    `share`: how much of a whole run there is to be killed in.
    """
    if trial.part == "worker":  # it takes as long to start as a run here takes
        return WORKER, lambda: None, rng.uniform(0.02, 1.0) * share * (scene.seconds + 5)
    if trial.number % 2:
        return RANDOM, lambda: None, rng.uniform(0.02, 1.0) * share * scene.seconds
    group = KINDS[trial.number // 2 % len(KINDS)]
    at, half = int(operations.pick(rng, scene.operations, group) * share), rng.random() < 0.7
    return CHOSEN.format(group), lambda: operations.kill_at(output, at, half), scene.patience


def judged(trial: Trial, ended: Outcome, fine: bool, finished: int) -> Trial:
    """A trial with what the command said; `finished`: epochs that it must not do again."""
    begun = IN_HAND.search(ended.said)
    if ended.traced:
        return replace(trial, outcome=TRACEBACK, note=ended.last)
    if not fine or ended.hung:
        return replace(trial, outcome=LOST, note=f"exit code {ended.code}: {ended.last}")
    said = begun or ended.code == 0  # a second kill may come before it says where it begins
    if finished and said and (not begun or int(begun[1]) < finished):
        return replace(trial, outcome=LOST, note=f"{finished} epochs were done: {ended.last}")
    return trial


def _note_epochs(seen: Path) -> None:
    """Have each epoch that is finished, with all that is written after it, noted in a file."""
    real = train.write_epoch

    def noted(run: object, *rest: object) -> None:
        real(run, *rest)
        file = os.open(seen, os.O_WRONLY | os.O_APPEND)
        os.write(file, f"{run.epoch}\n".encode())
        os.close(file)

    train.write_epoch = noted


def _kill_when_done() -> None:
    after_training(lambda: os.kill(os.getpid(), signal.SIGKILL))


def _finished(seen: Path) -> int:
    return max([0, *map(int, seen.read_text().split())])
