"""Sound files -> waveforms, and waveforms -> WAV files.

libsndfile opens far more than sounds (it ignores the extension) and passes NaN, silence and absurd
headers without a word, so each of them is looked for here. No length that a header states is
believed: `extent` finds out where the samples end.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
from torch import Tensor

from soundgan import files, packages
from soundgan.audio import containers
from soundgan.audio.containers import View
from soundgan.errors import UserError
from soundgan.settings import Config

# Files whose header states something outside these limits are damaged or not meant to be heard;
# resampling a "1 Hz" file would ask for tens of gigabytes.
RATE_LIMITS = (1_000, 768_000)  # Hz
MAX_CHANNELS = 64
MAX_AMPLITUDE = 1e3  # full scale is 1; a float file of int16 values passes 1 but is not audio
SILENCE = 1e-4  # peak below which a clip is silent (-80 dBFS): three steps of a 16-bit file
SILENT = "silent (mixed to mono, it stays below -80 dBFS)"  # the reason to leave one out

MAX_HOURS = 24  # how far a file is followed that does not say where it ends
MOST_A_BYTE = 8192  # samples: more than any format makes of a byte of silence
TAIL = 16_384  # frames before the stated end that are decoded to see whether it is one
MP3_PADDING = 5 * 1152  # frames that an encoder adds and a decoder leaves out
BLOCK = 1 << 20  # samples of all channels that are decoded at a time


class BadClip(Exception):
    """Why one file cannot be used."""


class SilentClip(BadClip):
    """The clips that were asked for hold no sound."""


class PastEnd(BadClip):
    """The clips that were asked for begin where the sound has ended."""


def never() -> bool:
    """Nothing asks to stop."""
    return False


def sniff(head: bytes) -> None:
    """Raise BadClip unless the first 12 bytes of a file are those of a format this project reads.

    Looked at before libsndfile sees the file: its parsers of exotic formats have known holes.
    """
    if len(head) == 0:
        raise BadClip("empty file (0 bytes)")
    if head == b"version http":  # ... ://git-lfs.github.com/spec/v1
        raise BadClip("a Git LFS pointer, not the sound itself: git lfs pull fetches it")
    if head.startswith(b"/annex/objec"):
        raise BadClip("a git-annex pointer, not the sound itself: git annex get . fetches it")
    if head.lstrip()[:1] == b"<":
        raise BadClip("a web page or XML, not audio (a failed download?)")
    known = (
        (head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE")
        or (head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"))
        or head[:4] in (b"fLaC", b"OggS")
        or head[:3] == b"ID3"
        or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)  # MPEG frame
    )
    if not known:
        raise BadClip("its content is not WAV, FLAC, OGG, MP3 or AIFF")


def longest(rate: int) -> int:
    """Frames at `rate` Hz up to which a file is followed."""
    return int(MAX_HOURS * 3600 * rate)


@dataclass(frozen=True)
class Extent:
    """How long the sound of a file is, whatever its header says, and what to decode of it."""

    rate: int  # Hz
    streams: tuple[tuple[View | None, int], ...]  # sounds one after the other, with their frames

    @property
    def frames(self) -> int:
        return sum(frames for _, frames in self.streams)

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def extent(path: str | Path, stop: Callable[[], bool] = never) -> Extent:
    """Check the length that a file states, and decode it to its end where that cannot be.

    Raises BadClip with the reason when the file is no usable sound. `stop` is asked now and then
    whether to give up.
    """
    with _reasons():
        os.stat(path)  # says why there is none
    if not files.is_regular(path):
        what = "a folder" if os.path.isdir(path) else "a pipe or a device"
        raise BadClip(f"cannot be read: {what}, not a regular file")
    with _reasons(), open(path, "rb") as file:
        sniff(file.read(12))
        size = os.fstat(file.fileno()).st_size
        header = containers.look_into(file, size)
        streams, rates = [], []
        for view in header.streams:
            try:
                with _reasons():
                    rate, *stream = _stream(path, file, size, view, header.doubtful, stop)
            except BadClip:
                if not streams:
                    raise
                break  # joined files, of which the last was cut
            rates.append(rate)
            streams.append(tuple(stream))
    if len(set(rates)) > 1:
        raise BadClip(
            f"joined of sounds at {' and '.join(map(str, sorted(set(rates))))} Hz: split it, or "
            "convert it (ffmpeg -i FILE FILE.flac)"
        )
    return Extent(rates[0], tuple(streams))


def _stream(
    path: str | Path,
    file: BinaryIO,
    size: int,
    view: View | None,
    doubtful: bool,
    stop: Callable[[], bool],
) -> tuple[int, View | None, int]:
    """Rate, what to decode, and number of frames of one sound in a file."""
    with _decoder(path, view) as sound:
        rate, stated, kind = sound.samplerate, sound.frames, sound.format
        open_ended = containers.without_length(file, size, kind, rate, sound.channels)
    doubtful |= stated > size * MOST_A_BYTE
    if not doubtful:
        if open_ended is None:
            return rate, view, stated
        slack = MP3_PADDING if kind == "MP3" else 0
        counted = containers.counted_samples(file, size, kind)
        if counted is not None and 0 <= counted - stated <= slack:
            return rate, view, stated
        # The decoder stops at the stated end: let it go on from shortly before, if it can.
        begin, rest = max(0, stated - TAIL), 0
        with suppress(BadClip), _reasons(), _decoder(path, open_ended) as sound:
            rest = sum(map(len, _blocks(sound, begin, TAIL + slack + 1, stop)))
        if 0 < rest <= stated - begin + slack:
            return rate, view, min(stated, begin + rest)
    if open_ended is not None:
        with suppress(BadClip), _reasons(), _decoder(path, open_ended) as sound:
            return rate, open_ended, _measured(sound, stop)
    with _decoder(path, view) as sound:
        return rate, view, _measured(sound, stop)


def _measured(sound: Decoder, stop: Callable[[], bool]) -> int:
    """Frames to the end, or to what is damaged; MAX_HOURS at most."""
    frames, most = 0, longest(sound.samplerate)
    try:
        for block in _blocks(sound, 0, most, stop, TAIL):
            frames += len(block)
    except RuntimeError:
        if not frames:
            raise
    return frames


def _blocks(
    sound: Decoder, begin: int, wanted: int, stop: Callable[[], bool], most: int = BLOCK
) -> Iterator[np.ndarray]:
    """At most `wanted` frames of a sound from frame `begin` on, `(frames, channels)` at a time.

    16-bit samples come as int16, others as float32.
    """
    if begin:
        sound.seek(begin)
    sound.streaming = True
    # libsndfile makes float32 of 16-bit samples far more slowly than numpy.
    dtype = "int16" if sound.subtype == "PCM_16" else "float32"
    most = max(1, most // sound.channels)
    while wanted > 0:
        if stop():
            raise BadClip("interrupted")
        block = sound.read(min(wanted, most), dtype=dtype, always_2d=True)
        if len(block) == 0:
            return
        wanted -= len(block)
        yield block


def read_clips(
    path: str | Path,
    sample_rate: int,
    num_samples: int,
    first: int = 0,
    count: int = 1,
    known: Extent | None = None,
    stop: Callable[[], bool] = never,
) -> tuple[np.ndarray, int, float]:
    """Read `count` consecutive clips of a sound file, mono, beginning with clip number `first`.

    Returns `(waves, rate, seconds)`: waves is float32 `(count, num_samples)` at `sample_rate`, full
    scale 1, the last one zero-padded, and fewer than `count` where the sound ends; rate (Hz) and
    seconds are those of the file, `known` before or found out. Only the part that is used is
    decoded, mixed to mono piece by piece, so that an hour in one file needs no more memory than a
    minute. Raises BadClip with the reason when the file is no usable sound, SilentClip and PastEnd
    where these clips are none.
    """
    known = known or extent(path, stop)
    rate = known.rate
    # A tenth of a second more on both sides: the resampler's filter needs sound there.
    begin = first * num_samples * rate // sample_rate
    lead = min(begin, rate // 10)
    wanted = count * num_samples * rate // sample_rate + lead + rate // 10 + 1
    with _reasons():
        mono = _mono(path, known, begin - lead, wanted, stop)
    if len(mono):
        mono = resampled(mono, rate, sample_rate, os.fsdecode(path))
    elif first == 0:
        raise BadClip("holds no samples")
    mono = mono[lead * sample_rate // rate :][: count * num_samples]
    if first and len(mono) == 0:
        raise PastEnd(f"ends after {known.seconds:.1f} s")
    count = min(count, max(1, -(-len(mono) // num_samples)))
    out = np.zeros(count * num_samples, np.float32)
    out[: len(mono)] = mono
    if float(np.abs(out).max()) < SILENCE:
        used = count * num_samples / sample_rate
        if first or known.seconds <= used:
            raise SilentClip(SILENT)
        raise SilentClip(
            f"silent in its first {used:.1f} s of {known.seconds:.1f} s: --sound.cut consecutive "
            "uses all of it"
        )
    return out.reshape(count, num_samples), rate, known.seconds


def resampled(wave: np.ndarray, rate: int, wanted: int, name: str) -> np.ndarray:
    """`wave (L,)` at `rate` Hz -> at `wanted` Hz, as it is where these are equal.

    `name`: of what is resampled, where soxr is not installed: then raises Missing.
    """
    if rate == wanted:
        return wave
    soxr = packages.needed(
        "soxr", f"Resampling {name} from {rate} to {wanted} Hz", f"bring sounds of {wanted} Hz"
    )
    return soxr.resample(wave, rate, wanted, quality="HQ")


def _mono(
    path: str | Path, known: Extent, begin: int, wanted: int, stop: Callable[[], bool]
) -> np.ndarray:
    """Frames of a file from `begin` on, `wanted` or as many as there are, mixed: `(frames,)`."""
    mono = np.empty(max(0, min(wanted, known.frames - begin)), np.float32)
    at = 0
    for view, frames in known.streams:
        if begin < frames and at < len(mono):
            for block in _from(path, view, begin, min(len(mono) - at, frames - begin), stop):
                mono[at : at + len(block)] = _mixed(block)
                at += len(block)
        begin = max(0, begin - frames)
    return mono[:at]


def _from(
    path: str | Path, view: View | None, begin: int, wanted: int, stop: Callable[[], bool]
) -> Iterator[np.ndarray]:
    """`_blocks` from frame `begin` on, also where a decoder cannot seek (GSM, DWVW, NMS and G.721
    ADPCM, a FLAC whose header lies): then all before is decoded and dropped."""
    with ExitStack() as opened:
        sound, before = opened.enter_context(_decoder(path, view)), 0
        try:
            if begin:
                sound.seek(begin)
        except RuntimeError:
            sound, before = opened.enter_context(_decoder(path, view)), begin
        for block in _blocks(sound, 0, before + wanted, stop):
            if len(block) > before:
                yield block[before:]
            before = max(0, before - len(block))


def _mixed(block: np.ndarray) -> np.ndarray:
    """Mean of the channels of `(frames, channels)`: float32, full scale 1."""
    full = 1
    if block.dtype == np.int16:
        full = 32768
    elif not np.isfinite(block).all():
        raise BadClip("holds NaN or Inf samples")
    elif (peak := float(np.abs(block).max())) > MAX_AMPLITUDE:
        raise BadClip(f"samples reach {peak:.3g}, where full scale is 1")
    # numpy's mean over so short an axis takes 20 times as long.
    return sum(block.T.astype(np.float32)) / (full * block.shape[1])


def read_clip(cfg: Config, path: Path, number: int) -> Tensor:
    """One clip `(clip_samples,)` that was decoded before; raises UserError where it has gone."""
    try:
        with _reasons():
            stat = os.stat(path)
        known = _remembered(path, stat.st_size, stat.st_mtime_ns)
        rate, samples = cfg.sound.sample_rate, cfg.sound.clip_samples
        waves, _, _ = read_clips(path, rate, samples, number, known=known)
    except BadClip as reason:
        raise UserError(
            f"{path} can no longer be read ({reason}), though it was part of the data set: bring "
            "it back, or train without it in a run of its own (--run-name NAME)."
        ) from reason
    return torch.from_numpy(waves[0])


@lru_cache(maxsize=4096)
def _remembered(path: Path, size: int, changed: int) -> Extent:
    """`extent` of a file that many clips are read of, one by one."""
    return extent(path)


# ---- decoding ------------------------------------------------------------------------------------


class Decoder(soundfile.SoundFile):
    """A sound file that is read block by block to where its samples end.

    soundfile reads no more than a header states, and seeks after each block, where `seekable`.
    """

    streaming = False

    def seekable(self) -> bool:
        return not self.streaming and super().seekable()


@contextmanager
def _decoder(path: str | Path, view: View | None) -> Iterator[Decoder]:
    """A sound file or a view of it, whose rate and channels have been looked at."""
    with ExitStack() as opened:
        # As bytes: a name from another system's archive need not be valid UTF-8.
        source = os.fsencode(path) if os.name == "posix" else path
        if view is not None:
            file = opened.enter_context(open(path, "rb", buffering=0))
            source = io.BufferedReader(containers.Viewed(file, view), 1 << 16)
        sound = opened.enter_context(Decoder(source))
        low, high = RATE_LIMITS
        if not low <= sound.samplerate <= high:
            raise BadClip(f"sample rate {sound.samplerate} Hz is outside {low} to {high} Hz")
        if sound.channels > MAX_CHANNELS:
            raise BadClip(f"{sound.channels} channels, more than {MAX_CHANNELS}")
        yield sound


@contextmanager
def _reasons() -> Iterator[None]:
    """Within it, what Python and libsndfile say becomes the reason of a BadClip."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        said = error.error_string
        if "not a regular file" in said:  # it is one; libsndfile says so of damaged FLAC files too
            said = "damaged at its beginning"
        raise BadClip(f"cannot be read: {said}") from error
    except OSError as error:
        raise BadClip(f"cannot be read: {error.strerror or error}") from error
    except (RuntimeError, ValueError) as error:
        raise BadClip(f"cannot be read: {error}") from error


def write_wav(path: str | Path, wave: Tensor, sample_rate: int) -> None:
    """Write `wave (L,)` as 16-bit mono; one that would clip is turned down as a whole.

    Raises OSError that names `path`, and leaves no half file.
    """
    files.write_bytes(Path(path), wav_bytes(wave, sample_rate), durable=False)


def wav_bytes(wave: Tensor, sample_rate: int) -> bytes:
    """The content of the file that `write_wav` writes."""
    wave = wave.detach().float().cpu()
    peak = float(wave.abs().max())
    if peak > 0.999:
        wave = wave * (0.999 / peak)
    content = io.BytesIO()  # libsndfile says of a full disk no more than "system error"
    soundfile.write(content, wave.numpy(), sample_rate, subtype="PCM_16", format="WAV")
    return content.getvalue()
