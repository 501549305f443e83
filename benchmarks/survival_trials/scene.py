"""Where the trials are made: a folder, made-up sounds, and a run that nothing happened to."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.layout_engine

import config  # noqa: F401 -- every kind of part, and what train.py imports when it runs
import evaluate
import generate
import train
from soundgan.evaluation import classifier
from soundgan.report import recorder
from survival_trials import children, operations, tiny
from survival_trials.children import Child, Outcome
from survival_trials.operations import Operation
from survival_trials.tiny import Setting

COMMANDS = {"train": train.main, "generate": generate.main, "evaluate": evaluate.main}


@dataclass
class Scene:
    """A folder for trials, the run that nothing happened to, and what it did to files."""

    folder: Path
    setting: Setting
    seed: int
    only: int = -1  # number of the one trial that is wanted; -1: all
    whole: Path = Path()  # folder of the run that nothing happened to
    epochs: int = 0  # of it
    seconds: float = 0.0  # that it took
    peak: int = 0  # bytes of memory that it took at most
    operations: list[Operation] = field(default_factory=list)  # below its output folder

    def fresh(self, name: str) -> Path:
        """An empty output folder, always of this path."""
        output = self.folder / name / "outputs"
        shutil.rmtree(output.parent, ignore_errors=True)
        output.mkdir(parents=True)
        return output

    def start(
        self,
        command: str,
        words: list[str],
        before: Callable[[], object] = lambda: None,
        name: str = "said",
    ) -> Child:
        """Start a command; `before` is called first, in its own process."""

        def work() -> int:
            before()
            return COMMANDS[command](words)

        return children.start(work, self.folder / f"{name}.txt")

    def run(
        self, command: str, words: list[str], before: Callable[[], object] = lambda: None
    ) -> Outcome:
        """Give a command and wait for its end."""
        return self.start(command, words, before).wait(self.patience)

    @property
    def patience(self) -> float:
        """Seconds after which a command hangs."""
        return children.PATIENCE + 10 * self.seconds if self.seconds else 86_400.0

    def words(self, output: Path, **changes: object) -> list[str]:
        return self.setting.words(output, **changes)

    def run_dir(self, output: Path) -> Path:
        return self.setting.run_dir(output)


def prepare(folder: Path, seed: int, only: int, setting: Setting | None = None) -> Scene:
    """Make the run that nothing happens to, of made-up sounds where there is no other `setting`.

    Raises RuntimeError where it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recorder.CHECKPOINT_SECONDS = 0.0  # a checkpoint after each epoch, however short
    if setting is None:
        setting = Setting(tiny.write_tones(folder / "data"))
        classifier.STEPS = 2
        # Pictures need not be pretty: to lay them out takes as long as all the rest.
        matplotlib.layout_engine.ConstrainedLayoutEngine.execute = lambda *_: None
    scene = Scene(folder, setting, seed, only)
    children.import_all(_modules(scene))
    seen, output = folder / "operations.json", scene.fresh("whole")

    def noting() -> None:
        into: list[Operation] = []
        operations.record(output, into)
        after_training(lambda: seen.write_text(json.dumps([vars(o) for o in into])))

    ended = scene.run("train", scene.words(output), noting)
    if ended.code:
        raise RuntimeError(f"The run that nothing happens to failed: {ended.last}")
    scene.whole, scene.seconds, scene.peak = scene.run_dir(output), ended.seconds, ended.peak
    scene.operations = [Operation(**o) for o in json.loads(seen.read_text())]
    scene.epochs = len((scene.whole / "log.csv").read_text().splitlines()) - 1
    return scene


def after_training(call: Callable[[], object]) -> None:
    """Have something called when training is done, in the process that trains."""
    real = train.train

    def with_call(*arguments: object) -> object:
        run = real(*arguments)
        call()
        return run

    train.train = with_call


def _modules(scene: Scene) -> list[str]:
    """What a run of one epoch imports on its way, samples and scores included."""
    names, output = scene.folder / "modules.json", scene.fresh("first")

    def noting() -> None:
        after_training(lambda: names.write_text(json.dumps([*sys.modules])))

    ended = scene.run("train", scene.words(output, epochs=1), noting)
    if ended.code:
        raise RuntimeError(f"The program does not run here: {ended.last}")
    return json.loads(names.read_text())
