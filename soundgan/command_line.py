"""`[RECIPE] [--field value ...]` -> a checked configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tyro

from soundgan.config_io import BASES, KIND, flat
from soundgan.errors import UserError
from soundgan.settings import Config, Part, kinds_of, names_of, nearest, parts_of


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
    refuse_foreign(argv, recipes[name])
    listed = "\n".join(f"  {n}: {summaries[n]}" for n in recipes)
    cfg = tyro.cli(
        _kind_of(recipes[name]),
        default=_as(recipes[name], _kind_of(recipes[name])),
        args=argv,
        prog="train.py [RECIPE]",
        description="Turn folders of sounds into a model that invents new ones.\n\n"
        f"Recipes:\n{listed}\n\nThe defaults below are those of {name}.",
    )
    cfg = _as(cfg, Config)
    cfg.check()
    return cfg


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
        flag = word.partition("=")[0]
        part, dot, field = flag[2:].replace("-", "_").rpartition(".")
        spellings = {field, field.removeprefix("no_")}
        if not flag.startswith("--") or any(f"{part}{dot}{name}" in known for name in spellings):
            continue
        for name in spellings:
            own = ["--" + k.replace("_", "-") for k in known if k.rpartition(".")[2] == name]
            if own:
                raise UserError(f"{flag} is not known: {cfg.recipe} has {' or '.join(own)}.")
            if kinds := [kind for kind in kinds_of(Part) if name in names_of(kind)]:
                slot, there = next(
                    (slot, type(there).__name__)
                    for slot, there in parts_of(cfg).items()
                    if isinstance(there, BASES[slot]) and issubclass(kinds[0], BASES[slot])
                )
                raise UserError(
                    f"{flag} is not known: the {slot} of {cfg.recipe} is {there}, and {name} "
                    f"belongs to {' and '.join(k.__name__ for k in kinds if not kinds_of(k))}."
                )
