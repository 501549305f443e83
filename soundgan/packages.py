"""Packages that only some runs need: imported where they are used, and named where they lack."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType

from soundgan.errors import UserError

PIP_NAMES = {"yaml": "pyyaml", "sklearn": "scikit-learn", "ruamel": "ruamel.yaml"}  # by module


class Missing(UserError):
    """A package is not installed, or cannot be imported, and `reason` says what needs it."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason, advice)  # as its arguments: a worker process sends it pickled
        self.reason, self.advice = reason, advice

    def __str__(self) -> str:
        return f"{self.reason}: {self.advice}."


def needed(module: str, purpose: str, instead: str = "") -> ModuleType:
    """A module of an optional package, imported.

    `purpose`: what needs it, as the beginning of a sentence; `instead`: what to do without it.
    Raises Missing with the pip command, also where a package that the module itself imports lacks.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package of the wrong version fails in whatever way it likes
        name = module.partition(".")[0]
        lacking = error.name if isinstance(error, ModuleNotFoundError) else None
        if lacking == name:
            raise _missing([name], purpose, instead) from error
        top = (lacking or name).partition(".")[0]  # itself: of a version without the module
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise Missing(
            f"{purpose} needs the package {_pip_name(name)}, which cannot be imported ({reason})",
            _advice([top], instead, "--upgrade " if top == name else ""),
        ) from error


def check(names: Sequence[str], purpose: str, instead: str = "") -> None:
    """Raise Missing where some of these packages are not installed, naming all of them.

    None is imported, which may take seconds. `purpose`, `instead`: as those of `needed`.
    """
    if lacking := [name for name in names if not _is_there(name)]:
        raise _missing(lacking, purpose, instead)


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _missing(names: Sequence[str], purpose: str, instead: str) -> Missing:
    *others, last = map(_pip_name, names)
    what = f"package {last}, which is"
    if others:
        what = f"packages {', '.join(others)} and {last}, which are"
    return Missing(f"{purpose} needs the {what} not installed", _advice(names, instead))


def _advice(names: Sequence[str], instead: str, how: str = "") -> str:
    command = f"pip install {how}{' '.join(map(_pip_name, names))}"
    return f"{command}, or {instead}" if instead else command


def _pip_name(name: str) -> str:
    return PIP_NAMES.get(name, name)
