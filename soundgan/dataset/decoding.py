"""Audio files -> decoded clips, in parallel and in order.

Every file that is left out has a reason, and the reasons are counted and listed.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from soundgan import files
from soundgan.audio import files as audio_files
from soundgan.audio.files import BadClip, Extent, PastEnd, SilentClip
from soundgan.audio.transform import Transform
from soundgan.console import progress
from soundgan.dataset.discovery import Found, class_of
from soundgan.settings import Config

PART_CLIPS = 32  # most clips of a long recording that one thread decodes at a time
PART_FRAMES = 40_000_000  # most frames of them at the file's own rate: 160 MB


@dataclass
class Clips:
    """A decoded data set."""

    data: np.ndarray  # (N, *cfg.shape) float32, usually a memory map
    labels: list[int]  # N indices into classes
    classes: list[str]
    files: list[str]  # N paths below root
    numbers: list[int]  # N numbers of the clip within its file, 0 where only its beginning is used
    seconds: list[float]  # N durations: of the file, or of the clip's sound where all is used
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
    extent: Extent | None = None  # of the file, where it was looked at before
    refused: str = ""  # why there is nothing to decode


def plan(cfg: Config, found: Found) -> list[Part]:
    """What to decode: the beginning of each file, or all of it in consecutive clips.

    How many there are is what the files hold, not what they state. The last clip of a file is
    zero-padded if it is at least half full, and dropped otherwise (a file shorter than one clip
    always makes one).
    """
    if cfg.sound.cut == "first":
        return [Part(name) for name in found.files]

    def parts(name: str) -> list[Part]:
        try:
            extent = audio_files.extent(found.root / name, stopping.is_set)
        except BadClip as reason:
            return [Part(name, refused=str(reason))]
        if extent.frames >= audio_files.longest(extent.rate):
            hours = audio_files.MAX_HOURS
            return [Part(name, refused=f"longer than {hours} hours: cut it into shorter files")]
        clips = max(1, round(extent.seconds / cfg.clip_seconds))
        most = max(1, min(PART_CLIPS, int(PART_FRAMES / (extent.rate * cfg.clip_seconds))))
        return [Part(name, k, min(most, clips - k), extent) for k in range(0, clips, most)]

    with _threads(cfg) as (pool, _, stopping):
        return list(itertools.chain.from_iterable(pool.map(parts, found.files)))


@contextmanager
def _threads(cfg: Config) -> Iterator[tuple[ThreadPoolExecutor, int, threading.Event]]:
    """Threads, their number, and what tells them to stop: set on Ctrl-C, for nobody waits then."""
    count, stopping = cfg.decode_threads or os.cpu_count() or 1, threading.Event()
    pool = ThreadPoolExecutor(count)
    try:
        yield pool, count, stopping
    except BaseException:
        stopping.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class Decoded:
    """What one part became."""

    clips: list[tuple[int, np.ndarray]]  # number within the file, (*cfg.shape) float32
    gaps: list[tuple[int, str]]  # number within the file of a clip that is left out, and the reason
    rate: int = 0  # of the file (Hz)
    seconds: float = 0.0  # of the file


def decode_all(cfg: Config, found: Found, keep: Callable[[np.ndarray], object]) -> Clips:
    """Decode in parallel, in order; hand each usable clip `(*cfg.shape)` float32 to `keep`."""
    clips = Clips(None, [], [], [], [], [], [], [], list(found.left_out), str(found.root), "")
    parts = plan(cfg, found)
    with progress(len(parts), "part", desc="Decoding", disable=not parts) as bar:
        decoded = _decode_in_order(cfg, found, parts)
        for name, of_file in itertools.groupby(decoded, lambda pair: pair[0].name):
            gaps: list[tuple[int, str]] = []
            kept = len(clips.files)
            for _, part in of_file:
                bar.update()
                gaps += part.gaps
                for number, clip in part.clips:
                    keep(clip)
                    clips.digests.append(files.digest(np.ascontiguousarray(clip)))
                    clips.files.append(name)
                    clips.numbers.append(number)
                    clips.rates.append(part.rate)
                    whole = cfg.sound.cut == "first"
                    rest = part.seconds - number * cfg.clip_seconds
                    clips.seconds.append(part.seconds if whole else min(rest, cfg.clip_seconds))
            kept = len(clips.files) - kept
            clips.left_out += _stretches(name, gaps, kept, cfg.clip_seconds)
    # Only folders with a usable clip become classes; the report names the others.
    names = [class_of(name) for name in clips.files]
    clips.classes = sorted(set(names))
    index = {name: i for i, name in enumerate(clips.classes)}
    clips.labels = [index[name] for name in names]
    return clips


def _stretches(
    name: str, gaps: list[tuple[int, str]], kept: int, clip_seconds: float
) -> list[tuple[str, str]]:
    """What was left out of a file, and why: all of it, or from where to where."""
    if not kept and len({reason for _, reason in gaps}) == 1:
        return [(name, gaps[0][1])]
    left_out = []
    # One stretch: numbers that follow on each other, with one reason.
    runs = itertools.groupby(enumerate(gaps), lambda pair: (pair[1][0] - pair[0], pair[1][1]))
    for (_, reason), run in runs:
        numbers = [number for _, (number, _) in run]
        begin, end = numbers[0] * clip_seconds, (numbers[-1] + 1) * clip_seconds
        left_out.append((f"{name} from {begin:.1f} to {end:.1f} s", reason))
    return left_out


def _decode_in_order(
    cfg: Config, found: Found, parts: list[Part]
) -> Iterator[tuple[Part, Decoded]]:
    """Yield each part with what it became, decoding ahead, few parts at a time.

    Threads are enough: soundfile, soxr and torch let go of the interpreter while they work.
    """
    transform = Transform(cfg)
    coming = iter(parts)
    ahead: deque[tuple[Part, Future]] = deque()
    with _threads(cfg) as (pool, count, stopping):
        # Parts of many clips: fewer of them.
        most = count + (64 if cfg.sound.cut == "first" else 4)
        while True:
            for part in itertools.islice(coming, most - len(ahead)):
                work = (cfg, found, transform, part, stopping.is_set)
                ahead.append((part, pool.submit(_decode, *work)))
            if not ahead:
                return
            part, future = ahead.popleft()
            yield part, future.result()


@torch.inference_mode()
def _decode(
    cfg: Config, found: Found, transform: Transform, part: Part, stop: Callable[[], bool]
) -> Decoded:
    """Decode one part.

    One clip at a time through the transform: a batch of them leaves the processor's cache and is
    ten times slower.
    """
    if part.refused:
        return Decoded([], [(part.first, part.refused)])
    rate, samples = cfg.sound.sample_rate, cfg.sound.clip_samples
    numbers = range(part.first, part.first + part.count)
    try:
        waves, file_rate, seconds = audio_files.read_clips(
            found.root / part.name, rate, samples, part.first, part.count, part.extent, stop
        )
    except PastEnd:  # its header said more
        return Decoded([], [])
    except BadClip as reason:
        if isinstance(reason, SilentClip) and cfg.sound.cut == "consecutive":
            reason = audio_files.SILENT  # not of its beginning: all is used
        elif part.count > 1:
            return _decode_each(cfg, found, transform, part, stop)
        return Decoded([], [(number, str(reason)) for number in numbers])
    decoded = Decoded([], [], file_rate, seconds)
    for number, wave in zip(numbers, waves):
        if stop():
            break
        if np.abs(wave).max() < audio_files.SILENCE:
            decoded.gaps.append((number, audio_files.SILENT))
        else:
            decoded.clips.append((number, transform(torch.from_numpy(wave)[None])[0].numpy()))
    return decoded


def _decode_each(
    cfg: Config, found: Found, transform: Transform, part: Part, stop: Callable[[], bool]
) -> Decoded:
    """Decode a damaged part clip by clip: what lies beside the damage is used."""
    numbers = range(part.first, part.first + part.count)
    singles = [replace(part, first=number, count=1) for number in numbers]
    each = [_decode(cfg, found, transform, single, stop) for single in singles]
    return Decoded(
        [clip for one in each for clip in one.clips],
        [gap for one in each for gap in one.gaps],
        max(one.rate for one in each),
        max(one.seconds for one in each),
    )
