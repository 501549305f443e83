"""What to type to continue a run and to make more sounds with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from soundgan.config_io import KIND, flag
from soundgan.console import shell_path

STATED = ("recipe", "run_name", "output_dir", "epochs", "dry_run")  # otherwise, or not wanted


def commands(
    run_dir: Path, constants: Mapping, changed: Mapping, epoch: int, classes: Iterable[str]
) -> dict:
    """What to type to continue the run and to make more sounds, quoted for a shell.

    `constants`: `config` of config.json; `changed`: what of it differs from the recipe, by full
    names. `generate` is the beginning of a command; `labels` holds the words that name each class.
    """
    epochs = constants.get("epochs")
    epochs = epochs if isinstance(epochs, int) else max(1, epoch)
    finished = epoch >= epochs
    return {
        "finished": finished,
        "train": train_command(run_dir, constants, changed, 2 * epochs if finished else epochs),
        "generate": f"python generate.py {shell_path(run_dir)}",
        "labels": {name: _option("label", [name]) for name in classes},
    }


def train_command(run_dir: Path, constants: Mapping, changed: Mapping, epochs: int) -> str:
    """The command that continues a run: its recipe, its place, and every constant that differs.

    All of those are needed, because a run is continued only with the constants it began with.
    """
    recipe = str(constants.get("recipe"))
    place = named(run_dir)
    words = ["python train.py", shlex.quote(recipe)]
    if place.name != recipe:
        words.append(_option("run_name", [place.name]))
    if "output_dir" in changed or str(place.parent) != constants.get("output_dir"):
        words.append(_option("output_dir", [str(place.parent)]))
    words.append(f"--epochs {epochs}")
    for name, value in changed.items():
        if name in STATED:
            continue
        name = name.removesuffix(f".{KIND}")  # --objective WassersteinGP
        if isinstance(value, bool):
            words.append(shlex.quote(flag(name, value)))
        else:
            words.append(_option(name, value if isinstance(value, list) else [value]))
    return " ".join(words)


def named(run_dir: Path) -> Path:
    """`run_dir` with a name at its end, which `.` and `..` have not."""
    return run_dir if run_dir.name not in ("", "..") else run_dir.resolve()


def _option(name: str, values: Sequence[object]) -> str:
    option = flag(name)
    if len(values) == 1 and str(values[0]).startswith("-"):  # would be taken for a flag
        return shlex.quote(f"{option}={values[0]}")
    # Quoted as well: a config.json may come from anybody, and its names may be commands.
    return shlex.join([option, *map(str, values)])
