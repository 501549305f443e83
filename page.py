"""The listening page: the sounds of a run by class and epoch, its scores, curves and constants.

One template, `page.html`, serves a run (`RUN/index.html`), all runs side by side
(`OUTPUTS/index.html`) and a notebook, where no file can be loaded and everything is embedded. What
is said here is only what the files of a run's folder say; the template decides how it looks.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import soundfile

import config
import runs
from config import UserError

TEMPLATE = Path(__file__).with_name("page.html")
ROUND_TRIP = "real"  # the folder of real clips that went through the vocoder
PLAYING = re.compile(r"epoch_(\d+)")  # a set of sounds below samples/


# ---- what is written ----------------------------------------------------------------------------


def write_pages(run_dir: Path) -> None:
    """Write the page of a run and the one over all runs beside it."""
    write_page(run_dir)
    write_overview(Path(run_dir).resolve().parent)


def write_page(run_dir: Path) -> Path:
    """Write `RUN/index.html` from the files of the run's folder; returns its path.

    Raises UserError where there is no readable config.json; OSError where it cannot be written.
    """
    path = Path(run_dir) / "index.html"
    run = describe(Path(run_dir), [])
    above = Path(run_dir).resolve().parent / "index.html"
    content = {"kind": "run", "runs": [run], "above": above.is_file()}
    runs.write_bytes(path, _fill(content).encode())
    return path


def write_overview(output_dir: Path) -> Path:
    """Write `OUTPUTS/index.html`: every run below, side by side; returns its path.

    A run whose config.json is damaged is named on the page with the reason, and fails nothing.
    """
    output_dir = Path(output_dir)
    found, damaged = [], []
    for folder in find_runs(output_dir):
        steps = folder.relative_to(output_dir).parts
        try:
            run = describe(folder, steps)
        except (UserError, OSError) as error:
            damaged.append({"name": "/".join(steps), "reason": str(error)})
            continue
        sets = [c for c in run["columns"] if c["kind"] == "epoch"]
        run["columns"] = [c for c in run["columns"] if c["kind"] != "epoch"] + sets[-1:]
        shown = (
            *("name", "path", "recipe", "rows", "columns"),
            *("scores", "epoch", "epochs", "problems"),
        )
        page = (folder / "index.html").is_file()
        found.append({k: run[k] for k in shown} | {"page": page})
    name = output_dir.resolve().name
    content = {"kind": "overview", "name": name, "runs": found, "damaged": damaged}
    path = output_dir / "index.html"
    runs.write_bytes(path, _fill(content).encode())
    return path


def show(run: str | Path) -> None:
    """Display a run's page in Jupyter or Colab, with its sounds and pictures embedded.

    The newest epochs come first, up to SHOW_MEGABYTES; how many were left out is said on the page.
    Raises UserError where the folder is no run, or outside a notebook's Python.
    """
    try:
        from IPython.display import HTML, display
    except ImportError as error:
        page = Path(run) / "index.html"
        raise UserError(
            f"show() is for notebooks, and IPython is not installed: open {page} in a browser."
        ) from error
    page = html.escape(embedded_page(Path(run)))
    # Sandboxed: what a class is called must not reach the notebook around the page.
    display(
        HTML(
            '<div><iframe sandbox="allow-scripts" allow="autoplay; clipboard-write" '
            'title="Sounds of the run" style="width: 100%; height: 56rem; border: 0" '
            f'srcdoc="{page}"></iframe></div>'
        )
    )


def embedded_page(run_dir: Path) -> str:
    """The page of a run as one string that loads nothing; at most SHOW_MEGABYTES of media."""
    run = describe(run_dir, [])
    room = int(config.SHOW_MEGABYTES * 1e6)
    media: dict[str, str] = {}
    kept = []
    sets = [c for c in run["columns"] if c["kind"] == "epoch"][::-1]
    others = [c for c in run["columns"] if c["kind"] != "epoch"]
    # The newest set and what it is to be compared with, then the older ones while they fit whole.
    for column in sets[:1] + others + sets[1:]:
        files = _embed(run_dir, column, run["rows"], room, whole=column not in sets[:1])
        if files is None and column in sets:
            break
        if files:
            media |= files
            room -= sum(map(len, files.values()))
            kept.append(column)
    for column in kept:  # what did not fit or cannot be read is not there to be played
        for kind, ending in (("silent", ".wav"), ("unseen", ".png")):
            lost = [n for n in run["rows"] if _key(column, n + ending) not in media]
            column[kind] = sorted(set(column[kind]) | set(lost))
    run["columns"] = [c for c in run["columns"] if c in kept]
    left_out = len(sets) - sum(c in kept for c in sets)
    content = {"kind": "notebook", "runs": [run], "media": media, "left_out": left_out}
    return _fill(content)


def _embed(
    run_dir: Path, column: dict, rows: Sequence[str], room: int, whole: bool
) -> dict[str, str] | None:
    """A set's sounds (as FLAC) and pictures as data URIs by path, within `room` characters.

    Where they do not fit, None if they are wanted `whole`, and else the rows that do.
    """
    files: dict[str, str] = {}
    for name in rows:
        for kind, ending in (("silent", ".wav"), ("unseen", ".png")):
            if name in column[kind]:
                continue
            uri = _data_uri(run_dir.joinpath(*column["path"], name + ending))
            room -= len(uri)
            if room < 0:
                return None if whole else files
            if uri:
                files[_key(column, name + ending)] = uri
    return files


def _key(column: dict, name: str) -> str:
    return "/".join([*column["path"], name])


def _data_uri(path: Path) -> str:
    """A WAV (as FLAC, half its size) or PNG as a data URI; empty where it cannot be read."""
    try:
        if path.suffix == ".png":
            kind, content = "image/png", path.read_bytes()
        else:
            kind, buffer = "audio/flac", io.BytesIO()
            samples, rate = soundfile.read(path, dtype="int16")
            soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
            content = buffer.getvalue()
    except (OSError, soundfile.SoundFileError):
        return ""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _fill(content: dict) -> str:
    """The template with `content` as its data, and a policy that allows its own script alone."""
    template = TEMPLATE.read_text(encoding="utf-8")
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        template = template.replace(f"{tag.upper()}_HASH", f"sha256-{digest}")
    # ASCII, so that U+2028 and broken file names are escaped as well; without <, > and & nothing
    # in it can end the element that holds it.
    text = json.dumps(_finite(content), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return template.replace("PAGE_DATA", text, 1)


def _finite(value: object) -> object:
    """`value` as JSON knows it: NaN and Inf, which it does not, become null."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- what a run's folder holds ------------------------------------------------------------------


def find_runs(output_dir: Path) -> Iterator[Path]:
    """Folders below `output_dir` that hold a config.json, by name; hidden ones are skipped."""
    for folder, below, files in os.walk(output_dir):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if "config.json" in files and Path(folder) != output_dir:
            below.clear()  # a run holds no runs
            yield Path(folder)


def describe(run_dir: Path, steps: Sequence[str]) -> dict:
    """All that the page says of a run that lies `steps` (names of folders) below the page.

    Raises UserError where config.json lacks or is damaged; other damaged files are told in
    `problems`, and the rest is described all the same.
    """
    content = runs.read_config(run_dir)
    constants, problems = content["config"], []
    log = _read_table(run_dir / "log.csv", problems)
    scores = _read_scores(run_dir / "scores.json", problems)
    rows = list(content["classes"])
    columns = list(_columns(run_dir, rows, steps))
    best_weights = any(
        (run_dir / "checkpoints" / f"best.{e}").is_file() for e in ("pt", "safetensors")
    )
    facts = {k: v for k, v in content.items() if k not in ("classes", "config", "versions")}
    epoch = max(log["epochs"] + [c["epoch"] for c in columns if c["kind"] == "epoch"], default=0)
    return {
        "name": "/".join(steps) or _named(run_dir).name,
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
        "best_weights": best_weights,
        "facts": facts,
        "constants": constants,
        "versions": content.get("versions"),
        "commands": commands(run_dir, constants, epoch, rows if content["classes"] else []),
        "problems": problems,
    }


def _columns(run_dir: Path, rows: list[str], steps: Sequence[str]) -> Iterator[dict]:
    """The sets of sounds below `samples/`: the originals, their round trip, then every epoch.

    `rows` are the classes; where there are none, the names that the sets hold are put there.
    """
    samples = run_dir / "samples"
    folders = [f for f in _names(samples) if (samples / f).is_dir()]
    epochs = sorted((int(m[1]), f) for f in folders if (m := PLAYING.fullmatch(f)))
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
    by_epoch: dict[int, dict] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            for row in csv.DictReader(file):
                epoch = _number(row.get("epoch"))
                if epoch is not None:
                    by_epoch[int(epoch)] = row
    except FileNotFoundError:
        pass
    except (OSError, csv.Error) as error:
        problems.append(f"{path.name} cannot be read ({error}).")
    epochs = sorted(by_epoch)
    names = dict.fromkeys(n for e in epochs for n in by_epoch[e] if n and n != "epoch")
    columns = {name: [_number(by_epoch[e].get(name)) for e in epochs] for name in names}
    return {"epochs": epochs, "columns": {k: v for k, v in columns.items() if set(v) - {None}}}


def _number(text: object) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _read_scores(path: Path, problems: list[str]) -> dict | None:
    """The content of scores.json, or None; why a damaged one is not shown goes to `problems`."""
    try:
        scores = json.loads(path.read_bytes())
        tables = [scores["rows"], scores.get("per_class") or {}]
        if not all(isinstance(row, dict) for table in tables for row in table.values()):
            raise TypeError("a row is no table")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problems.append(f"{path.name} is damaged ({type(error).__name__}: {error}).")
        return None
    return scores


# ---- commands -----------------------------------------------------------------------------------


def commands(run_dir: Path, constants: Mapping, epoch: int, classes: Iterable[str]) -> dict:
    """What to type to continue the run and to make more sounds, quoted for a shell.

    `generate` is its beginning; `labels` holds the words that name each class.
    """
    epochs = constants.get("epochs")
    epochs = epochs if isinstance(epochs, int) else max(1, epoch)
    finished = epoch >= epochs
    return {
        "finished": finished,
        "train": train_command(run_dir, constants, 2 * epochs if finished else epochs),
        "generate": f"python generate.py {shlex.quote(str(run_dir))}",
        "labels": {name: _option("label", [name]) for name in classes},
    }


def train_command(run_dir: Path, constants: Mapping, epochs: int) -> str:
    """The command that continues a run: its recipe, its place, and every constant that differs.

    All of those are needed, because a run is continued only with the constants it began with.
    """
    recipe = str(constants.get("recipe"))
    usual = config.to_dict(config.RECIPES[recipe]) if recipe in config.RECIPES else {}
    place = _named(run_dir)
    words = ["python train.py", shlex.quote(recipe)]
    if place.name != recipe:
        words.append(_option("run_name", [place.name]))
    if str(place.parent) != usual.get("output_dir"):
        words.append(_option("output_dir", [str(place.parent)]))
    words.append(f"--epochs {epochs}")
    said = ("recipe", "run_name", "output_dir", "epochs", "dry_run")
    for name, value in constants.items():
        if name in said or name not in usual or value == usual[name]:
            continue
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
        else:
            words.append(_option(name, value if isinstance(value, list) else [value]))
    return " ".join(words)


def _named(run_dir: Path) -> Path:
    """`run_dir` with a name at its end, which `.` and `..` have not."""
    return run_dir if run_dir.name not in ("", "..") else run_dir.resolve()


def _option(name: str, values: Sequence[object]) -> str:
    flag = f"--{name.replace('_', '-')}"
    if len(values) == 1 and str(values[0]).startswith("-"):  # would be taken for a flag
        return shlex.quote(f"{flag}={values[0]}")
    return " ".join([flag, *(shlex.quote(str(value)) for value in values)])
