"""Class folders -> one decoded data set: found, decoded once in parallel, cached, reported.

Every file that is left out has a reason, and the reasons are counted and listed.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

import audio
import config
import demo
import runs
from audio import BadClip
from config import Config, UserError

AUDIO_EXTENSIONS = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3"}
AUDIO_EXTENSIONS |= {".aif", ".aiff", ".aifc"}
SPLITS = {"train", "val", "valid", "validation", "dev", "eval", "test"}
TRANSFORM_CONSTANTS = (  # on which the decoded clips depend
    *("representation", "cut", "sample_rate", "n_fft", "hop", "frames", "n_mels", "f_min", "f_max"),
    *("mel_scale", "mel_norm", "power", "compression", "compression_constant"),
)
PART_CLIPS = 32  # most clips of a long recording that one thread decodes at a time
CACHE_VERSION = 3  # raise it when the meaning of the cached numbers changes


# ---- folders -> files ---------------------------------------------------------------------------
# A class is a folder. What lies beside the folders, or below them in another format, is named in
# the report: a person who sees "30 clips" of 32 must be able to find the two.


@dataclass
class Found:
    """Audio files below a data folder, before any of them is opened."""

    root: Path
    files: list[str] = field(default_factory=list)  # relative to root, sorted: <class>/...
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (relative path, reason)
    folders: list[str] = field(default_factory=list)  # class folders, with a usable clip or without


def find_files(data_dir: str | Path, loose: bool = False) -> Found:
    """List the audio files of `data_dir/<class>/**`, or of `data_dir/train/<class>/**`.

    With `loose` (for recipes that use no labels) also those that lie beside the class folders.

    `train` is a split, and not a class, where it holds folders and stands beside nothing but other
    splits. Hidden, `__MACOSX` and `_...` folders and hidden files are ignored; anything else in a
    class folder that is no audio file lands in `left_out` with its reason. Links are followed, each
    folder once.
    """
    root = Path(data_dir)
    if not root.is_dir():
        return Found(root)
    train = [p for p in _folders(root) if p.name.lower() == "train" and _folders(p)]
    if train and {p.name.lower() for p in _folders(root)} <= SPLITS:
        root = train[0]
    found = Found(root)
    for entry in sorted(root.iterdir()):
        if _ignored(entry.name):
            continue
        if entry.is_dir():
            found.folders.append(entry.name)
            _walk(entry, found)
        elif entry.suffix.lower() in AUDIO_EXTENSIONS:
            if loose:
                found.files.append(entry.name)
            else:
                found.left_out.append((entry.name, "not in a class folder"))
    return found


def _ignored(name: str) -> bool:
    return name.startswith((".", "_"))


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [p for p in parent.iterdir() if p.is_dir() and not _ignored(p.name)]


def _walk(folder: Path, found: Found) -> None:
    def unreadable(error: OSError) -> None:
        where = Path(error.filename).relative_to(found.root).as_posix()
        found.left_out.append((where, f"cannot be read: {error.strerror}"))

    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not _ignored(f))
        inside = Path(parent).relative_to(found.root).as_posix()
        for name in sorted(f for f in files if not f.startswith(".")):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in AUDIO_EXTENSIONS:
                found.files.append(f"{inside}/{name}")
            else:
                reason = f"not a WAV, FLAC, OGG, MP3 or AIFF ({suffix or 'no extension'})"
                found.left_out.append((f"{inside}/{name}", reason))


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
    if cfg.cut == "first":
        return [Part(name) for name in found.files]
    parts = []
    for name in found.files:
        try:
            with audio.opened(found.root / name) as sound:
                clips = max(1, round(sound.frames / sound.samplerate / cfg.clip_seconds))
        except (BadClip, OSError, RuntimeError):
            clips = 1  # decoding it will say what is wrong
        for first in range(0, clips, PART_CLIPS):
            parts.append(Part(name, first, min(PART_CLIPS, clips - first)))
    return parts


# ---- the cache ----------------------------------------------------------------------------------
# One folder for each pair of data folder and spectrogram: the clips as raw float32, read through a
# memory map, and meta.json, which says which files (path, size, time) they were made from.


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
    left_out: list[tuple[str, str]]  # (path below root, reason)
    root: str
    fingerprint: str  # of the files that were found, usable or not

    def __len__(self) -> int:
        return len(self.labels)


def load_clips(cfg: Config, found: Found, keep: bool = True) -> Clips:
    """Decode every file of `found` and transform it, or open what an earlier run decoded.

    With `keep` false (a dry run) nothing is written: all files are decoded and checked, and `data`
    holds the first `batch_size` usable ones only. Raises UserError when the cache cannot be
    written.
    """
    folder = cfg.cache_dir / _spectrogram_key(cfg, found.root)
    fingerprint = _fingerprint(found)
    cached = _open_cache(folder, cfg, fingerprint)
    if cached is not None:
        return cached
    if not keep:
        some: list[np.ndarray] = []
        clips = _decode_all(
            cfg, found, lambda x: some.append(x) if len(some) < cfg.batch_size else 0
        )
        clips.data = np.stack(some) if some else np.empty((0, *cfg.shape), np.float32)
        return clips
    try:
        waiting = f"Another run decodes the same sounds into {folder}: waiting for it."
        with runs.in_turn(folder.with_name(f"{folder.name}.lock"), waiting):
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
    folder = cfg.cache_dir / _spectrogram_key(cfg, Path(root))
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
            clips = _decode_all(cfg, found, lambda x: file.write(x.tobytes()))
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


def _spectrogram_key(cfg: Config, root: Path) -> str:
    parts = [CACHE_VERSION, str(root.resolve()), *(getattr(cfg, n) for n in TRANSFORM_CONSTANTS)]
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _fingerprint(found: Found) -> str:
    digest = hashlib.sha256(repr(found.left_out).encode(errors="backslashreplace"))
    root = str(found.root)
    for name in found.files:
        entry = (name, *stamp(f"{root}/{name}"))
        digest.update(repr(entry).encode(errors="backslashreplace"))
    return digest.hexdigest()


def stamp(path: str | Path) -> tuple[int | None, int | None]:
    """Size and time of a file, which tell whether it is still the same."""
    try:
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    except OSError:  # a dangling link: it will be left out with this as its reason
        return None, None


def _decode_all(cfg: Config, found: Found, keep: Callable[[np.ndarray], object]) -> Clips:
    """Decode in parallel, in order; hand each usable clip `(*cfg.shape)` float32 to `keep`."""
    clips = Clips(None, [], [], [], [], [], [], list(found.left_out), str(found.root), "")
    parts = plan(cfg, found)
    with tqdm(total=len(parts), desc="Decoding", unit="part", disable=not parts) as bar:
        for part, result in _decode_in_order(cfg, found, parts):
            bar.update()
            if isinstance(result, BadClip):
                clips.left_out.append((part.name, str(result)))
                continue
            data, silent, rate, seconds = result
            for number, x in enumerate(data):
                if silent[number]:
                    at = (part.first + number) * cfg.clip_seconds
                    where = f"{part.name} at {at:.1f} s" if cfg.cut == "consecutive" else part.name
                    clips.left_out.append((where, audio.SILENT))
                    continue
                keep(x)
                clips.files.append(part.name)
                clips.numbers.append(part.first + number)
                clips.rates.append(rate)
                clips.seconds.append(seconds if cfg.cut == "first" else cfg.clip_seconds)
    # Only folders with a usable clip become classes; the report names the others.
    names = [_class_of(name) for name in clips.files]
    clips.classes = sorted(set(names))
    index = {name: i for i, name in enumerate(clips.classes)}
    clips.labels = [index[name] for name in names]
    return clips


def _class_of(name: str) -> str:
    folder, _, rest = name.partition("/")
    return folder if rest else "(no class folder)"


def _decode_in_order(
    cfg: Config, found: Found, parts: list[Part]
) -> Iterator[tuple[Part, tuple | BadClip]]:
    """Yield (part, (data, silent, rate, seconds) or BadClip), decoding ahead, few parts at a time.

    Threads are enough: soundfile, soxr and torch let go of the interpreter while they work. One
    clip at a time through the transform: a batch of them leaves the processor's cache and is ten
    times slower.
    """
    transform = audio.Transform(cfg)

    @torch.inference_mode()
    def decode(part: Part) -> tuple | BadClip:
        path = found.root / part.name
        try:
            waves, rate, seconds = audio.read_clips(
                path, cfg.sample_rate, cfg.clip_samples, part.first, part.count
            )
        except BadClip as reason:
            return reason
        silent = np.abs(waves).max(axis=1) < config.SILENCE
        data = [transform(torch.from_numpy(wave)[None])[0].numpy() for wave in waves]
        return data, silent, rate, seconds

    threads = cfg.decode_threads or os.cpu_count() or 1
    coming = iter(parts)
    most = threads + (64 if cfg.cut == "first" else 4)  # parts of many clips: fewer of them
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


# ---- holding out --------------------------------------------------------------------------------
# Scores need real clips that the networks never saw. Takes of one recording resemble each other far
# more than two recordings do, so what is held out is whole sources wherever the names tell them.


@dataclass(frozen=True)
class Recording:
    """Where one real clip is on disk: its waveform is read again when it is scored against."""

    path: Path
    number: int  # of the clip within the file
    label: int


@dataclass(frozen=True)
class Split:
    """Which clips are trained on, and which real sounds are for scoring only."""

    training: np.ndarray  # indices into the clips, rising
    held_out: list[Recording]
    said: str  # one sentence: how many, by what rule


def recordings(clips: Clips, rows: Iterable[int]) -> list[Recording]:
    """Where the clips of these rows came from."""
    root = Path(clips.root)
    return [Recording(root / clips.files[i], clips.numbers[i], clips.labels[i]) for i in rows]


# Forms of file names (without extension) that say where a clip was cut from, in this order; `s` is
# the source. The last one is any name that ends in a counter.
SOURCES = (
    re.compile(r"(?P<s>\d-\d+)-[A-Z](-\d+)?"),  # ESC-50: fold-recording-take-class
    re.compile(r"(?P<s>\d+)-\d+-\d+-\d+"),  # UrbanSound8K: recording-class-occurrence-slice
    re.compile(r"(?P<s>[0-9a-f]+)_nohash_\d+"),  # Speech Commands: speaker
    re.compile(r"(?P<s>.+)[-_ .]+\(?(\d+|[A-Za-z])\)?"),
)


def source_in_name(name: str) -> str:
    """Source that a file's name tells, or the name itself: `dog/3-1234-B.wav` -> `3-1234`.

    The class's own name is no part of it: `7/7_jackson_32.wav` and `8/8_jackson_5.wav` have one
    speaker.
    """
    stem = os.path.splitext(name.rpartition("/")[2])[0]
    match = next(filter(None, (form.fullmatch(stem) for form in SOURCES)), None)
    if match is None:
        return stem
    label = _class_of(name)
    return "-".join(part for part in re.split(r"[-_ .]+", match["s"]) if part != label)


def source_in_folder(name: str) -> str:
    """Folders between class and file, such as one a speaker or a fold; "" where there are none."""
    return "/".join(name.split("/")[1:-1])


def hold_out(cfg: Config, clips: Clips) -> np.ndarray:
    """Which clips are held out, as a mask `(N,)`: `cfg.holdout` of each class, never by chance.

    Sources are taken whole, in an order that depends on their names alone: sub-folders of the class
    folders where there are some, else what the file names tell, else single files; in consecutive
    clips of few long files, the end of the class. A source that would take more than a quarter of a
    class is passed over. Classes of fewer than 20 clips are left whole.
    """
    labels = np.array(clips.labels, int)
    sizes = np.bincount(labels, minlength=len(clips.classes))
    wanted = np.where(sizes >= config.HOLD_OUT_FROM, np.ceil(cfg.holdout * sizes), 0).astype(int)
    most = np.maximum(wanted, (config.HELD_OUT_AT_MOST * sizes).astype(int))
    held = np.zeros(len(clips), bool)
    for source_of in (source_in_folder, source_in_name, str):
        taken = np.bincount(labels[held], minlength=len(sizes))
        open_classes = (taken == 0) & (wanted > 0)  # those no coarser rule could serve
        if not open_classes.any():
            break
        sources: dict[str, list[int]] = {}
        for index, name in enumerate(clips.files):
            if not held[index]:
                sources.setdefault(source_of(name), []).append(index)
        for source in sorted(sources, key=_order):
            lacking = open_classes & (taken < wanted)
            if not lacking.any():
                break
            counts = np.bincount(labels[sources[source]], minlength=len(sizes))
            if source and (lacking & (counts > 0)).any() and (taken + counts <= most).all():
                held[sources[source]] = True
                taken += counts
    for label in np.flatnonzero(wanted * (np.bincount(labels[held], minlength=len(sizes)) == 0)):
        held[np.flatnonzero(labels == label)[-wanted[label] :]] = True  # one file of many clips
    return held


def _order(source: str) -> str:
    return hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()


def split(cfg: Config, clips: Clips, known: bool, keep: bool = True) -> Split:
    """Part the clips into those to train on and those to score against.

    With `known`, the run's own `held_out.csv` decides, and clips that came later are trained on
    unless their source is held out: what was trained on once is never scored against. Without, that
    list is written (`keep`). Raises UserError where less than a batch is left to train on, or
    too little to score against.
    """
    record = cfg.run_dir / "held_out.csv"
    if cfg.holdout_dir:
        apart = _from_folder(cfg, clips.classes, keep)
        said = f"{len(apart)} clips of {cfg.holdout_dir} are for scoring only."
        return _enough(cfg, clips, Split(np.arange(len(clips)), apart, said))
    sources = [source_in_name(name) for name in clips.files]
    own = list(zip(clips.files, clips.numbers, sources))
    if known:
        pairs, whole = _read_held_out(record)
        held = [
            (runs.as_written(name), number) in pairs or runs.as_written(source) in whole
            for name, number, source in own
        ]
        mask = np.array(held, bool)
    else:
        mask = hold_out(cfg, clips)
    apart = recordings(clips, np.flatnonzero(mask))
    rest = {sources[i] for i in np.flatnonzero(~mask)}
    if keep and not known:
        listed = [own[i] for i in np.flatnonzero(mask)]
        # A source is named where all of it is held out: then what comes of it later is, too.
        rows = [(name, number, s if s not in rest else "") for name, number, s in listed]
        runs.write_csv(record, [("file", "clip", "source"), *rows])
    said = _said(cfg, {sources[i] for i in np.flatnonzero(mask)}, rest, mask, known)
    return _enough(cfg, clips, Split(np.flatnonzero(~mask), apart, said))


def _enough(cfg: Config, clips: Clips, parts: Split) -> Split:
    if len(parts.held_out) == 1:
        raise UserError(
            "One clip is held out, and the scores need two at least: hold out more (--holdout 0.1, "
            "or --holdout-dir FOLDER), or none (--holdout 0)."
        )
    if (count := len(parts.training)) >= cfg.batch_size:
        return parts
    apart = f" ({len(clips) - count} more are held out, --holdout 0)" if count < len(clips) else ""
    raise UserError(
        f"{count} usable clips below {clips.root}{apart} are fewer than one batch of "
        f"{cfg.batch_size}: bring more sounds, or lower batch_size "
        f"(--batch-size {max(1, count)})."
    )


def _said(cfg: Config, held: set[str], rest: set[str], mask: np.ndarray, known: bool) -> str:
    """One sentence about what is held out; `held`, `rest`: sources of what is and what is not."""
    if not mask.any():
        why = "holdout = 0" if not cfg.holdout else f"no class has {config.HOLD_OUT_FROM} clips"
        why = "this run trained on all of them" if known else why
        return f"No clip is held out ({why}): scores will compare with the training clips."
    whole = "" if held & rest else f", {len(held)} whole sources by their names"
    return f"{mask.sum()} of {len(mask)} clips are held out for the scores{whole}."


def _from_folder(cfg: Config, classes: list[str], keep: bool) -> list[Recording]:
    found = find_files(cfg.holdout_dir, loose=not cfg.conditional)
    clips = load_clips(cfg, found, keep) if found.files else None
    labels = {name: index for index, name in enumerate(classes)}
    names = [clips.classes[k] for k in clips.labels] if clips else []
    apart = [
        replace(recording, label=labels[name])
        for recording, name in zip(recordings(clips, range(len(names))) if clips else [], names)
        if name in labels
    ]
    if not apart:
        raise UserError(
            f"holdout_dir = {cfg.holdout_dir!r}: holds no usable clip of the classes "
            f"{', '.join(classes)} (--holdout-dir)."
        )
    if other := sorted(set(names) - set(classes)):
        print(f"Of {cfg.holdout_dir}, {', '.join(other)} is no class of the run: left out.")
    return apart


def _read_held_out(record: Path) -> tuple[set[tuple[str, int]], set[str]]:
    """Clips (file, number) and whole sources that a run's `held_out.csv` names."""
    try:
        with open(record, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {(r["file"], int(r["clip"])) for r in rows}, {r["source"] for r in rows} - {""}
    except FileNotFoundError:  # a run that held nothing out
        return set(), set()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{record} is damaged ({error}): without it no one knows what this run never saw. "
            "Copy it back from a backup, or start another run with --run-name NAME."
        ) from error


# ---- all of it ----------------------------------------------------------------------------------


def find_clips(cfg: Config) -> Found:
    """The audio files of `data_dir`; raises UserError where there is nothing to train on."""
    found = find_files(cfg.data_dir, loose=not cfg.conditional)
    if found.files:
        return found
    if not found.root.is_dir() and cfg.data_dir != Config.data_dir:
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
    if not found.files:
        print(
            f"No class folders below {cfg.data_dir}/: writing a synthetic set to learn with "
            f"({len(demo.CLASSES)} classes, {config.DEMO_CLIPS} clips each). When you bring your "
            f"own, put them into {cfg.data_dir}/<class>/ and delete these.",
            flush=True,
        )
        waiting = "Another run is writing it: waiting for that."
        with runs.in_turn(Path(cfg.data_dir) / ".lock", waiting):
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
    runs.write_csv(run_dir / "left_out.csv", [("file", "reason"), *clips.left_out])
    if clips.left_out:
        print(f"Every file left out, with its reason: {run_dir / 'left_out.csv'}")
