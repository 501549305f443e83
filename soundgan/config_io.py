"""A configuration changed, compared, written down and read again.

Constants have full names here, those of the command line: `epochs`, `sound.frames`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soundgan import files
from soundgan.errors import UserError, nearest
from soundgan.parts import Part, concrete, names_of, shown
from soundgan.settings import BASES, Config, parts_of

OF_A_RUN = (  # constants that belong to the run: all others belong to the recipe
    *("data_dir", "output_dir", "run_name", "sample_every", "score_every", "score_clips"),
    *("checkpoint_every", "holdout", "holdout_dir", "seed", "device", "deterministic", "tf32"),
    *("graph", "compile", "background", "decode_threads", "tensorboard", "init_from"),
    "dry_run",
)
FREE = ("epochs", "batch_size", "vocoder", "generator.latent_spread")  # a recipe's: may change
MUST_MATCH = ("seed", "holdout", "holdout_dir")  # of a run, what may not
KIND = "kind"  # in a part that was written down, the name of its class


def change(cfg: Config, changes: Mapping[str, object]) -> Config:
    """`cfg` with other values, by their full names: `change(cfg, {"sound.frames": 64})`.

    A part as a whole can be changed by its name, too. Raises UserError for an unknown name.
    """
    own: dict[str, Any] = {name: v for name, v in changes.items() if "." not in name}
    for name in own:
        if name not in names_of(Config):
            raise UserError(f"There is no constant {name!r}: {nearest(name, names_of(Config))}")
    cfg = dataclasses.replace(cfg, **own)
    inner: dict[str, dict[str, object]] = {}
    for name, value in changes.items():
        part, dot, field = name.partition(".")
        if dot:
            inner.setdefault(part, {})[field] = value
    for part in inner:
        if part not in parts_of(cfg):
            raise UserError(f"There is no part {part!r}: {nearest(part, list(parts_of(cfg)))}")
    return dataclasses.replace(
        cfg, **{n: dataclasses.replace(getattr(cfg, n), **v) for n, v in inner.items()}
    )


def flat(cfg: Config) -> dict[str, object]:
    """Every constant by its full name, such as `epochs` and `sound.frames`; a part's class too."""
    return flatten(to_dict(cfg))


def flag(name: str, on: bool = True) -> str:
    """A constant, by its full name, as an option; `on` false: that which turns it off."""
    part, dot, own = name.replace("_", "-").rpartition(".")
    return f"--{part}{dot}{'' if on else 'no-'}{own}"


def flatten(written: Mapping[str, object]) -> dict[str, object]:
    """What `to_dict` wrote, by full names."""
    values: dict[str, object] = {}
    for name, value in written.items():
        inner = isinstance(value, Mapping)
        values |= {f"{name}.{own}": v for own, v in value.items()} if inner else {name: value}
    return values


def changes(usual: Config, cfg: Config) -> dict[str, object]:
    """The constants of `cfg` that differ from those of `usual`, by full names."""
    before = flat(usual)
    return {name: value for name, value in flat(cfg).items() if before.get(name) != value}


def must_match(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    """Full names of the constants that make two configurations (by full names) other trainings.

    Those are the recipe's except those in FREE; the seed, which a continued run would silently
    ignore; and what is held out, which it must never have seen. A constant that one of the two
    lacks, because it was written before there was one, has its usual value there.
    """
    free = (*FREE, *(name for name in OF_A_RUN if name not in MUST_MATCH))
    names = [name for name in (*a, *(n for n in b if n not in a)) if name not in free]
    return [name for name in names if value_of(a, name) != value_of(b, name)]


def value_of(values: Mapping[str, object], name: str) -> object:
    """A constant among `values` (by full names), or its default there; None where there is none."""
    if name in values:
        return values[name]
    part, _, own = str(name).rpartition(".")
    owner = Config
    if part:
        kinds = concrete(BASES[part]) if part in BASES else {}
        owner = kinds.get(str(values.get(f"{part}.{KIND}")))
    defaults = {f.name: f.default for f in dataclasses.fields(owner)} if owner else {}
    default = defaults.get(own, dataclasses.MISSING)
    return None if default is dataclasses.MISSING else _written(default)


def to_dict(cfg: Config) -> dict:
    """The constants as JSON and `torch.load(weights_only=True)` know them, a part as a dict."""
    values = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}
    return {k: _written(v) for k, v in values.items()}


def _written(value: object) -> object:
    if isinstance(value, Part):
        own = {f.name: _written(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {KIND: type(value).__name__} | own
    return list(value) if isinstance(value, tuple) else value


def from_dict(values: Mapping, where: str) -> Config:
    """The inverse of `to_dict`, checked; raises UserError naming `where` for what does not fit."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} is damaged: its constants are no table.")
    refuse_old(values, where)
    try:
        cfg = Config(**{name: _read(name, value) for name, value in values.items()})
    except (TypeError, AttributeError, KeyError, ValueError, UserError) as error:
        raise UserError(
            f"{where} is damaged, or of another version of this program ({error})."
        ) from error
    cfg.check(where)
    return cfg


def refuse_old(values: Mapping, where: str) -> None:
    """Raise UserError where constants have no parts: they were written before version 0.1.0."""
    if "representation" in values:
        raise UserError(
            f"{where} was written before version 0.1.0 of this program, whose networks and "
            "constants had other names: use it with that version, or train anew with --run-name "
            "NAME."
        )


def _read(name: str, value: object) -> object:
    """One constant, or one part, as it was written."""
    if name not in BASES:
        return tuple(value) if isinstance(value, list) else value
    kinds = concrete(BASES[name])
    kind = value.get(KIND) if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping) or not isinstance(kind, str) or kind not in kinds:
        raise UserError(
            f"its {name} is {shown(kind)}, which this program does not know, or not before "
            f"config.py, which brings its kinds, is imported; known: {', '.join(kinds) or 'none'}"
        )
    own = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k != KIND}
    return kinds[kind](**own)


# ---- JSON ----------------------------------------------------------------------------------------

MOST_BYTES = 16 * 2**20  # of a file of JSON


def read_json(path: Path) -> Any:
    """The content of a file of JSON, which must say everything once and have numbers for numbers.

    Raises ValueError with the reason; OSError where there is no such file, or no regular one.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB")
    content = files.read_bytes(path)
    try:
        return json.loads(content, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"it says {shown(name)} more than once")
        table[name] = value
    return table


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
