"""Which clips are trained on, and which are held out to score against.

Scores need real clips that the networks never saw. Takes of one recording resemble each other far
more than two recordings do, so whole sources are held out wherever the names say what they are, and
clips of which one is a copy of the other lie on one side. What a run holds out stands in its
`held_out.csv`, and in its checkpoint; `config.json` keeps their number and a checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from soundgan import config_io, files
from soundgan.console import plural
from soundgan.dataset.cache import load_clips
from soundgan.dataset.decoding import Clips
from soundgan.dataset.discovery import class_of, find_files
from soundgan.dataset.summary import reasons
from soundgan.errors import UserError
from soundgan.settings import Config

HOLD_OUT_FROM = 20  # clips of a class from which on some of them are held out
HELD_OUT_AT_MOST = 0.25  # of a class, where whole sources make it more than was asked for

NAME = "held_out.csv"  # the list in a run's folder
COLUMNS = ("file", "clip", "source")
Row = tuple[str, int, str]  # of that list: names as `_cell` leaves them; "": not the whole source

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
    digest: str = ""  # checksum of the decoded clip


@dataclass(frozen=True)
class Split:
    """Which clips are trained on, and which real sounds are for scoring only."""

    training: np.ndarray  # indices into the clips, rising
    held_out: list[Recording]
    said: str  # one sentence: how many, by what rule
    record: list[Row] = field(default_factory=list)  # rows of held_out.csv
    digests: list[str] = field(default_factory=list)  # of all clips that this run ever held out


def recordings(clips: Clips, rows: Iterable[int]) -> list[Recording]:
    """Where the clips of these rows came from."""
    root = Path(clips.root)
    return [
        Recording(root / clips.files[i], clips.numbers[i], clips.labels[i], clips.digests[i])
        for i in rows
    ]


def source_in_name(name: str) -> str:
    """Source in a file's name, or the name itself: `dog/3-1234-B.wav` -> `3-1234`.

    The class's own name is no part of it: `7/7_jackson_32.wav` and `8/8_jackson_5.wav` have one
    speaker.
    """
    name = files.nfc(name)
    stem = os.path.splitext(name.rpartition("/")[2])[0]
    match = next(filter(None, (form.fullmatch(stem) for form in SOURCES)), None)
    if match is None:
        return stem
    label = class_of(name)
    return "-".join(part for part in re.split(r"[-_ .]+", match["s"]) if part != label)


def source_in_folder(name: str) -> str:
    """Folders between class and file, such as one a speaker or a fold; "" where there are none."""
    return "/".join(files.nfc(name).split("/")[1:-1])


def file_itself(name: str) -> str:
    """The file as a source of its own."""
    return files.nfc(name)


# ---- the rule -----------------------------------------------------------------------------------


def hold_out(cfg: Config, clips: Clips) -> np.ndarray:
    """Which clips are held out, as a mask `(N,)`: `cfg.holdout` of each class, never by chance.

    Sources are taken whole, in an order that depends on their names alone: sub-folders of the class
    folders where there are some, else what the file names say, else single files; in consecutive
    clips of few long files, the end of the class. Clips that are copies of each other are of one
    source. A source that would take more than a quarter of a class is passed over. Classes of fewer
    than 20 clips are left whole.
    """
    labels = np.array(clips.labels, int)
    sizes = np.bincount(labels, minlength=len(clips.classes))
    wanted = np.where(sizes >= HOLD_OUT_FROM, np.ceil(cfg.holdout * sizes), 0).astype(int)
    most = np.maximum(wanted, (HELD_OUT_AT_MOST * sizes).astype(int))
    held, taken = np.zeros(len(clips), bool), np.zeros(len(sizes), int)

    def hold(rows: list[int]) -> None:
        """Hold these out, unless that would be too much of a class."""
        more = np.bincount(labels[rows], minlength=len(sizes))
        if (taken + more <= most).all():
            held[rows] = True
            taken[:] += more

    for source_of in (source_in_folder, source_in_name, file_itself):
        open_classes = (taken == 0) & (wanted > 0)  # those no coarser rule could serve
        if not open_classes.any():
            break
        for rows in _sources(source_of, clips, held):
            lacking = open_classes & (taken < wanted)
            if not lacking.any():
                break
            if lacking[labels[rows]].any():
                hold(rows)
    copies = _rows_of(clips.digests)
    for label in np.flatnonzero((taken == 0) & (wanted > 0)):  # one file of many clips: its end
        tried = set()
        for row in np.flatnonzero(labels == label)[::-1]:
            if taken[label] >= wanted[label]:
                break
            if not held[row] and clips.digests[row] not in tried:
                tried.add(clips.digests[row])
                hold(copies[clips.digests[row]])
    return held


def _sources(source_of: Callable[[str], str], clips: Clips, held: np.ndarray) -> list[list[int]]:
    """Rows of each source that has a name, but for those held already, in the order to take them.

    Sources that have a copy of one clip in them are one.
    """
    head: dict[tuple, tuple] = {}  # union-find over names of sources and digests of clips

    def root(node: tuple) -> tuple:
        while head.setdefault(node, node) != node:
            head[node] = head[head[node]]
            node = head[node]
        return node

    free = np.flatnonzero(~held).tolist()
    names = {row: source_of(clips.files[row]) for row in free}
    for row in free:
        if names[row]:
            head[root(("digest", clips.digests[row]))] = root(("source", names[row]))
    order: dict[tuple, str] = {}
    for name in set(names.values()) - {""}:
        unit = root(("source", name))
        order[unit] = min(order.get(unit, _order(name)), _order(name))
    rows: dict[tuple, list[int]] = {unit: [] for unit in order}
    for row in free:
        unit = root(("digest", clips.digests[row]))
        if unit in rows:  # not one of a source without a name
            rows[unit].append(row)
    return [rows[unit] for unit in sorted(rows, key=order.__getitem__)]


def _order(source: str) -> str:
    return hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()


def _rows_of(digests: Sequence[str]) -> dict[str, list[int]]:
    """Rows of the clips that are one sound, by its digest."""
    rows: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        rows.setdefault(digest, []).append(row)
    return rows


# ---- the split ----------------------------------------------------------------------------------


def split(
    cfg: Config,
    clips: Clips,
    known: bool,
    keep: bool = True,
    saved: Sequence[Sequence] | None = None,
    digests: Sequence[str] = (),
) -> Split:
    """Part the clips into those to train on and those to score against.

    With `known`, the run's own list decides: `saved`, where its checkpoint has one, else
    `held_out.csv`. Clips that came later are trained on unless their source, or a copy of them, is
    held out (`digests`: of what was held out before, under whatever name it is there now): what was
    trained on once is never scored against. Without `known`, the rule decides.
    The list is written where it differs (`keep`). Raises UserError where the list is lost, less
    than a batch is left to train on, or too little to score against.
    """
    rows = _rows(clips)
    if known:
        record, disjoint, notes = _recall(cfg, clips, saved)
        mask = _listed(record, rows, clips.digests, disjoint, digests)
        gone = _released(record, rows, mask)
        record = [row for row in record if row[:2] not in gone]
        if (lost := len({row[:2] for row in record} - {row[:2] for row in rows})) and mask.any():
            notes.append(
                f"{lost} of the {plural(len(record), 'clip')} that this run held out "
                f"{'is' if lost == 1 else 'are'} not there any more under that name."
            )
        if gone:
            notes.append(
                f"Of the clips that this run had held out, {len(gone)} are trained on from now on, "
                f"as copies of clips it trained on (such as {min(gone)[0]})."
            )
    else:
        mask = np.zeros(len(clips), bool) if cfg.holdout_dir else hold_out(cfg, clips)
        record, notes = _record(rows, mask), []
    training = np.flatnonzero(~mask)
    if cfg.holdout_dir:
        apart, said = _from_folder(cfg, clips, training, keep)
    else:
        apart = recordings(clips, np.flatnonzero(mask))
        said = _said(cfg, clips, rows, mask, record if known else None)
    held = {clips.digests[i] for i in np.flatnonzero(mask)}
    own = sorted(held | (set(digests) if known else set()))
    parts = _enough(cfg, clips, Split(training, apart, said, record, own), known)
    for note in notes:
        print(note, flush=True)
    if keep and (record or not known or os.path.lexists(cfg.run_dir / NAME)):
        _write(cfg.run_dir / NAME, record)
    return parts


def _rows(clips: Clips) -> list[Row]:
    """What the list would say of each clip."""
    sources = [source_in_name(name) for name in clips.files]
    return [(_cell(f), n, _cell(s)) for f, n, s in zip(clips.files, clips.numbers, sources)]


def _cell(name: str) -> str:
    """A name as the list has it: in one Unicode form, and what `files.write_csv` makes of it."""
    return files.as_written(files.nfc(name))


def _record(rows: list[Row], mask: np.ndarray) -> list[Row]:
    """The list; a source is named where all of it is held out: what comes of it later is, too."""
    rest = {rows[i][2] for i in np.flatnonzero(~mask)}
    held = [rows[i] for i in np.flatnonzero(mask)]
    return [(name, number, source if source not in rest else "") for name, number, source in held]


def _listed(
    record: list[Row],
    rows: list[Row],
    digests: Sequence[str],
    disjoint: bool,
    before: Sequence[str] = (),
) -> np.ndarray:
    """Which clips a run's list holds out, as a mask; no sound is on both sides.

    `disjoint`: whether the list was made so. Then a copy of a listed clip came later, and is held
    out; else it may have been trained on, and neither is. `before`: digests of clips that were
    held out, whose files may have other names by now.
    """
    clips, sources = {row[:2] for row in record}, {row[2] for row in record} - {""}
    listed = np.array([row[:2] in clips for row in rows], bool)
    copies = {digests[i] for i in np.flatnonzero(listed)} if disjoint else set()
    copies |= set(before)
    mask = np.array([row[2] in sources or d in copies for row, d in zip(rows, digests)], bool)
    mask |= listed
    trained = {digests[i] for i in np.flatnonzero(~mask)}
    return mask & np.array([digest not in trained for digest in digests], bool)


def _released(record: list[Row], rows: list[Row], mask: np.ndarray) -> set[tuple[str, int]]:
    """Clips (file, number) of the list that are not held out any more."""
    return {row[:2] for row in record} & {rows[i][:2] for i in np.flatnonzero(~mask)}


def _enough(cfg: Config, clips: Clips, parts: Split, known: bool) -> Split:
    """The split itself; raises UserError where there is too little on one side."""
    if len(parts.held_out) == 1:
        if cfg.holdout_dir:
            what = f"{cfg.holdout_dir} has one clip to score against"
            mend = "bring more, or name another folder (--holdout-dir FOLDER)"
        elif known:
            what = f"Of {len(parts.record)} clips that this run held out, one is below {clips.root}"
            mend = "bring the others back, or name the folder they are in (--data-dir FOLDER)"
        else:
            what = "One clip is held out"
            mend = "hold out more (--holdout 0.1, or --holdout-dir FOLDER), or none (--holdout 0)"
        raise UserError(f"{what}, and the scores need two at least: {mend}.")
    if (count := len(parts.training)) >= cfg.batch_size:
        return parts
    apart = f" ({len(clips) - count} more are held out, --holdout 0)" if count < len(clips) else ""
    lower = f", or lower batch_size (--batch-size {count})" if _can_train(cfg, count) else ""
    left = f"; left out: {reasons(clips.left_out)}" if clips.left_out else ""
    raise UserError(
        f"{plural(count, 'usable clip')} to train on below {clips.root}{apart}, and batch_size is "
        f"{cfg.batch_size}: bring more sounds{lower}{left}."
    )


def _can_train(cfg: Config, batch_size: int) -> bool:
    try:
        replace(cfg, batch_size=batch_size).check()
    except UserError:
        return False
    return True


def _said(
    cfg: Config, clips: Clips, rows: list[Row], mask: np.ndarray, record: list[Row] | None
) -> str:
    """One sentence about what is held out; `record`: the list of a run that is continued."""
    if not mask.any():
        sizes = np.bincount(clips.labels, minlength=1)
        why = (
            f"no class has {HOLD_OUT_FROM} clips"
            if sizes.max() < HOLD_OUT_FROM
            else ("too many clips are copies of each other")
        )
        why = why if cfg.holdout else "holdout = 0"
        if record is not None:
            gone = f"the {len(record)} that this run held out are not there any more"
            why = gone if record else "this run trained on all of them"
        return f"No clip is held out ({why}): scores will compare with the training clips."
    held = {rows[i][2] for i in np.flatnonzero(mask)}
    mixed = held & {rows[i][2] for i in np.flatnonzero(~mask)}
    whole = "" if mixed else f", {len(held)} whole sources by their names"
    copies = len(set(clips.digests)) < len(clips)
    together = "; copies of a clip are on its side" if copies else ""
    return f"{mask.sum()} of {len(mask)} clips are held out for the scores{whole}{together}."


def _from_folder(
    cfg: Config, clips: Clips, training: np.ndarray, keep: bool
) -> tuple[list[Recording], str]:
    """Clips of `holdout_dir` of the run's classes that are no copies of training clips, and what
    is said of them."""
    found = find_files(
        cfg.holdout_dir, not cfg.conditional, [cfg.output_dir], clips.classes, "--holdout-dir"
    )
    for note in found.notes:
        print(note)
    there = load_clips(cfg, found, keep) if found.files else None
    names = [there.classes[k] for k in there.labels] if there else []
    labels = {name: index for index, name in enumerate(clips.classes)}
    known = {clips.digests[i]: clips.files[i] for i in training[::-1]}
    own = [row for row, name in enumerate(names) if name in labels]
    copies = [row for row in own if there.digests[row] in known]
    rest = [row for row in own if there.digests[row] not in known]
    apart = [
        replace(recording, label=labels[names[row]])
        for row, recording in zip(rest, recordings(there, rest) if there else [])
    ]
    said = f"{plural(len(apart), 'clip')} of {cfg.holdout_dir} are for scoring only"
    if copies:
        example = f"{there.files[copies[0]]} = {known[there.digests[copies[0]]]}"
        said += f"; left out as copies of training clips: {len(copies)} (such as {example})"
    if not apart:
        raise UserError(
            f"holdout_dir = {cfg.holdout_dir!r}: all of its clips are copies of training clips "
            f"(such as {example}): name sounds that are not trained on (--holdout-dir)."
            if copies
            else f"holdout_dir = {cfg.holdout_dir!r}: holds no usable clip of the classes "
            f"{', '.join(clips.classes)} (--holdout-dir)."
        )
    if other := sorted(set(names) - set(labels)):
        print(f"Of {cfg.holdout_dir}, {', '.join(other)} is no class of the run: left out.")
    return apart, f"{said}."


# ---- the list -----------------------------------------------------------------------------------


def summary(record: Iterable[Sequence]) -> dict[str, object]:
    """Number of clips and checksum of a list, in whatever order its rows are."""
    rows = sorted(map(list, record))
    return {"clips": len(rows), "digest": files.digest(json.dumps(rows).encode())}


def is_whole(run_dir: Path) -> bool:
    """Whether a run's `held_out.csv` is the list that its config.json counts.

    Any list is where that counts none: it is a run of an earlier version.
    """
    fact, (record, _) = _fact(run_dir), _read(run_dir / NAME)
    return record is not None and fact in (None, summary(record))


def _fact(run_dir: Path) -> object:
    """What config.json says of the list, or None."""
    try:
        return config_io.read_json(run_dir / "config.json").get("held_out")
    except (OSError, ValueError, AttributeError):  # whoever needs it says so
        return None


def _read(path: Path) -> tuple[list[Row] | None, str]:
    """The list, or None and why it cannot be read."""
    try:
        header, *rows = files.read_csv(path) or [[]]
        if lacking := [name for name in COLUMNS if name not in header]:
            return None, f"is damaged (it has no column {lacking[0]!r})"
        columns = [header.index(name) for name in COLUMNS]
        cells = [[row[column] for column in columns] for row in rows]
        return [(_cell(name), int(clip), _cell(source)) for name, clip, source in cells], ""
    except FileNotFoundError:
        return None, "is gone"
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    except (IndexError, ValueError) as error:
        return None, f"is damaged ({error})"


def _recall(
    cfg: Config, clips: Clips, saved: Sequence[Sequence] | None
) -> tuple[list[Row], bool, list[str]]:
    """A run's list, whether it was made so that no sound is on both sides, and what to say.

    Raises UserError where it is lost: then no one knows what the run never saw.
    """
    path = cfg.run_dir / NAME
    record, reason = _read(path)
    fact = _fact(cfg.run_dir) if saved is None else summary(saved)
    if fact is None:  # a run of before there was a checksum
        if record is not None or reason == "is gone":
            return record or [], False, []
        raise UserError(_lost(path, reason))
    if record is not None and summary(record) == fact:
        return record, True, []
    if not reason:
        counted = fact.get("clips") if isinstance(fact, dict) else "?"
        reason = f"does not name the {plural(counted, 'clip')} that this run held out"
    if saved is not None:
        source, found = "from the checkpoint", [(str(f), int(n), str(s)) for f, n, s in saved]
    else:
        source, found = "by the rule", _record(_rows(clips), hold_out(cfg, clips))
    if summary(found) != fact:
        raise UserError(_lost(path, reason))
    if not found and record is None and reason == "is gone":
        return found, True, []  # nothing was held out, and nothing is lost
    return found, True, [f"{path} {reason}: restored {source} ({plural(len(found), 'clip')})."]


def _lost(path: Path, reason: str) -> str:
    return (
        f"{path} {reason}, and no checkpoint has the list: without it no one knows what this run "
        "never saw. Copy it back from a backup, or start another run with --run-name NAME."
    )


def _write(path: Path, record: list[Row]) -> None:
    """Write the list, unless it is there; what is there instead is set aside."""
    there, _ = _read(path)
    if there is not None and summary(there) == summary(record):
        return
    if os.path.lexists(path):
        print(f"What {path} was before is kept as {files.set_aside(path).name}.", flush=True)
    files.write_csv(path, [COLUMNS, *record])
