"""Decoded clips are kept: decoded once, then read through a memory map.

One folder for each pair of data folder and sound: the clips as raw float32, and meta.json, which
says which files (path, size, time) they were made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from soundgan import files
from soundgan.dataset.decoding import Clips, decode_all
from soundgan.dataset.discovery import Found
from soundgan.errors import UserError
from soundgan.parts import names_of
from soundgan.settings import Config

CACHE_VERSION = 3  # raise it when the meaning of the cached numbers changes
NOT_DECODED = ("standardise", "jitter")  # constants of a sound that come after decoding


def load_clips(cfg: Config, found: Found, keep: bool = True) -> Clips:
    """Decode every file of `found` and transform it, or open what an earlier run decoded.

    With `keep` false (a dry run) nothing is written: all files are decoded and checked, and `data`
    holds the first `batch_size` usable ones only. Raises UserError when the cache cannot be
    written.
    """
    folder = cfg.cache_dir / _key(cfg, found.root)
    fingerprint = _fingerprint(found)
    cached = _open_cache(folder, cfg, fingerprint)
    if cached is not None:
        return cached
    if not keep:
        some: list[np.ndarray] = []
        clips = decode_all(
            cfg, found, lambda x: some.append(x) if len(some) < cfg.batch_size else 0
        )
        clips.data = np.stack(some) if some else np.empty((0, *cfg.shape), np.float32)
        return clips
    try:
        waiting = f"Another run decodes the same sounds into {folder}: waiting for it."
        with files.in_turn(folder.with_name(f"{folder.name}.lock"), waiting):
            cached = _open_cache(folder, cfg, fingerprint)  # there by now, where it had to wait
            return _build_cache(folder, cfg, found, fingerprint) if cached is None else cached
    except OSError as error:
        raise UserError(
            f"The decoded sounds cannot be kept in {folder} ({error}); free some space there or "
            "choose another place with --output-dir."
        ) from error


def open_clips(cfg: Config, root: str, fingerprint: str) -> Clips:
    """What another process has decoded of `root` (both are fields of its Clips).

    Raises UserError where that is not to be seen from here.
    """
    folder = cfg.cache_dir / _key(cfg, Path(root))
    clips = _open_cache(folder, cfg, fingerprint)
    if clips is None:
        raise UserError(
            f"The decoded sounds that rank 0 keeps in {folder} are not to be seen from here: all "
            "machines need output_dir, under the same path, on a file system that they share "
            "(--output-dir)."
        )
    return clips


def _build_cache(folder: Path, cfg: Config, found: Found, fingerprint: str) -> Clips:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob("*.tmp"):  # of runs that were killed while decoding
        with suppress(FileNotFoundError):  # another run has finished it
            if time.time() - stale.stat().st_mtime > 86_400:
                shutil.rmtree(stale, ignore_errors=True)
    building = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)  # in a container each start has the same number
    building.mkdir()
    try:
        with open(building / "clips.f32", "wb") as file:
            clips = decode_all(cfg, found, lambda x: file.write(x.tobytes()))
        meta = {k: v for k, v in asdict(clips).items() if k != "data"}
        (building / "meta.json").write_text(json.dumps(meta | {"fingerprint": fingerprint}))
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    cached = _open_cache(folder, cfg, fingerprint)
    if cached is None:
        raise OSError("the folder changed while it was written")
    return cached


def _open_cache(folder: Path, cfg: Config, fingerprint: str) -> Clips | None:
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["fingerprint"] != fingerprint:
            return None
        meta["left_out"] = [tuple(pair) for pair in meta["left_out"]]
        shape = (len(meta["labels"]), *cfg.shape)
        if (folder / "clips.f32").stat().st_size != 4 * int(np.prod(shape)):
            return None
        if shape[0] == 0:  # an empty file cannot be mapped
            return Clips(data=np.empty(shape, np.float32), **meta)
        return Clips(data=np.memmap(folder / "clips.f32", np.float32, "r", shape=shape), **meta)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def decoded_constants(cfg: Config) -> tuple:
    """Kind and constants of the sound that decide what the decoded clips are."""
    kind = type(cfg.sound)
    names = [name for name in names_of(kind) if name not in NOT_DECODED]
    return (kind.__name__, *((name, getattr(cfg.sound, name)) for name in names))


def _key(cfg: Config, root: Path) -> str:
    decisive = (CACHE_VERSION, str(root.resolve()), *decoded_constants(cfg))
    return hashlib.sha256(repr(decisive).encode(errors="surrogateescape")).hexdigest()[:16]


def _fingerprint(found: Found) -> str:
    digest = hashlib.sha256(repr(found.left_out).encode(errors="backslashreplace"))
    root = str(found.root)
    for name in found.files:
        entry = (name, *files.stamp(f"{root}/{name}"))
        digest.update(repr(entry).encode(errors="backslashreplace"))
    return digest.hexdigest()
