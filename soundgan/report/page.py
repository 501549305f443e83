"""The listening page: the sounds of a run by class and epoch, its scores, curves and constants.

One template, `page.html`, serves a run (`RUN/index.html`), all runs side by side
(`OUTPUTS/index.html`) and a notebook, where no file can be loaded and everything is embedded. What
it shows is only what the files of a run's folder say (`run_contents.py`); the template decides how
it looks.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile

from soundgan.errors import UserError
from soundgan.files import is_regular, read_bytes, write_bytes
from soundgan.report.run_contents import describe, find_runs

TEMPLATE = Path(__file__).with_name("page.html")
SHOW_MEGABYTES = 24  # sounds and pictures that a notebook page embeds at most
MOST_BYTES = 1 << 27  # of a sound or picture to embed, before it is made smaller
HEAD_BYTES = 4096  # of a page, among which its mark is
MARKS = (b'<meta name="generator" content="soundgan">', b"\nThe listening page: one template for")
_left_alone: set[Path] = set()  # pages of others, of which it has been said


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
    content = {"kind": "run", "runs": [run], "above": above.is_file() and is_ours(above)}
    _write(path, content)
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
    _write(path, content)
    return path


def _write(path: Path, content: dict) -> None:
    """Write a page, unless something else has its name: that is left alone, and said once."""
    if is_ours(path):
        write_bytes(path, _fill(content).encode())
    elif path not in _left_alone:
        _left_alone.add(path)
        print(
            f"{path} is no page of this program and is left alone: rename it to have the listening "
            "page there.",
            flush=True,
        )


def is_ours(path: Path) -> bool:
    """Whether a page may be written there: nothing is, or one that this program wrote."""
    if not os.path.lexists(path):
        return True
    if not is_regular(path):
        return False
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    return any(mark in head for mark in MARKS)


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
    room = int(SHOW_MEGABYTES * 1e6)
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
        if os.stat(path).st_size > MOST_BYTES:
            return ""
        content = read_bytes(path)
        kind = "image/png" if path.suffix == ".png" else "audio/flac"
        if kind == "audio/flac":
            content = _as_flac(content)
    except (OSError, RuntimeError, ValueError):  # gone, a pipe, damaged
        return ""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _as_flac(content: bytes) -> bytes:
    """A WAV as FLAC; raises ValueError or RuntimeError where it is none."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        if sound.format != "WAV":
            raise ValueError("no WAV file")
        # No more than the file can hold, whatever its header says.
        samples = sound.read(min(sound.frames, len(content) // sound.channels), dtype="int16")
        soundfile.write(buffer, samples, sound.samplerate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


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
