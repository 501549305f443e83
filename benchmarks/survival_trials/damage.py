"""Damaged checkpoints, caches, constants, logs, lists, weights, scores and vocoders.

A run that was stopped in its last epoch, or a finished one, is copied, one of its files is damaged,
and a command is given. It must do what it does without the damage, bit for bit; or refuse with a
sentence and destroy nothing; or, where rows of a log are gone for good, say so and go on.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import train
from survival_trials import vocoder_folders
from survival_trials.children import Outcome
from survival_trials.corruption import BYTES, CSV, JSON, Damage
from survival_trials.results import LOST, SILENT, SURVIVED, TRACEBACK, Trial, numbered
from survival_trials.scene import Scene
from survival_trials.tiny import differences, same_file, sounds_in

KIND = "damaged {}"
IDENTICAL, SAID, REFUSED = "identical", "said", "refused"
HALF, WHOLE, PLAYED = "half", "whole", "played"  # a stopped run, a finished one, one with vocoders
LOGS = ("log.csv", "losses.png", "scores.", "best.")  # whatever rows of a log go into
SOUNDS = ("high_", "low_")  # another vocoder plays
NOT_KEPT = (".cache", ".lock", "index.html", "left_out.csv")  # what may be made anew at any time
ERROR = re.compile(r"^Error: ", re.MULTILINE)


def gone(*_: object) -> None:
    """Not a damage to bytes: the file is removed."""


@dataclass(frozen=True)
class Target:
    """A file, or several, and the commands that meet its damage."""

    row: str
    base: str  # HALF, WHOLE, PLAYED
    pattern: str  # of paths below the output folder; RUN is the run's folder
    commands: tuple[str, ...]
    damages: tuple[Damage, ...]
    every: bool = False  # all files of the pattern are damaged, not one
    may_differ: tuple[str, ...] = ()  # beginnings of names, where the damage is said


ANY = (*BYTES, gone)
TARGETS = (
    Target("checkpoint", HALF, "RUN/checkpoints/*.pt", ("train",), ANY),
    Target("cache of decoded sounds", HALF, ".cache/**/*", ("train",), ANY),
    Target("config.json", WHOLE, "RUN/config.json", ("generate", "evaluate"), (*JSON, *ANY)),
    Target("list of held-out clips", HALF, "RUN/held_out.csv", ("train",), (*CSV, *ANY)),
    Target("log.csv", HALF, "RUN/log.csv", ("train",), (*CSV, *ANY), may_differ=LOGS),
    Target("weights", WHOLE, "RUN/generator.safetensors", ("generate", "evaluate"), ANY),
    Target("reference of the scores", HALF, ".cache/evaluator-*", ("train",), ANY),
    Target("scores.csv", HALF, "RUN/scores.csv", ("train",), (*CSV, *ANY), may_differ=LOGS),
    Target("checkpoint", HALF, "RUN/checkpoints/*.pt", ("train",), ANY, every=True),
    Target("list of held-out clips", WHOLE, "RUN/held_out.csv", ("evaluate",), (*CSV, *ANY)),
    Target("scores.json", HALF, "RUN/scores.json", ("train",), (*JSON, *ANY)),
    Target("config.json", HALF, "RUN/config.json", ("train",), (*JSON, *ANY)),
    Target("cache of decoded sounds", WHOLE, ".cache/**/*", ("evaluate",), ANY),
    Target("cache of decoded sounds", HALF, ".cache/**/*.json", ("train",), JSON),
    Target("reference of the scores", WHOLE, ".cache/evaluator-*", ("evaluate",), ANY),
    Target("weights", HALF, "RUN/*.safetensors", ("train",), ANY),
    Target("vocoder", PLAYED, "hifigan/*", ("generate",), ANY, may_differ=SOUNDS),
    Target("vocoder", PLAYED, "bigvgan/*", ("generate",), ANY, may_differ=SOUNDS),
)


class Bases:
    """Output folders with a stopped and a finished run, and what commands make of them."""

    def __init__(self, scene: Scene, wanted: set[str]) -> None:
        """`wanted`: HALF, WHOLE, PLAYED. Raises RuntimeError where one cannot be made."""
        self.scene = scene
        self.folder = scene.folder / "bases"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        shutil.copytree(scene.whole.parent, self.folder / WHOLE, copy_function=shutil.copy2)
        if HALF in wanted:
            self._stop_in_last_epoch()
        if PLAYED in wanted:
            vocoder_folders.make(scene, self.folder / PLAYED)
        self._undamaged: dict[tuple[str, str, str], tuple[Path, Outcome]] = {}

    def _stop_in_last_epoch(self) -> None:
        scene, output = self.scene, self.scene.fresh("half")

        def stopped() -> None:
            real = train.full_step

            def step(run: object, *rest: object) -> object:
                if run.epoch == scene.epochs - 1:
                    signal.raise_signal(signal.SIGTERM)
                return real(run, *rest)

            train.full_step = step

        ended = scene.run("train", scene.words(output), stopped)
        if ended.code != 75:
            raise RuntimeError(f"The run could not be stopped: {ended.last}")
        shutil.copytree(output, self.folder / HALF, copy_function=shutil.copy2)

    def copy(self, base: str) -> Path:
        """A fresh copy, always at one path."""
        output = self.scene.fresh("files")
        output.rmdir()
        shutil.copytree(self.folder / base, output, copy_function=shutil.copy2)
        return output

    @contextmanager
    def put_aside(self, output: Path) -> Iterator[None]:
        """Within it, an output folder is in another place."""
        aside = self.folder / "aside"
        os.replace(output, aside)
        yield
        shutil.rmtree(output, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside, output)

    def command(self, output: Path, command: str, vocoder: str) -> Outcome:
        """Give a command to the run in an output folder; `vocoder`: a folder beside it."""
        run = str(self.scene.run_dir(output))
        if command == "train":
            return self.scene.run("train", self.scene.words(output))
        if command == "evaluate":
            return self.scene.run("evaluate", [run, "--device", "cpu"])
        words = [run, "--count", "2", "--out", str(output / "new"), "--device", "cpu"]
        words += ["--vocoder", str(output / vocoder)] if vocoder else []
        return self.scene.run("generate", words)

    def undamaged(self, base: str, command: str, vocoder: str) -> tuple[Path, Outcome]:
        """What a command makes where nothing is damaged: an output folder, and what it said."""
        key = (base, command, vocoder)
        if key not in self._undamaged:
            ended = self.command(output := self.copy(base), command, vocoder)
            if ended.code:
                raise RuntimeError(f"{command} fails on an undamaged run: {ended.last}")
            kept = self.folder / f"undamaged-{'-'.join(key)}"
            shutil.copytree(output, kept)
            self._undamaged[key] = kept, ended
            if command == "train" and (found := self.wrong(output, *key)):
                raise RuntimeError(f"A run that was stopped differs: {', '.join(found)}")
        return self._undamaged[key]

    def wrong(self, output: Path, base: str, command: str, vocoder: str) -> list[str]:
        """What is not as it is without the damage."""
        if command == "train":
            return differences(self.scene.whole, self.scene.run_dir(output))
        kept, _ = self.undamaged(base, command, vocoder)
        runs = [self.scene.run_dir(folder) for folder in (kept, output)]
        if command == "evaluate":
            pair = [run / "scores.json" for run in runs]
            return [] if same_file(*pair) else ["scores.json"]
        usual, made = (sounds_in(folder / "new") for folder in (kept, output))
        return [name for name, wave in usual.items() if made.get(name) != wave]


def damaged_files(scene: Scene, count: int) -> Iterator[Trial]:
    """`count` damages to the files of a run, in turns over TARGETS."""
    numbers = list(numbered(scene.seed, "files", count, scene.only))
    bases = Bases(scene, {TARGETS[number % len(TARGETS)].base for number, _ in numbers})
    for number, rng in numbers:
        target = TARGETS[number % len(TARGETS)]
        output = bases.copy(target.base)
        command, done, names, vocoder = _damage(scene, target, output, rng)
        before, key = contents(output), (target.base, command, vocoder)
        with bases.put_aside(output):  # all is made at one path
            bases.undamaged(*key)
        ended = bases.command(output, command, vocoder)
        trial = Trial("files", number, KIND.format(target.row))
        trial = _judged(trial, ended, lambda key=key, o=output: bases.wrong(o, *key))
        if trial.outcome == SURVIVED and trial.how == SAID:
            _, usual = bases.undamaged(*key)
            trial = _with_words(trial, ended, usual, names, target.may_differ)
        if trial.outcome == SURVIVED and (lost := destroyed(output, before, trial.how, names)):
            trial = replace(trial, outcome=LOST, note=f"destroyed: {', '.join(lost)}")
        (scene.folder / "said-with-damage.txt").write_text(ended.said)
        yield replace(trial, note=f"{done}, {command}: {trial.note}" if trial.note else "")


def _damage(
    scene: Scene, target: Target, output: Path, rng: random.Random
) -> tuple[str, str, list[str], str]:
    """Damage files of a copy: the command that is to meet it, what was done, to which, vocoder."""
    pattern = target.pattern.replace("RUN", scene.run_dir(output).name)
    found = sorted(p for p in output.glob(pattern) if p.is_file() and p.stat().st_size)
    found = [path for path in found if not path.name.endswith(".lock")]
    chosen = found if target.every else [rng.choice(found)]
    damage: Callable = rng.choice(target.damages)
    for path in chosen:
        if damage is gone:
            path.unlink()
            continue
        stamp = path.stat()
        path.write_bytes(damage(rng, bytearray(path.read_bytes())))
        if rng.random() < 0.5:  # what damages a disk changes no time
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    names = [path.name for path in chosen]
    vocoder = target.pattern.partition("/")[0] if target.base == PLAYED else ""
    return rng.choice(target.commands), f"{damage.__name__} in {', '.join(names)}", names, vocoder


def _judged(trial: Trial, ended: Outcome, wrong: Callable[[], list[str]]) -> Trial:
    """How a trial ended; SAID is still to be checked."""
    if ended.traced or ended.code < 0:
        return replace(trial, outcome=TRACEBACK, note=ended.last)
    if ended.code == 2 and ERROR.search(ended.said):
        return replace(trial, how=REFUSED)
    if ended.code or ended.hung:
        return replace(trial, outcome=LOST, note=f"exit code {ended.code}: {ended.last}")
    found = wrong()
    if not found:
        return replace(trial, how=IDENTICAL)
    note = f"not the same: {', '.join(found[:6])}"
    return replace(trial, how=SAID, note=note)


def _with_words(
    trial: Trial, ended: Outcome, usual: Outcome, names: list[str], may_differ: tuple[str, ...]
) -> Trial:
    """A trial whose result differs: is that said, and does no more differ than may?"""
    mentioned = [*names, *({Path(name).stem for name in names} - {"config"})]
    words = [line for line in new_lines(ended, usual) if any(name in line for name in mentioned)]
    if not words:
        return replace(trial, outcome=SILENT)
    what = trial.note.removeprefix("not the same: ").split(", ")
    if not all(name.startswith(may_differ) for name in what):
        return replace(trial, outcome=LOST, note=f"{trial.note}, though said: {words[0]}")
    return replace(trial, note="")


def new_lines(ended: Outcome, usual: Outcome) -> list[str]:
    """What a command said that it does not say usually; figures left aside."""
    known = {re.sub(r"\d+", "", line) for line in usual.said.splitlines()}
    return [line for line in ended.said.splitlines() if re.sub(r"\d+", "", line) not in known]


def contents(output: Path) -> dict[str, bytes]:
    """All files, by their paths."""
    found = (path for path in sorted(output.rglob("*")) if path.is_file())
    return {str(path.relative_to(output)): path.read_bytes() for path in found}


def destroyed(output: Path, before: dict[str, bytes], how: str, names: list[str]) -> list[str]:
    """Files whose content is nowhere any more: of all, after a refusal; of what was damaged, where
    the run went on without it. (A log may have got more rows.)"""
    if how == IDENTICAL:
        return []
    there = contents(output)
    after = set(there.values())
    kept = [p for p in before if not any(part.startswith(NOT_KEPT) for part in Path(p).parts)]
    if how == SAID:
        kept = [path for path in kept if Path(path).name in names]
    gone = [path for path in kept if before[path] not in after]
    return [p for p in gone if how == REFUSED or not _grew(before[p], there.get(p, b""))]


def _grew(before: bytes, after: bytes) -> bool:
    """Whether all lines are still there."""
    return set(before.split(b"\n")) <= set(after.split(b"\n"))
