"""Damaged sound files of every format that can be written here.

Each lies beside a whole file and is decoded in a process of its own, in every way that the program
decodes: its beginning, all of it in consecutive clips, and again for the scores. That must end in
time, in bounded memory, with clips of numbers or with a reason, and leave the other file alone.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

import config
from soundgan import dataset
from soundgan.audio import read_clip
from soundgan.config_io import change
from soundgan.dataset import decoding
from soundgan.errors import UserError
from soundgan.settings import GRIFFIN_LIM, Config
from survival_trials import children, corruption
from survival_trials.children import Outcome
from survival_trials.results import LOST, SILENT, SURVIVED, TRACEBACK, Trial, numbered
from survival_trials.scene import Scene

DAMAGED, LYING = "sound files: flips, cuts, inserts", "sound files: headers that lie"
SECONDS = 20.0  # s that one file may take, in all ways together
MEMORY = 1 << 30  # bytes that its decoding may map
RESIDENT = 256 << 20  # bytes that it may hold
RATES = (8000, 24000, 48000)  # Hz
LENGTH = 1.3  # s of sound before it is damaged
UNREADABLE = "is decoded, and cannot be read again"
# Where these have a hole, a decoder that seeks comes out elsewhere than one that reads on.
ABOUT = ("FLAC", "OGG", "MP3", "IMA_ADPCM")
AGAIN = 0.05  # of its peak, by which a clip may differ when it is read again
KNOWN = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "AIFF": "aif", "FLAC": "flac"}
KNOWN |= {"OGG": "ogg", "MP3": "mp3"}
LIES = (corruption.lie, corruption.unknown_length)


@dataclass(frozen=True)
class Source:
    """A format of sound files, as the library that reads them names it."""

    container: str
    encoding: str

    def write(self, rate: int, channels: int) -> bytes:
        """A tone with some noise; raises an exception where it can't be written."""
        t = np.arange(int(LENGTH * rate)) / rate
        wave = 0.4 * np.sin(2 * np.pi * 440 * t)
        wave += 0.01 * np.random.default_rng(0).standard_normal(len(t))
        wave = np.stack([wave] * channels, axis=1)
        file = io.BytesIO()
        soundfile.write(file, wave, rate, format=self.container, subtype=self.encoding)
        return file.getvalue()


@cache
def sources() -> tuple[list[Source], list[Source]]:
    """Formats that the program reads, and others."""
    every = [
        Source(container, encoding)
        for container in sorted(soundfile.available_formats())
        for encoding in sorted(soundfile.available_subtypes(container))
        if soundfile.check_format(container, encoding)
    ]
    read, others = [], []
    for source in every:
        try:
            source.write(8000, 1)
        except Exception:  # this build of the library has no encoder for it
            continue
        (read if source.container in KNOWN else others).append(source)
    return read, others


def _damaged(rng: random.Random, number: int) -> tuple[str, str, bytes, bool]:
    """Name of the file, what was done to it, its content, whether that is to its header."""
    read, others = sources()
    source = rng.choice(others) if number % 10 == 9 else read[number % len(read)]
    content = None
    while content is None:
        try:
            content = source.write(rng.choice(RATES), rng.choice((1, 1, 2)))
        except Exception:  # not at this rate, or not with two channels
            continue
    damage = rng.choice(LIES) if rng.random() < 0.35 else rng.choice(corruption.SOUND)
    ending = KNOWN.get(source.container, "wav")
    what = f"{damage.__name__} in {source.container} {source.encoding}"
    return f"damaged.{ending}", what, damage(rng, bytearray(content)), damage in LIES


def damaged_sounds(scene: Scene, count: int) -> Iterator[Trial]:
    """Each of `count` damaged files beside a whole one."""
    root = scene.folder / "sounds"
    whole = Source("WAV", "PCM_16").write(8000, 1)
    for number, rng in numbered(scene.seed, "sounds", count, scene.only):
        name, what, content, lies = _damaged(rng, number)
        shutil.rmtree(root, ignore_errors=True)
        for folder, own, data in (("good", "whole.wav", whole), ("tried", name, content)):
            (root / folder).mkdir(parents=True)
            (root / folder / own).write_bytes(data)
        trial = Trial("sounds", number, LYING if lies else DAMAGED)
        trial = _judged(trial, *_decoded(scene, root, name))
        yield replace(trial, note=f"{what}: {trial.note}" if trial.note else "")


def _decoded(scene: Scene, root: Path, name: str) -> tuple[Outcome, dict]:
    """How decoding a folder ends in a process of its own, and what that noted of a file."""
    noted = scene.folder / "decoded.json"
    noted.write_text("{}")
    said = scene.folder / "said.txt"
    ended = children.run(lambda: _decode(root, name, noted), said, SECONDS, MEMORY)
    return ended, json.loads(noted.read_text())


def _judged(trial: Trial, ended: Outcome, found: dict) -> Trial:
    """`found`: what `_decode` noted."""
    if ended.hung:
        return replace(trial, outcome=LOST, note=f"no end after {SECONDS:g} s")
    if ended.code or ended.traced:
        crashed = TRACEBACK if ended.traced or ended.code < 0 else LOST
        return replace(trial, outcome=crashed, note=f"exit code {ended.code}: {ended.last}")
    if ended.grown > RESIDENT:
        return replace(trial, outcome=LOST, note=f"{ended.grown >> 20} MiB")
    if found["wrong"]:
        said = all(UNREADABLE in what for what in found["wrong"])
        return replace(trial, outcome=LOST if said else SILENT, note="; ".join(found["wrong"]))
    return replace(trial, outcome=SURVIVED, how="usable" if found["usable"] else "left out")


# ---- in a process of its own ---------------------------------------------------------------------


def settings(root: Path) -> dict[str, Config]:
    """All ways of cutting a file into clips: its beginning, all of it, as raw audio."""
    small = {"data_dir": str(root), "device": "cpu", "decode_threads": 1, "conditional": True}
    small |= {"sound.sample_rate": 8000}
    mel = {"sound.n_fft": 256, "sound.hop": 64, "sound.n_mels": 16, "sound.f_max": 4000.0}
    mel |= {"sound.frames": 32, "vocoder": GRIFFIN_LIM}
    usual = change(config.RECIPES["sn-wgan-gp"], small | mel)
    raw = change(config.RECIPES["wavegan"], small | {"sound.samples": 2048})
    return {"first": usual, "all": change(usual, {"sound.cut": "consecutive"}), "raw": raw}


def _decode(root: Path, name: str, noted: Path) -> None:
    """Decode a folder in every way; note what is wrong and in which ways the file was usable."""
    wrong, usable = [], []
    for way, cfg in settings(root).items():
        kept: list[np.ndarray] = []
        clips = decoding.decode_all(cfg, dataset.find_clips(cfg), kept.append)
        own = [k for k, file in enumerate(clips.files) if Path(file).name == name]
        wrong += [f"{way}: {what}" for what in _wrong(cfg, clips, kept, own, root, name)]
        usable += [way] if own else []
    noted.write_text(json.dumps({"wrong": wrong, "usable": usable}))


def _wrong(
    cfg: Config,
    clips: dataset.Clips,
    kept: list[np.ndarray],
    own: list[int],
    root: Path,
    name: str,
) -> list[str]:
    """What is wrong with the decoded clips; `own`: indices of those of the damaged file."""
    found = []
    if "good/whole.wav" not in clips.files:
        found.append("the whole file is not among the clips")
    named = [reason for path, reason in clips.left_out if path.startswith(f"tried/{name}")]
    if not own and not all([named, *named]):
        found.append("neither usable nor named with a reason")
    if not all(np.isfinite(kept[k]).all() for k in own):
        found.append("NaN or Inf in a clip")
    longest = _readable_seconds(root / "tried" / name)
    found += [what for k in own[:3] + own[-1:] if (what := _wrong_again(cfg, clips, kept, k))]
    stated = max([clips.seconds[k] for k in own], default=0.0)
    if cfg.sound.cut != "first":
        stated = sum(clips.seconds[k] for k in own) - cfg.clip_seconds
    if stated > 2 * (longest + LENGTH):  # a file that was cut may say how long it was
        found.append(f"{stated:.1f} s are reported, {longest:.1f} s can be read")
    return found


def _wrong_again(cfg: Config, clips: dataset.Clips, kept: list[np.ndarray], k: int) -> str:
    """What is wrong with a clip that is read again, as the scores do; "" where it is the same."""
    number = clips.numbers[k]
    try:
        wave = read_clip(cfg, Path(clips.root) / clips.files[k], number).numpy()
    except UserError as error:
        reason = str(error).partition(", though")[0].rpartition("read (")[2]
        return f"clip {number} {UNREADABLE} ({reason}"
    path = Path(clips.root) / clips.files[k]
    exact = clips.rates[k] % cfg.sound.sample_rate == 0  # else it begins between two samples
    kind = soundfile.info(os.fsencode(path))
    if cfg.sound.raw and exact and not {kind.format, kind.subtype} & {*ABOUT}:
        before = kept[k].ravel()
        if np.abs(wave - before).max() > AGAIN * np.abs(before).max():
            return f"clip {number} is another when it is read again"
    return ""


class Straight(soundfile.SoundFile):
    """A sound file that is read on and on: not every one can be sought in, for all it says."""

    def seekable(self) -> bool:
        return False


def _readable_seconds(path: Path, most: int = 20_000_000) -> float:
    """Seconds that can be decoded of a file, whatever its header says; of `most` samples."""
    frames = 0
    try:
        with Straight(os.fsencode(path)) as sound:
            while frames * sound.channels < most:
                read = len(sound.read(512, dtype="float32"))
                frames += read
                if not read:
                    break
            return frames / sound.samplerate
    except RuntimeError:  # damaged further on
        return frames / sound.samplerate if frames else 0.0
