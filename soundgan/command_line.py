"""`[RECIPE] [--field value ...]` -> a checked configuration; what all command lines share."""

from __future__ import annotations

import dataclasses
import importlib
import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import tyro

from soundgan.config_io import KIND, change, flag, flat
from soundgan.errors import UserError, nearest
from soundgan.parts import Part, concrete, names_of
from soundgan.settings import BASES, Config, parts_of

PATHS = ("data_dir", "output_dir", "holdout_dir", "init_from", "vocoder")  # `~` may begin them


def imported(name: str) -> ModuleType:
    """A module that people edit (config.py), imported; raises UserError with file and line where
    it has a mistake. A fault of the package keeps its traceback.
    """
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        if where := _line_of(error, f"{name}.py"):
            raise UserError(f"{where}: {type(error).__name__}: {_reason(error)}") from error
        raise


def _line_of(error: Exception, name: str) -> str:
    """`FILE, line N` where a file of this name is at fault for an exception, or ""."""
    if isinstance(error, SyntaxError) and Path(error.filename or "").name == name:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).name == name]
    package = os.path.dirname(os.path.abspath(__file__))
    if not own or frames[-1].filename.startswith(package):
        return ""
    return f"{own[-1].filename}, line {own[-1].lineno}"


def _reason(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(text.split()) or "no reason given"


def expanded_path(text: str) -> str:
    """A path, or the name of something else, with a `~` at its beginning written out."""
    return os.path.expanduser(text) if text.startswith("~") else text


def given(argv: Sequence[str], name: str) -> bool:
    """Whether a command line names a constant: `--data-dir X`, `--data_dir=X`."""
    words = {word.partition("=")[0].replace("_", "-") for word in argv}
    return flag(name) in words


def parse(
    argv: Sequence[str], recipes: Mapping[str, Config], summaries: Mapping[str, str], usual: str
) -> Config:
    """The configuration that a command line asks for; `usual`: the recipe where it names none.

    Raises UserError for an unknown recipe, a constant of another part, or a value that cannot work;
    other unknown flags and values of the wrong type end the program with tyro's own message.
    """
    argv = list(argv)
    name = argv.pop(0) if argv and not argv[0].startswith("-") else usual
    if name not in recipes:
        raise UserError(f"There is no recipe {name!r}: {nearest(name, list(recipes))}")
    recipes[name].check_types()  # "42" for 42 in config.py
    argv, chosen = choose_kinds(argv, recipes[name])
    refuse_foreign(argv, chosen)
    listed = "\n".join(f"  {n}: {summaries[n]}" for n in recipes)
    kinds = "\n".join(f"  --{part} {' | '.join(concrete(base))}" for part, base in BASES.items())
    kind = _kind_of(chosen)
    cfg = tyro.cli(
        kind,
        default=_as(chosen, kind),
        args=argv,
        prog="train.py [RECIPE]",
        description="Turn folders of sounds into a model that invents new ones.\n\n"
        f"Recipes:\n{listed}\n\nA recipe has five parts, and each can be of another kind:\n{kinds}"
        f"\n\nThe defaults below are those of {name}.",
    )
    cfg = _as(cfg, Config)
    cfg = change(cfg, {name: expanded_path(getattr(cfg, name)) for name in PATHS})
    cfg.check()
    return cfg


def choose_kinds(argv: Sequence[str], cfg: Config) -> tuple[list[str], Config]:
    """Take `--objective WassersteinGP` and the like out of the words and into the configuration.

    The new part keeps what both kinds know; what only it has must be on the command line, unless it
    has a default. Raises UserError for an unknown kind.
    """
    words, rest = list(argv), []
    while words:
        given, equals, kind = words.pop(0).partition("=")
        part = given.removeprefix("--")
        if not given.startswith("--") or part not in BASES:
            rest.append(given + equals + kind)
            continue
        if not equals:
            kind = words.pop(0) if words else ""
        cfg = dataclasses.replace(cfg, **{part: of_kind(getattr(cfg, part), BASES[part], kind)})
    return rest, cfg


def of_kind(part: Part, base: type[Part], kind: str) -> Part:
    """A part of the class named `kind`, with what it shares with `part`."""
    kinds = concrete(base)
    if kind not in kinds:
        name = base.__name__.lower()
        raise UserError(f"There is no {name} {kind!r} (--{name}): {nearest(kind, list(kinds))}")
    shared = {name: getattr(part, name, None) for name in names_of(kinds[kind])}
    needed = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(kinds[kind])
        if field.default is dataclasses.MISSING
    }
    return kinds[kind](**needed | {name: v for name, v in shared.items() if v is not None})


def _kind_of(cfg: Config) -> type[Config]:
    """Config with the classes of this recipe's parts: what tyro makes options of."""
    kinds = [(name, type(part)) for name, part in parts_of(cfg).items()]
    return dataclasses.make_dataclass("Config", kinds, bases=(Config,), frozen=True, kw_only=True)


def _as(cfg: Config, kind: type[Config]) -> Config:
    return kind(**{f.name: getattr(cfg, f.name) for f in dataclasses.fields(Config)})


def refuse_foreign(argv: Sequence[str], cfg: Config) -> None:
    """Raise UserError for a flag that another part knows, naming the right one."""
    known = [name for name in flat(cfg) if not name.endswith(f".{KIND}")]
    for word in argv:
        given = word.partition("=")[0]
        part, dot, field = given[2:].replace("-", "_").rpartition(".")
        spellings = (field, field.removeprefix("no_"))
        if not given.startswith("--") or any(f"{part}{dot}{name}" in known for name in spellings):
            continue
        for name in spellings:
            own = [flag(k) for k in known if k.rpartition(".")[2] == name]
            if own:
                raise UserError(f"{given} is not known: {cfg.recipe} has {' or '.join(own)}.")
            owners = {
                slot: kinds
                for slot, base in BASES.items()
                if (kinds := [k for k, kind in concrete(base).items() if name in names_of(kind)])
            }
            if owners:
                slot = part if part in owners else next(iter(owners))
                there = type(getattr(cfg, slot)).__name__
                raise UserError(
                    f"{given} is not known: the {slot} of {cfg.recipe} is {there}, and {name} "
                    f"belongs to {' and '.join(owners[slot])} (--{slot} {owners[slot][0]})."
                )
