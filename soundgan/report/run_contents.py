"""What a run's folder holds, as the listening page shows it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from soundgan.files import read_bytes
from soundgan.report.commands import commands, named
from soundgan.run_folder import read_config
from soundgan.training.log import NotReadable, Table, number, read_table

ROUND_TRIP = "real"  # the folder of real clips that went through the vocoder
EPOCH_SET = re.compile(r"epoch_(\d{1,9})")  # a set of sounds below samples/
MOST_SCORES = 1 << 26  # bytes of a scores.json
DEPTH = 8  # of tables and lists within each other, in config.json and scores.json


def find_runs(output_dir: Path) -> Iterator[Path]:
    """Folders below `output_dir` that hold a config.json, by name; hidden ones are skipped."""
    for folder, below, files in os.walk(output_dir):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if "config.json" in files and Path(folder) != output_dir:
            below.clear()  # a run holds no runs
            yield Path(folder)


def describe(run_dir: Path, steps: Sequence[str]) -> dict:
    """All that the page says of a run that lies `steps` (names of folders) below the page.

    Raises UserError where config.json lacks or is damaged; other damaged files are named in
    `problems`, and the rest is described all the same.
    """
    content = _shallow(read_config(run_dir))
    constants, problems = content["config"], []
    changed = content.get("changed") or {}
    log = _read_table(run_dir / "log.csv", problems)
    scores = _read_scores(run_dir / "scores.json", problems)
    rows = list(content["classes"])
    columns = list(_columns(run_dir, rows, steps))
    said = ("classes", "config", "changed", "versions")  # elsewhere on the page,
    said += ("held_out", "data_root")  # or for the program alone
    facts = {k: v for k, v in content.items() if k not in said}
    epoch = max(log["epochs"] + [c["epoch"] for c in columns if c["kind"] == "epoch"], default=0)
    return {
        "name": "/".join(steps) or named(run_dir).name,
        "path": list(steps),
        "recipe": content["config"]["recipe"],
        "conditional": bool(content["classes"]),
        "rows": rows,
        "columns": columns,
        "epoch": epoch,
        "epochs": constants.get("epochs"),
        "log": log,
        "score_log": _read_table(run_dir / "scores.csv", problems),
        "scores": scores,
        "best_weights": (run_dir / "best.safetensors").is_file(),
        "facts": facts,
        "constants": constants,
        "versions": content.get("versions"),
        "commands": commands(
            run_dir, constants, changed, epoch, rows if content["classes"] else []
        ),
        "problems": problems,
    }


def _shallow(value: object, depth: int = DEPTH) -> object:
    """What was read from JSON, without what lies deeper than any file of ours goes."""
    if not isinstance(value, (dict, list)):
        return value
    if not depth:
        return "..."
    if isinstance(value, list):
        return [_shallow(inner, depth - 1) for inner in value]
    return {key: _shallow(inner, depth - 1) for key, inner in value.items()}


def _columns(run_dir: Path, rows: list[str], steps: Sequence[str]) -> Iterator[dict]:
    """The sets of sounds below `samples/`: the originals, their round trip, then every epoch.

    `rows` are the classes; where there are none, the names that the sets hold are put there.
    """
    samples = run_dir / "samples"
    folders = [f for f in _names(samples) if (samples / f).is_dir()]
    epochs = sorted((int(m[1]), f) for f in folders if (m := EPOCH_SET.fullmatch(f)))
    sets = [(k, f, None) for k, f in (("original", "original"), (ROUND_TRIP, ROUND_TRIP))]
    sets = [s for s in sets if s[1] in folders] + [("epoch", f, n) for n, f in epochs]
    held = {folder: set(_names(samples / folder)) for _, folder, _ in sets}
    if not rows:
        stems = {n[:-4] for names in held.values() for n in names if n.endswith(".wav")}
        rows += sorted(stems, key=lambda n: [int(x) if x.isdigit() else x for x in _parts(n)])
    for kind, folder, epoch in sets:
        names = held[folder]
        yield {
            "kind": kind,
            "epoch": epoch,
            "path": [*steps, "samples", folder],
            "silent": [n for n in rows if f"{n}.wav" not in names],
            "unseen": [n for n in rows if f"{n}.png" not in names],
        }


def _parts(name: str) -> list[str]:
    return re.split(r"([0-9]+)", name)  # text and numbers by turns: sample_2 before sample_10


def _names(folder: Path) -> list[str]:
    try:
        return [n for n in os.listdir(folder) if not n.startswith(".")]
    except OSError:  # not there yet, or just being replaced by the training
        return []


def _read_table(path: Path, problems: list[str]) -> dict:
    """A CSV of one row an epoch as `epochs [E]` and `columns {name: [E values or None]}`."""
    try:
        table = read_table(path)
    except FileNotFoundError:
        table = Table()
    except (OSError, NotReadable) as error:
        problems.append(f"{path.name} cannot be read ({error}).")
        table = Table()
    if table.problems:
        problems.append(f"{path.name} cannot be read in full ({table.problems[0]}).")
    rows = ((_number(cells.get("epoch", "")), cells) for _, cells in table.rows)
    by_epoch = {int(epoch): cells for epoch, cells in rows if epoch is not None}
    epochs = sorted(by_epoch)
    names = [name for name in table.names if name != "epoch"]
    columns = {name: [_number(by_epoch[e][name]) for e in epochs] for name in names}
    return {"epochs": epochs, "columns": {k: v for k, v in columns.items() if set(v) - {None}}}


def _number(cell: str) -> float | None:
    try:
        value = number(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_scores(path: Path, problems: list[str]) -> dict | None:
    """The content of scores.json, or None; why a damaged one is not shown goes to `problems`."""
    try:
        if os.stat(path).st_size > MOST_SCORES:
            raise ValueError(f"more than {MOST_SCORES / 1e6:.0f} MB")
        scores = _shallow(json.loads(read_bytes(path)))
        tables = [scores["rows"], *(scores.get(n) or {} for n in ("per_class", "give_away"))]
        if not all(isinstance(row, dict) for table in tables for row in table.values()):
            raise TypeError("a row is no table")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problems.append(f"{path.name} is damaged ({type(error).__name__}: {error}).")
        return None
    return scores
