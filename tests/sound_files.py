"""Sound files of every kind for the tests: good ones, and ones that are none."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import soundfile

from soundgan import audio

RATE = 22050


def tone(hz: float, seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)
    return np.stack([wave] * channels, axis=1) if channels > 1 else wave


def encoded(wave: np.ndarray, rate: int = RATE, **how: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, **({"format": "WAV"} | how))
    return buffer.getvalue()


def one_clip(path: Path, rate: int, samples: int) -> tuple[np.ndarray, int, float]:
    waves, found, seconds = audio.read_clips(path, rate, samples)
    return waves[0], found, seconds


def strongest(wave: np.ndarray, rate: int = RATE) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def wav_header(rate: int, channels: int, data: bytes = b"", frames: int | None = None) -> bytes:
    size = len(data) if frames is None else frames * 2 * channels
    block = struct.pack("<HHIIHH", 1, channels, rate, (rate * 2 * channels) & 0xFFFFFFFF, 2, 16)
    block = block[:12] + struct.pack("<HH", (2 * channels) & 0xFFFF, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + block
        + b"data" + struct.pack("<I", size) + data
    )  # fmt: skip


def _bad(value: float) -> bytes:
    wave = tone(500)
    wave[100] = value
    return encoded(wave, format="WAV", subtype="FLOAT")


NOISE = np.random.default_rng(0).bytes(4000)


HOSTILE = {
    "empty": (b"", "empty file"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "no samples": (wav_header(RATE, 1), "holds no samples"),
    "half a header": (encoded(tone(500))[:30], "cannot be read"),
    "one byte": (b"R", "content is not"),
    "noise": (b"\x00" + NOISE, "content is not"),
    "matlab": (b"MATLAB 5.0 MAT-file" + NOISE, "content is not"),
    "avi": (b"RIFF\x00\x01\x00\x00AVI " + NOISE, "content is not"),
    "zip": (b"PK\x03\x04" + NOISE, "content is not"),
    "mpeg noise": (b"\xff\xfb" + NOISE, "cannot be read|holds no samples|NaN|silent"),
    "1 Hz": (wav_header(1, 1, NOISE), "sample rate 1 Hz"),
    "1 GHz": (wav_header(1_000_000_000, 1, NOISE), "sample rate 1000000000 Hz"),
    "1000 channels": (wav_header(RATE, 1000, NOISE), "1000 channels"),
    "silence": (encoded(np.zeros(4000)), "silent"),
    "cancelling": (encoded(np.stack([tone(500), -tone(500)], 1)), "silent"),
    "nan": (_bad(np.nan), "NaN or Inf"),
    "inf": (_bad(np.inf), "NaN or Inf"),
    "1e30": (_bad(1e30), "samples reach 1e"),
}
