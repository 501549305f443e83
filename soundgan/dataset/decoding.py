"""Audio files -> decoded clips, in parallel and in order.

Every file that is left out has a reason, and the reasons are counted and listed.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from soundgan import files
from soundgan.audio import files as audio_files
from soundgan.audio.files import BadClip
from soundgan.audio.transform import Transform
from soundgan.console import progress
from soundgan.dataset.discovery import Found, class_of
from soundgan.settings import Config

PART_CLIPS = 32  # most clips of a long recording that one thread decodes at a time


@dataclass
class Clips:
    """A decoded data set."""

    data: np.ndarray  # (N, *cfg.shape) float32, usually a memory map
    labels: list[int]  # N indices into classes
    classes: list[str]
    files: list[str]  # N paths below root
    numbers: list[int]  # N numbers of the clip within its file, 0 where only its beginning is used
    seconds: list[float]  # N durations: of the file, or of the clip where files are cut into many
    rates: list[int]  # N sample rates of the files (Hz)
    digests: list[str]  # N checksums of the decoded clips: equal ones are one sound
    left_out: list[tuple[str, str]]  # (path below root, reason)
    root: str
    fingerprint: str  # of the files that were found, usable or not

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Part:
    """Some clips of one file, one after the other: what one thread decodes at a time."""

    name: str  # relative path
    first: int = 0  # number of its first clip within the file
    count: int = 1


def plan(cfg: Config, found: Found) -> list[Part]:
    """What to decode: the beginning of each file, or all of it in consecutive clips.

    The last clip of a file is zero-padded if it is at least half full, and dropped otherwise (a
    file shorter than one clip always makes one).
    """
    if cfg.sound.cut == "first":
        return [Part(name) for name in found.files]
    parts = []
    for name in found.files:
        try:
            with audio_files.opened(found.root / name) as sound:
                clips = max(1, round(sound.frames / sound.samplerate / cfg.clip_seconds))
        except (BadClip, OSError, RuntimeError):
            clips = 1  # decoding it will say what is wrong
        for first in range(0, clips, PART_CLIPS):
            parts.append(Part(name, first, min(PART_CLIPS, clips - first)))
    return parts


@dataclass(frozen=True)
class Decoded:
    """What one part became."""

    clips: list[np.ndarray]  # each (*cfg.shape) float32
    silent: np.ndarray  # whether each of them is
    rate: int  # of the file (Hz)
    seconds: float  # of the file


def decode_all(cfg: Config, found: Found, keep: Callable[[np.ndarray], object]) -> Clips:
    """Decode in parallel, in order; hand each usable clip `(*cfg.shape)` float32 to `keep`."""
    clips = Clips(None, [], [], [], [], [], [], [], list(found.left_out), str(found.root), "")
    parts = plan(cfg, found)
    with progress(len(parts), "part", desc="Decoding", disable=not parts) as bar:
        for part, result in _decode_in_order(cfg, found, parts):
            bar.update()
            if isinstance(result, BadClip):
                clips.left_out.append((part.name, str(result)))
                continue
            for number, (clip, silent) in enumerate(zip(result.clips, result.silent)):
                if silent:
                    at = f" at {(part.first + number) * cfg.clip_seconds:.1f} s"
                    where = part.name if cfg.sound.cut == "first" else part.name + at
                    clips.left_out.append((where, audio_files.SILENT))
                    continue
                keep(clip)
                clips.digests.append(files.digest(np.ascontiguousarray(clip)))
                clips.files.append(part.name)
                clips.numbers.append(part.first + number)
                clips.rates.append(result.rate)
                whole = cfg.sound.cut == "first"
                clips.seconds.append(result.seconds if whole else cfg.clip_seconds)
    # Only folders with a usable clip become classes; the report names the others.
    names = [class_of(name) for name in clips.files]
    clips.classes = sorted(set(names))
    index = {name: i for i, name in enumerate(clips.classes)}
    clips.labels = [index[name] for name in names]
    return clips


def _decode_in_order(
    cfg: Config, found: Found, parts: list[Part]
) -> Iterator[tuple[Part, Decoded | BadClip]]:
    """Yield each part with what it became or why not, decoding ahead, few parts at a time.

    Threads are enough: soundfile, soxr and torch let go of the interpreter while they work. One
    clip at a time through the transform: a batch of them leaves the processor's cache and is ten
    times slower.
    """
    transform = Transform(cfg)

    @torch.inference_mode()
    def decode(part: Part) -> Decoded | BadClip:
        path = found.root / part.name
        try:
            waves, rate, seconds = audio_files.read_clips(
                path, cfg.sound.sample_rate, cfg.sound.clip_samples, part.first, part.count
            )
        except BadClip as reason:
            return reason
        silent = np.abs(waves).max(axis=1) < audio_files.SILENCE
        clips = [transform(torch.from_numpy(wave)[None])[0].numpy() for wave in waves]
        return Decoded(clips, silent, rate, seconds)

    threads = cfg.decode_threads or os.cpu_count() or 1
    coming = iter(parts)
    most = threads + (64 if cfg.sound.cut == "first" else 4)  # parts of many clips: fewer of them
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[Part, Future]] = deque()
        try:
            while True:
                for part in itertools.islice(coming, most - len(ahead)):
                    ahead.append((part, pool.submit(decode, part)))
                if not ahead:
                    return
                part, future = ahead.popleft()
                yield part, future.result()
        finally:  # on Ctrl-C, do not decode what nobody waits for
            for _, future in ahead:
                future.cancel()
