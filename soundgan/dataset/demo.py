"""A synthetic data set for those who bring no sounds: `python -m soundgan.dataset.demo [DIR]`.

Five street sounds built from oscillators and noise. Each clip draws its own pitch, rhythm, level,
background and length, so that a class is a distribution of sounds and not one sound. They are made
up: good for seeing the program work, not for judging how well a model learns real recordings.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import tyro

from soundgan import files
from soundgan.errors import UserError

HOME = "data"  # where it is written when no other folder is named
CLIPS = 32  # of each class
SEED = 0
RATE = 22050  # Hz
MARK = "SYNTHETIC.txt"  # stands beside the class folders, so that a run can say what it trains on

Rng = np.random.Generator


def write(folder: str | Path, clips: int = 0, seed: int = SEED) -> None:
    """Write `clips` (0: CLIPS) WAVs of each class to `folder/<class>/`.

    3 to 5 s, 22 050 Hz, 16 bit. Deterministic: a clip depends on the seed, its class and its number
    only. Raises UserError where a folder of one of the names holds anything but such clips.
    """
    folder = Path(folder)
    clips = clips or CLIPS
    _refuse_foreign(folder, seed)
    files.remove_unfinished(folder, older_than=files.DAY)
    with files.naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = files.unfinished_beside(folder / MARK)  # hidden from the search for sounds
        unfinished.mkdir()
        try:
            for name in CLASSES:
                (unfinished / name).mkdir()
                for number in range(clips):
                    path = unfinished / name / f"{name}_{number:03d}.wav"
                    with files.naming(path):
                        path.write_bytes(_wav(name, number, seed))
            files.write_bytes(folder / MARK, (MARKED + MARK_ADVICE).encode())
            for name in CLASSES:
                shutil.rmtree(folder / name, ignore_errors=True)
                (unfinished / name).rename(folder / name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _refuse_foreign(folder: Path, seed: int) -> None:
    """Raise UserError where the set would replace anything but clips of an earlier set."""
    mark = folder / MARK
    marked = files.is_regular(mark) and files.read_bytes(mark).startswith(MARKED.encode())
    foreign = [mark] if os.path.lexists(mark) and not marked else []
    for name in CLASSES:
        own = folder / name
        if own.is_symlink() or (own.exists() and not own.is_dir()):
            foreign.append(own)
        else:
            inside = sorted(own.rglob("*"))
            foreign += [path for path in inside if not (marked and _is_clip(path, name, seed))]
    if foreign:
        raise UserError(
            f"{foreign[0]} exists, and the demo set would replace it: move it elsewhere first, or "
            "name another folder."
        )


def _is_clip(path: Path, name: str, seed: int) -> bool:
    """Whether a file is what is written here under its name, but for the rounding of libraries."""
    match = re.fullmatch(rf"{name}_(\d{{3,6}})\.wav", path.name)
    if match is None or path.is_symlink() or not files.is_regular(path):
        return False
    own = soundfile.read(io.BytesIO(_wav(name, int(match[1]), seed)), dtype="int16")[0]
    try:
        there = soundfile.read(io.BytesIO(files.read_bytes(path)), dtype="int16")[0]
    except RuntimeError:  # no sound
        return False
    return own.shape == there.shape and np.abs(own.astype(int) - there).max() <= 2


def _wav(name: str, number: int, seed: int) -> bytes:
    """One clip as a file."""
    rng = np.random.default_rng([seed, list(CLASSES).index(name), number])
    seconds = rng.uniform(3, 5)
    wave = CLASSES[name](rng, np.arange(int(seconds * RATE)) / RATE)
    content = io.BytesIO()
    soundfile.write(content, _finish(rng, wave), RATE, subtype="PCM_16", format="WAV")
    return content.getvalue()


def _finish(rng: Rng, wave: np.ndarray) -> np.ndarray:
    """Bring a clip to a level of its own and put it before a background of its own."""
    wave = wave / np.abs(wave).max() * 10 ** (rng.uniform(-14, -2) / 20)
    background = _coloured(rng, len(wave), slope=rng.uniform(0.5, 1.5))
    wave = wave + background * 10 ** (rng.uniform(-60, -36) / 20)
    return wave * min(1.0, 0.98 / np.abs(wave).max())


def _coloured(rng: Rng, samples: int, slope: float) -> np.ndarray:
    """Noise whose amplitude falls with frequency as 1 / f**slope, of unit standard deviation."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum /= np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20.0) ** slope
    noise = np.fft.irfft(spectrum, samples)
    return noise / noise.std()


def _band(rng: Rng, samples: int, low: float, high: float) -> np.ndarray:
    """Noise between two frequencies (Hz) with soft edges, of unit standard deviation."""
    hz = np.fft.rfftfreq(samples, 1 / RATE)
    shape = 1 / (1 + (low / np.maximum(hz, 1)) ** 6) / (1 + (hz / high) ** 6)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) * shape, samples)
    return noise / noise.std()


def _harmonics(pitch: np.ndarray, count: int, fall: float) -> np.ndarray:
    """Sum of harmonics of a pitch curve (Hz, one value a sample), amplitudes 1 / k**fall."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    top = pitch.max()
    return sum(np.sin(k * phase) / k**fall for k in range(1, count + 1) if k * top < 0.45 * RATE)


def _siren(rng: Rng, t: np.ndarray) -> np.ndarray:
    low = rng.uniform(400, 800)
    high = low * rng.uniform(1.3, 2.2)
    cycle = t * rng.uniform(0.25, 4) + rng.uniform()
    if rng.uniform() < 0.4:  # two tones in turn
        sweep = (np.sin(2 * np.pi * cycle) > 0).astype(float)
    else:  # a wail
        sweep = 0.5 + 0.5 * np.sin(2 * np.pi * cycle)
    tone = _harmonics(low + (high - low) * sweep, 6, rng.uniform(0.8, 1.6))
    passing = np.exp(-(((t - rng.uniform(0, t[-1])) / rng.uniform(1.5, 5)) ** 2))
    return tone * (0.3 + 0.7 * passing)


def _drilling(rng: Rng, t: np.ndarray) -> np.ndarray:
    strikes = rng.uniform(14, 32) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.2, 1) * t))
    beat = np.cumsum(strikes) / RATE % 1
    blows = np.exp(-beat * rng.uniform(4, 12))
    rattle = _band(rng, len(t), rng.uniform(300, 1200), rng.uniform(3000, 8000))
    motor = _harmonics(np.full(len(t), rng.uniform(80, 180)), 12, 0.8)
    start = rng.uniform(0, 0.4) * t[-1]
    on = (
        1 / (1 + np.exp(-(t - start) * 30)) / (1 + np.exp((t - rng.uniform(0.7, 1.2) * t[-1]) * 30))
    )
    return (rattle * blows + rng.uniform(0.1, 0.5) * motor) * on


def _dog_bark(rng: Rng, t: np.ndarray) -> np.ndarray:
    wave = np.zeros(len(t))
    pitch, at = rng.uniform(250, 700), rng.uniform(0.05, 0.6)
    while at < t[-1] - 0.3:
        own = t[(t >= at) & (t < at + 0.3)] - at
        length = rng.uniform(0.08, 0.2)
        bend = pitch * rng.uniform(0.9, 1.1) * (1 + 0.5 * np.exp(-own / 0.03) - 0.8 * own)
        bark = _harmonics(bend, 14, 0.7) + 0.8 * _band(rng, len(own), 600, 4000)
        envelope = (1 - np.exp(-own / 0.008)) * np.exp(-((own / length) ** 2))
        first = int(np.searchsorted(t, at))
        wave[first : first + len(own)] += bark * envelope
        at += rng.uniform(0.25, 1.2)
    return wave if wave.any() else _dog_bark(rng, t)


def _engine_idling(rng: Rng, t: np.ndarray) -> np.ndarray:
    speed = rng.uniform(18, 45) * (1 + 0.03 * _coloured(rng, len(t), 1.5).clip(-2, 2))
    firing = np.cumsum(speed) / RATE
    pulses = np.exp(-(firing % 1) * rng.uniform(3, 8))
    uneven = 1 + 0.3 * np.sin(np.pi * firing + rng.uniform(0, 6))
    low = _harmonics(speed, 20, rng.uniform(0.6, 1.1))
    rumble = _band(rng, len(t), 40, rng.uniform(300, 1500))
    return low * uneven + rng.uniform(0.5, 2) * rumble * pulses


def _street_music(rng: Rng, t: np.ndarray) -> np.ndarray:
    scale = np.array([0, 2, 4, 7, 9, 12, 14, 16])  # major pentatonic, in semitones
    tonic, beat = rng.uniform(160, 330), rng.uniform(0.14, 0.4)
    fall, decay = rng.uniform(0.8, 2.0), rng.uniform(0.15, 0.8)
    wave = np.zeros(len(t))
    for at in np.arange(rng.uniform(0, 0.3), t[-1] - 0.1, beat):
        if rng.uniform() < 0.2:  # a rest
            continue
        own = t[(t >= at) & (t < at + 6 * decay)] - at
        for semitones in rng.choice(scale, size=rng.integers(1, 4), replace=False):
            pitch = np.full(len(own), tonic * 2 ** (semitones / 12))
            pitch *= 1 + 0.004 * np.sin(2 * np.pi * 5 * own)
            note = _harmonics(pitch, 7, fall) * np.exp(-own / decay) * (1 - np.exp(-own / 0.01))
            first = int(np.searchsorted(t, at))
            wave[first : first + len(own)] += note * rng.uniform(0.5, 1)
    return wave if wave.any() else _street_music(rng, t)


CLASSES: dict[str, Callable[[Rng, np.ndarray], np.ndarray]] = {
    "siren": _siren,
    "drilling": _drilling,
    "dog_bark": _dog_bark,
    "engine_idling": _engine_idling,
    "street_music": _street_music,
}
MARKED = (  # what the file MARK begins with
    f"The folders {', '.join(CLASSES)} were made by soundgan/dataset/demo.py; they are not "
    "recordings.\n"
)
MARK_ADVICE = "Delete them and this file when you bring sounds of your own.\n"


def main(folder: Annotated[str, tyro.conf.Positional] = HOME) -> None:
    """Write the synthetic demo set.

    Args:
        folder: Where its class folders go.
    """
    try:
        write(folder)
    except (UserError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(f"Wrote {CLIPS} clips of each of {', '.join(CLASSES)} to {folder}.")


if __name__ == "__main__":
    tyro.cli(main)
