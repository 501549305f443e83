"""Train a recipe with constants changed, as `train.py` does: RECIPE:constant=value,constant=value.

    python benchmarks/variant.py best:critic.augment=0,batch_size=16 --data-dir data --epochs 20
    python benchmarks/variant.py best:objective=WassersteinGP,objective.gp_weight=10

Constants have their full names. A part of another kind (`objective=WassersteinGP`), which no option
of `train.py` can choose, keeps what both kinds know. After the variant come the options of
`train.py`, and the exit codes are its own.
"""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import train  # noqa: E402
from config import RECIPES, SUMMARIES  # noqa: E402
from soundgan import command_line, config_io  # noqa: E402
from soundgan.console import friendly  # noqa: E402
from soundgan.errors import UserError, nearest  # noqa: E402
from soundgan.settings import Config, Part, kinds_of, names_of, parts_of  # noqa: E402


def recipe_of(variant: str) -> str:
    """Name of the recipe that a variant changes."""
    return variant.partition(":")[0]


def changes_of(variant: str) -> dict[str, str]:
    """What it changes, by full names."""
    parts = [change.partition("=") for change in variant.partition(":")[2].split(",") if change]
    return {name: value for name, _, value in parts}


def changed(cfg: Config, changes: dict[str, str], flags: Sequence[str] = ()) -> Config:
    """`cfg` with these constants and options. Raises UserError for what it does not know."""
    kinds = {name: value for name, value in changes.items() if name in parts_of(cfg)}
    for name, kind in kinds.items():
        own = {k.rpartition(".")[2]: v for k, v in changes.items() if k.startswith(f"{name}.")}
        cfg = dataclasses.replace(cfg, **{name: of_kind(getattr(cfg, name), kind, own)})
    words = [
        word for name, value in changes.items() if name not in kinds for word in flag(name, value)
    ]
    one = {cfg.recipe: cfg}
    return command_line.parse([cfg.recipe, *words, *flags], one, SUMMARIES, cfg.recipe)


def of_kind(part: Part, kind: str, own: dict[str, str]) -> Part:
    """A part of another class, with what both have and with `own` constants."""
    base = next(base for base in type(part).__mro__ if Part in base.__bases__)
    kinds = {k.__name__: k for k in kinds_of(base) if not kinds_of(k)}
    if kind not in kinds:
        raise UserError(f"There is no {base.__name__} {kind!r}: {nearest(kind, list(kinds))}")
    both = [name for name in names_of(kinds[kind]) if name in names_of(type(part))]
    values = {name: getattr(part, name) for name in both}
    return kinds[kind](**values | {name: _value(text) for name, text in own.items()})


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def flag(name: str, value: str) -> list[str]:
    """One constant as words of a command line."""
    part, dot, own = name.replace("_", "-").rpartition(".")
    if value in ("True", "False"):
        return [f"--{part}{dot}{'' if value == 'True' else 'no-'}{own}"]
    return [f"--{part}{dot}{own}", value]


def parse(words: Sequence[str]) -> Config:
    """VARIANT and options -> a checked configuration."""
    variant, *flags = words
    if (recipe := recipe_of(variant)) not in RECIPES:
        raise UserError(f"There is no recipe {recipe!r}: {nearest(recipe, list(RECIPES))}")
    return changed(RECIPES[recipe], changes_of(variant), flags)


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    with friendly() as outcome:
        cfg = parse(argv)
        train.train(cfg, config_io.changes(RECIPES[cfg.recipe], cfg))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
