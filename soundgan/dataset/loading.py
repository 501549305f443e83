"""From `data_dir` to decoded clips, with the report that comes before training."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import numpy as np

from soundgan import files
from soundgan.dataset.cache import load_clips
from soundgan.dataset.decoding import Clips
from soundgan.dataset.discovery import Found, find_files
from soundgan.errors import UserError
from soundgan.settings import Config


def find_clips(cfg: Config) -> Found:
    """The audio files of `data_dir`; raises UserError where there is nothing to train on."""
    found = find_files(cfg.data_dir, loose=not cfg.conditional)
    if found.files:
        return found
    from soundgan.dataset import demo  # here: `python -m` would find it imported before it runs

    if not found.root.is_dir() and cfg.data_dir != demo.HOME:
        raise UserError(f"data_dir = {cfg.data_dir!r}: there is no such folder (--data-dir).")
    if found.left_out:
        reasons = [f"{path}: {reason}" for path, reason in found.left_out[:3]]
        raise UserError(
            f"No sound in a class folder below {found.root}. Put the files of each class into a "
            f"folder of its own, {found.root}/<class>/*.wav ({'; '.join(reasons)})."
        )
    return found


def load(cfg: Config, found: Found, keep: bool = True) -> Clips:
    """Decode `found` (or open the cache) and report; where it is empty, write the demo set first.

    With `keep` false nothing is written. Raises UserError when what is left cannot be trained on.
    """
    from soundgan.dataset import demo

    if not found.files:
        print(
            f"No class folders below {cfg.data_dir}/: writing a synthetic set to learn with "
            f"({len(demo.CLASSES)} classes, {demo.CLIPS} clips each). When you bring your "
            f"own, put them into {cfg.data_dir}/<class>/ and delete these.",
            flush=True,
        )
        waiting = "Another run is writing it: waiting for that."
        with files.in_turn(Path(cfg.data_dir) / ".lock", waiting):
            if not (found := find_clips(cfg)).files:  # else a run beside this one has written it
                demo.write(cfg.data_dir)
                found = find_clips(cfg)
    start = time.perf_counter()
    clips = load_clips(cfg, found, keep=keep)
    print(describe(clips, found))
    if (found.root / demo.MARK).exists():
        own = sorted(set(clips.classes) - set(demo.CLASSES))
        beside = f", beside your {', '.join(own)}: delete the synthetic ones" if own else ""
        print(
            f"The folders named in {found.root / demo.MARK} are synthetic, not recordings{beside}."
        )
    print(f"Data ready in {time.perf_counter() - start:.2f} s", flush=True)
    return clips


def list_left_out(clips: Clips, run_dir: Path) -> None:
    """Write every file that was left out, with its reason, to `left_out.csv` of a run."""
    files.write_csv(run_dir / "left_out.csv", [("file", "reason"), *clips.left_out])
    if clips.left_out:
        print(f"Every file left out, with its reason: {run_dir / 'left_out.csv'}")


def describe(clips: Clips, found: Found) -> str:
    """The report before epoch 1: classes, clips, seconds, rates, and what was left out and why."""
    lines = [f"{len(clips)} clips in {len(clips.classes)} classes below {clips.root}"]
    width = max((len(c) for c in clips.classes), default=0)
    members: list[list[int]] = [[] for _ in clips.classes]
    for index, label in enumerate(clips.labels):
        members[label].append(index)
    for name, own in zip(clips.classes, members):
        total = sum(clips.seconds[i] for i in own)
        rates = sorted({clips.rates[i] for i in own})
        lines.append(
            f"  {name:<{width}}  {len(own):>6} clips  {total:>9.1f} s  "
            f"{', '.join(map(str, rates[:4]))}{', ...' if len(rates) > 4 else ''} Hz"
        )
    if all(re.fullmatch(r"fold[ _-]?\d+", name.lower()) for name in clips.classes):
        lines.append(
            "  These look like folds, not classes: sort the files into one folder a class."
        )
    empty = sorted(set(found.folders) - set(clips.classes))
    for name in empty:
        lines.append(f"  {name}: no usable clip, so it is no class of this run")
    if clips.left_out:
        lines.append(f"Left out: {len(clips.left_out)} files")
        for reason, count in Counter(reason for _, reason in clips.left_out).most_common(8):
            example = next(path for path, why in clips.left_out if why == reason)
            lines.append(f"  {count} x {reason} (such as {example})")
    return "\n".join(lines)


def band_statistics(clips: Clips, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation `(M, 1)` of each band over the clips `rows`, read one by one."""
    total = np.zeros((2, clips.data.shape[2], 1))
    for row in rows:
        x = clips.data[row, 0].astype(np.float64)  # (M, T)
        total += np.stack([x.mean(1), np.square(x).mean(1)])[..., None]
    mean, square = total / len(rows)
    return mean, np.sqrt(np.maximum(square - mean**2, 1e-4))  # a band may be silent throughout
