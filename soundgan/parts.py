"""What the parts of a recipe have in common: names that are checked, and a check of values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from soundgan.errors import UserError, nearest

Need = Callable[[bool, str, str], None]  # (whether it holds, name of the constant, why)


class Checked:
    """Names of constants are checked before anything is made of them."""

    def __new__(cls, **values: object) -> Checked:
        for name in values:
            if name not in names_of(cls):
                raise UserError(f"{cls.__name__} has no constant {name!r}: {owners(name, cls)}")
        needed = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        if missing := [name for name in needed if name not in values]:
            raise UserError(f"{cls.__name__} needs {', '.join(missing)}.")
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple, dict[str, object]]:
        """What pickle and copy make it from."""
        return (), {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@dataclass(frozen=True, kw_only=True)
class Part(Checked):
    """One part of a recipe. A constant of another part is refused by the name of that part."""

    abstract: ClassVar[bool] = True  # in a class itself: no recipe can have it, its kinds it can

    def check(self, cfg: object, need: Need) -> None:
        """Say through `need` which constant cannot work, beside the rest of the Config `cfg`."""


def names_of(kind: type) -> list[str]:
    """Names of the constants of a part or of a run."""
    return [f.name for f in dataclasses.fields(kind)]


def concrete(base: type) -> dict[str, type]:
    """The classes below `base` that a recipe can have, by their names."""
    below = {k: v for own in base.__subclasses__() for k, v in concrete(own).items()}
    own = {} if vars(base).get("abstract") else {base.__name__: base}
    return own | below


def owners(name: str, asked: type) -> str:
    """Which parts have the constant `name` that `asked` has not, as the end of a sentence."""
    if own := [kind for kind, owner in concrete(Part).items() if name in names_of(owner)]:
        return f"it belongs to {' and '.join(own)}."
    return nearest(name, names_of(asked))
