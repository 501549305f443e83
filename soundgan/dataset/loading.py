"""From `data_dir` to decoded clips, with the report that comes before training."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from soundgan import config_io, files
from soundgan.dataset.cache import load_clips
from soundgan.dataset.decoding import Clips
from soundgan.dataset.discovery import (
    MAX_NAME_BYTES,
    NOT_IN_CLASS,
    Found,
    class_of,
    conversion,
    find_files,
)
from soundgan.dataset.layouts import UNCONDITIONAL, readable
from soundgan.dataset.summary import describe, reasons
from soundgan.errors import UserError
from soundgan.run_folder import plain_name, read_config
from soundgan.settings import Config

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def find_clips(cfg: Config, demo: bool = False) -> Found:
    """The audio files of `data_dir`, with what a run's own classes say of its layout.

    Raises UserError where there is nothing to train on, or no folder `holdout_dir`; with `demo`, an
    empty or missing `data_dir` is none of that: the synthetic set may be written there.
    """
    readable_folder(cfg.data_dir, "data_dir", missing=demo)
    if cfg.holdout_dir:
        readable_folder(cfg.holdout_dir, "holdout_dir")
    known = _classes_of_run(cfg)
    found = find_files(cfg.data_dir, not cfg.conditional, [cfg.output_dir], known)
    if not found.files:
        _refuse_empty(cfg, found, demo)
    if cfg.conditional:
        _refuse_long_names(found)
    return found


def readable_folder(path: str, name: str, missing: bool = False) -> None:
    """Raise UserError unless the constant `name` states a folder that can be read."""
    flag = config_io.flag(name)
    try:
        with os.scandir(path):
            return
    except FileNotFoundError as error:
        if missing:
            return
        reason, cause = "there is no such folder", error
    except NotADirectoryError as error:
        reason, cause = "it is a file, and a folder of class folders is wanted", error
    except (OSError, ValueError) as error:  # forbidden, too long; a NUL in it
        reason, cause = f"it cannot be read ({getattr(error, 'strerror', '') or error})", error
    raise UserError(f"{name} = {path!r}: {reason} ({flag}).") from cause


def _classes_of_run(cfg: Config) -> list[str]:
    """Class folders of the run, if it has begun, which tell how `data_dir` was read.

    A recipe without classes keeps the names of clips in its list of those held out.
    """
    try:
        classes = read_config(cfg.run_dir)["classes"]
    except UserError:  # no run yet, or damaged: continuing it will say so
        return []
    if not cfg.conditional:
        with suppress(OSError, ValueError, IndexError):
            header, *rows = files.read_csv(cfg.run_dir / "held_out.csv")
            return sorted({class_of(row[header.index("file")]) for row in rows})
    return classes


def _refuse_empty(cfg: Config, found: Found, demo: bool) -> None:
    """Raise UserError that says why no sound was found, unless the demo set may be written."""
    root = found.root
    own = f" {' '.join(found.notes)}" if found.notes else ""
    if found.left_out:
        if advice := conversion(found):
            raise UserError(advice)
        flat = [path for path, reason in found.left_out if reason == NOT_IN_CLASS]
        if flat:
            raise UserError(
                f"No sound in a class folder below {root}: {len(flat)} lie beside (such as "
                f"{flat[0]}). Put the files of each class into a folder of its own "
                f"({root}/<class>/*.wav), or {UNCONDITIONAL}.{own}"
            )
        raise UserError(f"No usable sound below {root}: {reasons(found.left_out)}.")
    with suppress(OSError):
        if packed := [n for n in sorted(os.listdir(root)) if n.lower().endswith(ARCHIVES)]:
            raise UserError(f"{root} holds no sounds, but {packed[0]}: unpack it there.")
    if demo:
        return
    raise UserError(
        f"data_dir = {cfg.data_dir!r} holds no sounds: put them into {root}/<class>/, or name "
        f"another folder (--data-dir).{own}"
    )


def _refuse_long_names(found: Found) -> None:
    for name in sorted({class_of(file) for file in found.files}):
        if not plain_name(name):
            raise UserError(
                f"A class folder below {found.root} has a control character in its name, and names "
                f"of files are made of it: rename {name!r}."
            )
        size = len(name.encode(errors="surrogateescape"))
        if size > MAX_NAME_BYTES:
            raise UserError(
                f"A class folder below {found.root} has a name of {size} bytes, and at most "
                f"{MAX_NAME_BYTES} (UTF-8) leave room for the names of files: rename {name}."
            )


def load(cfg: Config, found: Found, keep: bool = True, demo: bool = False) -> Clips:
    """Decode `found` (or open the cache) and report; with `demo`, write that set where it is empty.

    With `keep` false nothing is written. Raises UserError when what is left cannot be trained on.
    """
    from soundgan.dataset import demo as synthetic  # `python -m` wants to import it first

    if not found.files:
        found = _with_demo(cfg) if demo else find_clips(cfg)
    for note in found.notes:
        print(note)
    start = time.perf_counter()
    clips = load_clips(cfg, found, keep=keep)
    if not len(clips):
        raise UserError(f"No usable sound below {found.root}: {reasons(clips.left_out)}.")
    print(describe(cfg, clips, found))
    if (mark := found.root / synthetic.MARK).exists():
        own = sorted(set(clips.classes) - set(synthetic.CLASSES))
        beside = f", beside your {readable(own)}: delete the synthetic ones" if own else ""
        print(f"The folders named in {mark} are synthetic, not recordings{beside}.")
    print(f"Data ready in {time.perf_counter() - start:.2f} s", flush=True)
    return clips


def _with_demo(cfg: Config) -> Found:
    """Write the demo set into `data_dir`, unless a run beside this one has done so by now."""
    from soundgan.dataset import demo

    print(
        f"No class folders below {cfg.data_dir}/: writing a synthetic set to learn with "
        f"({len(demo.CLASSES)} classes, {demo.CLIPS} clips each). When you bring your "
        f"own, put them into {cfg.data_dir}/<class>/ and delete these.",
        flush=True,
    )
    waiting = "Another run is writing it: waiting for that."
    with files.in_turn(Path(cfg.data_dir) / ".lock", waiting):
        if not (found := find_clips(cfg, demo=True)).files:
            demo.write(cfg.data_dir)
            found = find_clips(cfg)
    return found


def list_left_out(clips: Clips, run_dir: Path) -> None:
    """Write every file that was left out, with its reason, to `left_out.csv` of a run."""
    files.write_csv(run_dir / "left_out.csv", [("file", "reason"), *clips.left_out])
    if clips.left_out:
        print(f"Every file left out, with its reason: {run_dir / 'left_out.csv'}")


def band_statistics(clips: Clips, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation `(M, 1)` of each band over the clips `rows`, read one by one."""
    total = np.zeros((2, clips.data.shape[2], 1))
    for row in rows:
        x = clips.data[row, 0].astype(np.float64)  # (M, T)
        total += np.stack([x.mean(1), np.square(x).mean(1)])[..., None]
    mean, square = total / len(rows)
    return mean, np.sqrt(np.maximum(square - mean**2, 1e-4))  # a band may be silent throughout
