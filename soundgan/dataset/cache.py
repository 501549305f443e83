"""Decoded clips are kept: decoded once, then read through a memory map.

One folder for each pair of data folder and sound: the clips as raw float32, and meta.json, which
says which files (name, size, content) they were made from. Both are checked when they are opened:
what is damaged is decoded anew.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import Field, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from soundgan import files
from soundgan.console import progress
from soundgan.dataset import checked_json, stale
from soundgan.dataset.decoding import Clips, decode_all
from soundgan.dataset.discovery import Found
from soundgan.dataset.fingerprint import fingerprint_of
from soundgan.dataset.stale import CLIPS, META
from soundgan.errors import Damaged, UserError
from soundgan.parts import names_of
from soundgan.settings import Config

CACHE_VERSION = 4  # raise it when the meaning of the cached numbers changes
NOT_DECODED = ("standardise", "jitter")  # constants of a sound that come after decoding
BLOCK = 1 << 22  # bytes of clips that one thread checks at a time
WORTH_A_BAR = 1 << 32  # bytes of clips to check from which on progress is shown

# Types in meta.json of fields of Clips, by their annotation; any other is a list.
KINDS = {"list[int]": (int,), "list[str]": (str,), "list[float]": (int, float), "str": (str,)}
PER_DATA_SET = ("classes", "left_out")  # lists of Clips that have no entry a clip


def load_clips(cfg: Config, found: Found, keep: bool = True) -> Clips:
    """Decode every file of `found` and transform it, or open what an earlier run decoded.

    With `keep` false (a dry run) nothing is written: all files are decoded and checked, and `data`
    holds the first `batch_size` usable ones only. Raises UserError when the cache cannot be
    written.
    """
    folder = cfg.cache_dir / _key(cfg, found.root)
    fingerprint = fingerprint_of(cfg, found, keep)
    if not keep:
        clips = _whole(folder, cfg, fingerprint)
        if clips is None:
            return _decode_some(cfg, found, fingerprint)
        _name_as_found(clips, folder, cfg, found, keep=False)
        return clips
    try:
        return _load_kept(folder, cfg, found, fingerprint)
    except OSError as error:
        raise UserError(
            f"The decoded sounds cannot be kept in {folder} ({error}); free some space there or "
            "choose another place with --output-dir."
        ) from error


def open_clips(cfg: Config, root: str, fingerprint: str) -> Clips:
    """What another process has decoded of `root` (both are fields of its Clips), and checked.

    Raises UserError where that is not to be seen from here.
    """
    folder = cfg.cache_dir / _key(cfg, Path(root))
    try:
        clips = _open_cache(folder, cfg, fingerprint)
    except Damaged:
        clips = None
    if clips is None:
        raise UserError(
            f"The decoded sounds that rank 0 keeps in {folder} are not to be seen from here: all "
            "machines need output_dir, under the same path, on a file system that they share "
            "(--output-dir)."
        )
    clips.root = root
    return clips


def decoded_constants(cfg: Config) -> tuple:
    """Kind and constants of the sound that decide what the decoded clips are."""
    kind = type(cfg.sound)
    names = [name for name in names_of(kind) if name not in NOT_DECODED]
    return (kind.__name__, *((name, getattr(cfg.sound, name)) for name in names))


def _key(cfg: Config, root: Path) -> str:
    decisive = (CACHE_VERSION, str(root.resolve()), *decoded_constants(cfg))
    return hashlib.sha256(repr(decisive).encode(errors="surrogateescape")).hexdigest()[:16]


# ---- opening or decoding ------------------------------------------------------------------------


def _load_kept(folder: Path, cfg: Config, found: Found, fingerprint: str) -> Clips:
    """The kept clips, decoded where there are none, they are of other files or they are damaged."""
    lock = folder.with_name(f"{folder.name}.lock")
    waiting = f"Another run decodes the same sounds into {folder}: waiting for it."
    with files.in_turn(lock, waiting):
        if not folder.is_symlink():
            stale.mark_used(folder / META)
    # Without the lock, for others may check it at the same time, or just now replace it.
    clips, replaced = _whole(folder, cfg, fingerprint, say=False), ""
    if clips is None:
        with files.in_turn(lock, waiting):
            clips = _whole(folder, cfg, fingerprint)  # of a run that was quicker
            if clips is None:
                replaced = _fingerprint_in(folder)
                clips = _build_cache(folder, cfg, found, fingerprint)
    _name_as_found(clips, folder, cfg, found, keep=True)
    stale.remove_stale(cfg.cache_dir, fingerprint, replaced if replaced != fingerprint else "")
    return clips


def _whole(folder: Path, cfg: Config, fingerprint: str, say: bool = True) -> Clips | None:
    """The kept clips, checked, where they are whole and of these files; nothing is written."""
    try:
        return _open_cache(folder, cfg, fingerprint, check=True)
    except Damaged as reason:
        if say:
            print(f"{folder} is damaged ({reason}): decoded anew.", flush=True)
        return None


def _decode_some(cfg: Config, found: Found, fingerprint: str) -> Clips:
    """All clips decoded and checked, the first `batch_size` of them in `data`."""
    some: list[np.ndarray] = []
    clips = decode_all(cfg, found, lambda x: some.append(x) if len(some) < cfg.batch_size else 0)
    clips.data = np.stack(some) if some else np.empty((0, *cfg.shape), np.float32)
    clips.fingerprint = fingerprint
    return clips


def _build_cache(folder: Path, cfg: Config, found: Found, fingerprint: str) -> Clips:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        folder.unlink()  # the link, not where it leads
    with files.whole_folder(folder) as building:
        with open(building / CLIPS, "wb") as file:
            clips = decode_all(cfg, found, lambda x: file.write(x.tobytes()))
        clips.fingerprint = fingerprint
        write_meta(building, cfg, clips)
    try:
        cached = _open_cache(folder, cfg, fingerprint)
    except Damaged as reason:
        raise OSError(f"the folder changed while it was written: {reason}") from reason
    if cached is None:
        raise OSError("the folder changed while it was written")
    return cached


# ---- what is kept -------------------------------------------------------------------------------


def write_meta(folder: Path, cfg: Config, clips: Clips) -> None:
    """Write all of `clips` but the clips themselves into the folder that holds these."""
    meta = {field.name: getattr(clips, field.name) for field in _kept_fields()}
    key = _key(cfg, Path(clips.root))
    checked_json.write(folder / META, meta | {"key": key})


def _kept_fields() -> list[Field]:
    return [field for field in fields(Clips) if field.name != "data"]


def _fingerprint_in(folder: Path) -> str:
    """Fingerprint of the files that a kept set was made of; empty where there is none."""
    try:
        return checked_json.read(folder / META)["fingerprint"]
    except (OSError, Damaged, LookupError, TypeError):
        return ""


def _open_cache(folder: Path, cfg: Config, fingerprint: str, check: bool = False) -> Clips | None:
    """The kept clips; None where there are none of these files.

    Only what is said of them is checked, and with `check` the clips too. Raises Damaged with the
    reason.
    """
    if not os.path.lexists(folder):
        return None
    if folder.is_symlink() or not folder.is_dir():
        raise Damaged("it is no folder")
    try:
        meta = checked_json.read(folder / META)
    except FileNotFoundError:
        raise Damaged(f"it holds no {META}") from None
    clips = _clips_of(meta)
    if meta["key"] != folder.name:
        raise Damaged(f"its {META} is of another folder")
    if clips.fingerprint != fingerprint:
        return None
    shape = (len(clips), *cfg.shape)
    size, path = 4 * int(np.prod(shape)), folder / CLIPS
    if path.is_symlink() or not files.is_regular(path):
        raise Damaged(f"{CLIPS} is no regular file")
    try:
        with open(path, "rb") as file:
            if (there := os.fstat(file.fileno()).st_size) != size:
                raise Damaged(f"{CLIPS} has {there} bytes, not {size}")
            if size == 0:  # an empty file cannot be mapped
                clips.data = np.empty(shape, np.float32)
            else:
                clips.data = np.memmap(file, np.float32, "r", shape=shape)
            if check:
                _check_clips(clips, file, cfg)
    except OSError as error:
        raise Damaged(f"{CLIPS}: {error.strerror}") from error
    return clips


def _clips_of(meta: object) -> Clips:
    """The Clips, without data, of a meta.json; raises Damaged where a field is of another form."""
    kept = {field.name: field.type for field in _kept_fields()}
    if not isinstance(meta, dict) or meta.keys() != {*kept, "key"}:
        raise Damaged(f"its {META} has other fields")
    values = {name: meta[name] for name in kept}
    for name, kind in kept.items():
        wanted = KINDS.get(kind, (list,))
        some = values[name] if kind.startswith("list") else [values[name]]
        if not isinstance(some, list) or not all(type(value) in wanted for value in some):
            raise Damaged(f"{name} in its {META} is of another kind")
        of_clips = kind.startswith("list") and name not in PER_DATA_SET
        if of_clips and len(some) != len(values["files"]):
            raise Damaged(f"{name} in its {META} are {len(some)}, not {len(values['files'])}")
    pairs = values["left_out"]
    if not all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in pairs):
        raise Damaged(f"left_out in its {META} is of another kind")
    values["left_out"] = [tuple(pair) for pair in pairs]
    known = range(len(values["classes"]))
    if len(set(values["classes"])) != len(known) or not set(values["labels"]) <= set(known):
        raise Damaged(f"labels and classes in its {META} do not match")
    return Clips(data=np.empty(0, np.float32), **values)


def _name_as_found(clips: Clips, folder: Path, cfg: Config, found: Found, keep: bool) -> None:
    """Call root and files as they are called on the disk now, which may be another Unicode form."""
    clips.root, there = str(found.root), set(found.files)
    if there.issuperset(clips.files):
        return
    names = {files.nfc(name): name for name in found.files}

    def now(name: str) -> str:
        return name if name in there else names.get(files.nfc(name), name)

    clips.files = [now(name) for name in clips.files]
    clips.left_out = [(now(name), reason) for name, reason in clips.left_out]
    if keep:  # for the processes that open them by themselves
        write_meta(folder, cfg, clips)


# ---- checking -----------------------------------------------------------------------------------


def _check_clips(clips: Clips, file: BinaryIO, cfg: Config) -> None:
    """Read all clips, a few in each thread, and compare their checksums.

    Not through the memory map: there, a disk that fails ends the process. But of the file that is
    mapped: another one may have taken its name. Raises Damaged, OSError.
    """
    size = 4 * int(np.prod(cfg.shape))
    rows = max(1, BLOCK // size)

    def check(first: int) -> None:
        for row in range(first, min(first + rows, len(clips))):
            if files.digest(_read_at(file, row * size, size)) != clips.digests[row]:
                raise Damaged(f"the checksum of clip {row}, {clips.files[row]}, differs")

    pool = ThreadPoolExecutor(cfg.decode_threads or os.cpu_count() or 1)
    quiet = size * len(clips) < WORTH_A_BAR
    try:
        with progress(len(clips), "clip", desc="Checking", disable=quiet) as bar:
            for first, _ in enumerate(pool.map(check, range(0, len(clips), rows))):
                bar.update(min(rows, len(clips) - first * rows))
    finally:  # at the first damaged clip and on Ctrl-C, check no more
        pool.shutdown(cancel_futures=True)


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    """`size` bytes of a file, whatever other threads read of it."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, place)
    with open(file.name, "rb", buffering=0) as own:  # Windows, where no file replaces an open one
        own.seek(place)
        return own.read(size)
