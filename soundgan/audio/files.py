"""Sound files -> waveforms, and waveforms -> WAV files.

libsndfile opens far more than sounds (it ignores the extension) and passes NaN, silence and absurd
headers without a word, so each of them is looked for here.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from soundgan.errors import UserError
from soundgan.settings import Config

# Files whose header states something outside these limits are damaged or not meant to be heard;
# resampling a "1 Hz" file would ask for tens of gigabytes.
RATE_LIMITS = (1_000, 768_000)  # Hz
MAX_CHANNELS = 64
MAX_AMPLITUDE = 1e3  # full scale is 1; a float file of int16 values passes 1 but is not audio
SILENCE = 1e-4  # peak below which a clip is silent (-80 dBFS): three steps of a 16-bit file
SILENT = "silent (mixed to mono, it stays below -80 dBFS)"  # the reason to leave one out


class BadClip(Exception):
    """Why one file cannot be used."""


def sniff(head: bytes) -> None:
    """Raise BadClip unless the first 12 bytes of a file are those of a format this project reads.

    Looked at before libsndfile sees the file: its parsers of exotic formats have known holes.
    """
    if len(head) == 0:
        raise BadClip("empty file (0 bytes)")
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


def read_clips(
    path: str | Path, sample_rate: int, num_samples: int, first: int = 0, count: int = 1
) -> tuple[np.ndarray, int, float]:
    """Read `count` consecutive clips of a sound file, mono, beginning with clip number `first`.

    Returns `(waves, rate, seconds)`: waves is float32 `(count, num_samples)` at `sample_rate`, full
    scale 1, zero-padded at the end; rate (Hz) and seconds are those of the file. Only the part that
    is used is decoded, so that an hour in one file needs no more memory than a minute. Raises
    BadClip with the reason when the file is no usable sound.
    """
    try:
        with opened(path) as sound:
            rate, frames = sound.samplerate, sound.frames
            # A tenth of a second more on both sides: the resampler's filter needs sound there.
            begin = first * num_samples * rate // sample_rate
            lead = min(begin, rate // 10)
            if begin:
                sound.seek(begin - lead)
            wanted = count * num_samples * rate // sample_rate + lead + rate // 10 + 1
            # libsndfile makes float32 of 16-bit samples far more slowly than numpy, below.
            dtype, full = ("int16", 32768) if sound.subtype == "PCM_16" else ("float32", 1)
            wave = sound.read(wanted, dtype=dtype, always_2d=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadClip(f"cannot be read: {error}") from error
    if len(wave) == 0:
        raise BadClip("holds no samples")
    if not np.isfinite(wave).all():
        raise BadClip("holds NaN or Inf samples")
    if (peak := float(np.abs(wave).max()) / full) > MAX_AMPLITUDE:
        raise BadClip(f"samples reach {peak:.3g}, where full scale is 1")
    # numpy's mean over so short an axis takes 20 times as long.
    mono = sum(wave.T.astype(np.float32)) / (full * wave.shape[1])
    mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    mono = mono[lead * sample_rate // rate :][: count * num_samples]
    out = np.zeros(count * num_samples, np.float32)
    out[: len(mono)] = mono
    if float(np.abs(out).max()) < SILENCE:
        raise BadClip(SILENT)
    return out.reshape(count, num_samples), rate, frames / rate


def read_clip(cfg: Config, path: Path, number: int) -> Tensor:
    """One clip `(clip_samples,)` that was decoded before; raises UserError where it has gone."""
    try:
        waves, _, _ = read_clips(path, cfg.sound.sample_rate, cfg.sound.clip_samples, number)
    except BadClip as reason:
        raise UserError(
            f"{path} can no longer be read ({reason}), though it was part of the data set: bring "
            "it back, or train without it in a run of its own (--run-name NAME)."
        ) from reason
    return torch.from_numpy(waves[0])


def opened(path: str | Path) -> soundfile.SoundFile:
    """A sound file whose content and header have been looked at; raises BadClip."""
    with open(path, "rb") as file:
        sniff(file.read(12))
    # As bytes: a name from another system's archive need not be valid UTF-8.
    sound = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)
    low, high = RATE_LIMITS
    reason = ""
    if not low <= sound.samplerate <= high:
        reason = f"sample rate {sound.samplerate} Hz is outside {low} to {high} Hz"
    elif sound.channels > MAX_CHANNELS:
        reason = f"{sound.channels} channels, more than {MAX_CHANNELS}"
    if reason:
        sound.close()
        raise BadClip(reason)
    return sound


def write_wav(path: str | Path, wave: Tensor, sample_rate: int) -> None:
    """Write `wave (L,)` as 16-bit mono; one that would clip is turned down as a whole."""
    wave = wave.detach().float().cpu()
    peak = float(wave.abs().max())
    if peak > 0.999:
        wave = wave * (0.999 / peak)
    content = io.BytesIO()  # libsndfile says of a full disk no more than "system error"
    soundfile.write(content, wave.numpy(), sample_rate, subtype="PCM_16", format="WAV")
    Path(path).write_bytes(content.getvalue())
