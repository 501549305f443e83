"""What the parts of a recipe have in common: names that are checked, and a check of values."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
import unicodedata
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Union

import tyro

from soundgan.errors import UserError, nearest

Need = Callable[[bool, str, str], None]  # (whether it holds, name of the constant, why)

MOST_WHOLE = 2**63 - 1  # what PyTorch's integers hold
MOST_NUMBER = 1e30  # its float32 products still are finite
MOST_TEXT, MOST_NAME = 4096, 255  # bytes of a path, and of one name in it, that file systems take
MOST_ENTRIES = 64  # numbers of a constant that may have any count of them


def _number_or_text(words: Sequence[str]) -> int | str:
    """The whole number that the one word is, or the word."""
    try:
        return int(words[0])
    except ValueError:
        return words[0]


# On a command line, any other word is taken as it is: the check of types says what it must be.
NumberOrAuto = Annotated[
    int | Literal["auto"],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT|auto",
        instance_from_str=_number_or_text,
        is_instance=lambda value: isinstance(value, (int, str)),
        str_from_instance=lambda value: [str(value)],
    ),
]


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


# ---- ranges --------------------------------------------------------------------------------------


def positive(part: object, need: Need, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(part, name)
        need(math.isfinite(value) and value > 0, name, "must be a positive number")


def not_negative(part: object, need: Need, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(part, name)
        need(math.isfinite(value) and value >= 0, name, "must be zero or a positive number")


def within(part: object, need: Need, least: float, most: float, names: Iterable[str]) -> None:
    """Each must lie between two numbers: `most` is more than any use, and less than a machine."""
    for name in names:
        need(getattr(part, name) >= least, name, f"must be at least {least:,}".replace(",", " "))
        need(getattr(part, name) <= most, name, f"must be at most {most:,}".replace(",", " "))


# ---- types ---------------------------------------------------------------------------------------


_TYPES: weakref.WeakKeyDictionary[type, dict[str, object]] = weakref.WeakKeyDictionary()


def types_of(kind: type) -> dict[str, object]:
    """Types of the constants of a part or of a run, by name, as its class annotates them."""
    if kind not in _TYPES:
        try:
            hints = typing.get_type_hints(kind)
        except NameError:  # a kind that names what is defined where nobody else can see it
            hints = {}
        _TYPES[kind] = {name: hints[name] for name in names_of(kind) if name in hints}
    return _TYPES[kind]


def misfit(kind: object, value: object) -> str:
    """What a constant of this type must be, as the end of a sentence; "" where `value` is that."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return misfit(arguments[0], value)
    if origin is Literal:
        known = any(type(value) is type(one) and value == one for one in arguments)
        return "" if known else f"must be one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        reasons = [misfit(one, value) for one in arguments]
        others = [reason.removeprefix("must be ").removeprefix("one of ") for reason in reasons[1:]]
        return " or ".join([reasons[0], *others]) if all(reasons) else ""
    if origin is tuple:
        return _misfit_numbers(arguments, value)
    if kind is type(None):
        return "" if value is None else "must be none"
    checks = {bool: _misfit_switch, int: _misfit_whole, float: _misfit_number, str: _misfit_text}
    return checks[kind](value) if kind in checks else ""


def _misfit_switch(value: object) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _misfit_whole(value: object) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        return "must be a whole number"
    return "" if abs(value) <= MOST_WHOLE else "must be a whole number of less than 64 bits"


def _misfit_number(value: object) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "must be a number"
    most = MOST_WHOLE if isinstance(value, int) else MOST_NUMBER
    return "" if abs(value) <= most else f"must be a number up to {most:g}"  # NaN is not


def _misfit_text(value: object) -> str:
    if not isinstance(value, str):
        return "must be a text"
    if any(unicodedata.category(sign) == "Cc" for sign in value):
        return "must hold no control characters"
    try:
        lengths = [len(name) for name in os.fsencode(value).replace(b"\\", b"/").split(b"/")]
    except UnicodeEncodeError:
        return "must be a text that a file's name can hold"
    fits = max(lengths) <= MOST_NAME and sum(lengths) + len(lengths) <= MOST_TEXT
    return "" if fits else f"must be at most {MOST_NAME} bytes a name and {MOST_TEXT} in all"


def _misfit_numbers(kinds: Sequence[object], value: object) -> str:
    """`kinds`: the arguments of `tuple[...]`."""
    if not isinstance(value, (tuple, list)):
        return "must be several numbers"
    if kinds[-1] is Ellipsis:
        if len(value) > MOST_ENTRIES:
            return f"must be at most {MOST_ENTRIES} numbers"
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        return f"must be {len(kinds)} numbers"
    reasons = [misfit(kind, one) for kind, one in zip(kinds, value)]
    return next((f"each entry {reason}" for reason in reasons if reason), "")


def shown(value: object) -> str:
    """A value as a sentence names it, however long or deep it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits; nested a thousand times
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}..."
