"""Which clips are trained on, and which are held out to score against.

Scores need real clips that the networks never saw. Takes of one recording resemble each other far
more than two recordings do, so whole sources are held out wherever the names say what they are.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from soundgan import files
from soundgan.dataset.cache import load_clips
from soundgan.dataset.decoding import Clips
from soundgan.dataset.discovery import class_of, find_files
from soundgan.errors import UserError
from soundgan.settings import Config

HOLD_OUT_FROM = 20  # clips of a class from which on some of them are held out
HELD_OUT_AT_MOST = 0.25  # of a class, where whole sources make it more than was asked for

# Forms of file names (without extension) that say where a clip was cut from, in this order; `s` is
# the source. The last one is any name that ends in a counter.
SOURCES = (
    re.compile(r"(?P<s>\d-\d+)-[A-Z](-\d+)?"),  # ESC-50: fold-recording-take-class
    re.compile(r"(?P<s>\d+)-\d+-\d+-\d+"),  # UrbanSound8K: recording-class-occurrence-slice
    re.compile(r"(?P<s>[0-9a-f]+)_nohash_\d+"),  # Speech Commands: speaker
    re.compile(r"(?P<s>.+)[-_ .]+\(?(\d+|[A-Za-z])\)?"),
)


@dataclass(frozen=True)
class Recording:
    """Where one real clip is on disk: its waveform is read again when it is scored against."""

    path: Path
    number: int  # of the clip within the file
    label: int


@dataclass(frozen=True)
class Split:
    """Which clips are trained on, and which real sounds are for scoring only."""

    training: np.ndarray  # indices into the clips, rising
    held_out: list[Recording]
    said: str  # one sentence: how many, by what rule


def recordings(clips: Clips, rows: Iterable[int]) -> list[Recording]:
    """Where the clips of these rows came from."""
    root = Path(clips.root)
    return [Recording(root / clips.files[i], clips.numbers[i], clips.labels[i]) for i in rows]


def source_in_name(name: str) -> str:
    """Source in a file's name, or the name itself: `dog/3-1234-B.wav` -> `3-1234`.

    The class's own name is no part of it: `7/7_jackson_32.wav` and `8/8_jackson_5.wav` have one
    speaker.
    """
    stem = os.path.splitext(name.rpartition("/")[2])[0]
    match = next(filter(None, (form.fullmatch(stem) for form in SOURCES)), None)
    if match is None:
        return stem
    label = class_of(name)
    return "-".join(part for part in re.split(r"[-_ .]+", match["s"]) if part != label)


def source_in_folder(name: str) -> str:
    """Folders between class and file, such as one a speaker or a fold; "" where there are none."""
    return "/".join(name.split("/")[1:-1])


def hold_out(cfg: Config, clips: Clips) -> np.ndarray:
    """Which clips are held out, as a mask `(N,)`: `cfg.holdout` of each class, never by chance.

    Sources are taken whole, in an order that depends on their names alone: sub-folders of the class
    folders where there are some, else what the file names say, else single files; in consecutive
    clips of few long files, the end of the class. A source that would take more than a quarter of a
    class is passed over. Classes of fewer than 20 clips are left whole.
    """
    labels = np.array(clips.labels, int)
    sizes = np.bincount(labels, minlength=len(clips.classes))
    wanted = np.where(sizes >= HOLD_OUT_FROM, np.ceil(cfg.holdout * sizes), 0).astype(int)
    most = np.maximum(wanted, (HELD_OUT_AT_MOST * sizes).astype(int))
    held = np.zeros(len(clips), bool)
    for source_of in (source_in_folder, source_in_name, str):
        taken = np.bincount(labels[held], minlength=len(sizes))
        open_classes = (taken == 0) & (wanted > 0)  # those no coarser rule could serve
        if not open_classes.any():
            break
        sources: dict[str, list[int]] = {}
        for index, name in enumerate(clips.files):
            if not held[index]:
                sources.setdefault(source_of(name), []).append(index)
        for source in sorted(sources, key=_order):
            lacking = open_classes & (taken < wanted)
            if not lacking.any():
                break
            counts = np.bincount(labels[sources[source]], minlength=len(sizes))
            if source and (lacking & (counts > 0)).any() and (taken + counts <= most).all():
                held[sources[source]] = True
                taken += counts
    for label in np.flatnonzero(wanted * (np.bincount(labels[held], minlength=len(sizes)) == 0)):
        held[np.flatnonzero(labels == label)[-wanted[label] :]] = True  # one file of many clips
    return held


def _order(source: str) -> str:
    return hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()


def split(cfg: Config, clips: Clips, known: bool, keep: bool = True) -> Split:
    """Part the clips into those to train on and those to score against.

    With `known`, the run's own `held_out.csv` decides, and clips that came later are trained on
    unless their source is held out: what was trained on once is never scored against. Without, that
    list is written (`keep`). Raises UserError where less than a batch is left to train on, or
    too little to score against.
    """
    record = cfg.run_dir / "held_out.csv"
    if cfg.holdout_dir:
        apart = _from_folder(cfg, clips.classes, keep)
        said = f"{len(apart)} clips of {cfg.holdout_dir} are for scoring only."
        return _enough(cfg, clips, Split(np.arange(len(clips)), apart, said))
    sources = [source_in_name(name) for name in clips.files]
    own = list(zip(clips.files, clips.numbers, sources))
    if known:
        pairs, whole = _read_held_out(record)
        held = [
            (files.as_written(name), number) in pairs or files.as_written(source) in whole
            for name, number, source in own
        ]
        mask = np.array(held, bool)
    else:
        mask = hold_out(cfg, clips)
    apart = recordings(clips, np.flatnonzero(mask))
    rest = {sources[i] for i in np.flatnonzero(~mask)}
    if keep and not known:
        listed = [own[i] for i in np.flatnonzero(mask)]
        # A source is named where all of it is held out: then what comes of it later is, too.
        rows = [(name, number, s if s not in rest else "") for name, number, s in listed]
        files.write_csv(record, [("file", "clip", "source"), *rows])
    said = _said(cfg, {sources[i] for i in np.flatnonzero(mask)}, rest, mask, known)
    return _enough(cfg, clips, Split(np.flatnonzero(~mask), apart, said))


def _enough(cfg: Config, clips: Clips, parts: Split) -> Split:
    if len(parts.held_out) == 1:
        raise UserError(
            "One clip is held out, and the scores need two at least: hold out more (--holdout 0.1, "
            "or --holdout-dir FOLDER), or none (--holdout 0)."
        )
    if (count := len(parts.training)) >= cfg.batch_size:
        return parts
    apart = f" ({len(clips) - count} more are held out, --holdout 0)" if count < len(clips) else ""
    raise UserError(
        f"{count} usable clips below {clips.root}{apart} are fewer than one batch of "
        f"{cfg.batch_size}: bring more sounds, or lower batch_size "
        f"(--batch-size {max(1, count)})."
    )


def _said(cfg: Config, held: set[str], rest: set[str], mask: np.ndarray, known: bool) -> str:
    """One sentence about what is held out; `held`, `rest`: sources of what is and what is not."""
    if not mask.any():
        why = "holdout = 0" if not cfg.holdout else f"no class has {HOLD_OUT_FROM} clips"
        why = "this run trained on all of them" if known else why
        return f"No clip is held out ({why}): scores will compare with the training clips."
    whole = "" if held & rest else f", {len(held)} whole sources by their names"
    return f"{mask.sum()} of {len(mask)} clips are held out for the scores{whole}."


def _from_folder(cfg: Config, classes: list[str], keep: bool) -> list[Recording]:
    found = find_files(cfg.holdout_dir, loose=not cfg.conditional)
    clips = load_clips(cfg, found, keep) if found.files else None
    labels = {name: index for index, name in enumerate(classes)}
    names = [clips.classes[k] for k in clips.labels] if clips else []
    apart = [
        replace(recording, label=labels[name])
        for recording, name in zip(recordings(clips, range(len(names))) if clips else [], names)
        if name in labels
    ]
    if not apart:
        raise UserError(
            f"holdout_dir = {cfg.holdout_dir!r}: holds no usable clip of the classes "
            f"{', '.join(classes)} (--holdout-dir)."
        )
    if other := sorted(set(names) - set(classes)):
        print(f"Of {cfg.holdout_dir}, {', '.join(other)} is no class of the run: left out.")
    return apart


def _read_held_out(record: Path) -> tuple[set[tuple[str, int]], set[str]]:
    """Clips (file, number) and whole sources that a run's `held_out.csv` names."""
    try:
        with open(record, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {(r["file"], int(r["clip"])) for r in rows}, {r["source"] for r in rows} - {""}
    except FileNotFoundError:  # a run that held nothing out
        return set(), set()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{record} is damaged ({error}): without it no one knows what this run never saw. "
            "Copy it back from a backup, or start another run with --run-name NAME."
        ) from error
