"""Files -> waveforms -> log-mel spectrograms, and back to waveforms and files.

The transform and its inverse live together: `LogMel` makes what the networks learn, a vocoder
(`HifiGan` or `GriffinLim`) makes it audible again. `load_clips` decodes a folder once and keeps the
result in a memory-mapped cache; every file it leaves out has a reason.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torchaudio
from torch import Tensor, nn
from tqdm.auto import tqdm

import config
from config import Config, UserError

AUDIO_EXTENSIONS = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3"}
AUDIO_EXTENSIONS |= {".aif", ".aiff", ".aifc"}
SPLITS = {"train", "val", "valid", "validation", "dev", "eval", "test"}
CACHE_VERSION = 1  # raise it when the meaning of the cached numbers changes


# ---- folders -> files ---------------------------------------------------------------------------
# A class is a folder. What lies beside the folders, or below them in another format, is named in
# the report: a person who sees "30 clips" of 32 must be able to find the two.


@dataclass
class Found:
    """Audio files below a data folder, before any of them is opened."""

    root: Path
    files: list[str] = field(default_factory=list)  # relative to root, sorted: <class>/...
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (relative path, reason)

    @property
    def is_empty(self) -> bool:
        return not self.files and not self.left_out


def find_files(data_dir: str | Path) -> Found:
    """List the audio files of `data_dir/<class>/**`, or of `data_dir/train/<class>/**`.

    `train` is a split, and not a class, where it holds folders and stands beside nothing but other
    splits. Hidden, `__MACOSX` and `_...` folders and hidden files are ignored; anything else in a
    class folder that is no audio file lands in `left_out` with its reason. Links are followed, each
    folder once.
    """
    root = Path(data_dir)
    if not root.is_dir():
        return Found(root)
    if {p.name.lower() for p in _folders(root)} <= SPLITS and any(_folders(root / "train")):
        root = root / "train"
    found = Found(root)
    for entry in sorted(root.iterdir()):
        if _ignored(entry.name):
            continue
        if entry.is_dir():
            _walk(entry, found)
        elif entry.suffix.lower() in AUDIO_EXTENSIONS:
            found.left_out.append((entry.name, "not in a class folder"))
    return found


def _ignored(name: str) -> bool:
    return name.startswith((".", "_"))


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [p for p in parent.iterdir() if p.is_dir() and not _ignored(p.name)]


def _walk(folder: Path, found: Found) -> None:
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not _ignored(f))
        for name in sorted(f for f in files if not f.startswith(".")):
            path = Path(parent, name)
            relative = path.relative_to(found.root).as_posix()
            if path.suffix.lower() in AUDIO_EXTENSIONS:
                found.files.append(relative)
            else:
                kind = path.suffix.lower() or "no extension"
                found.left_out.append((relative, f"not a WAV, FLAC, OGG, MP3 or AIFF ({kind})"))


# ---- files -> waveforms -------------------------------------------------------------------------
# libsndfile opens far more than sounds (it ignores the extension) and passes NaN, silence and
# absurd headers without a word, so each of them is looked for here.


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


def read_clip(
    path: str | Path, sample_rate: int, num_samples: int
) -> tuple[np.ndarray, int, float]:
    """Read the beginning of a sound file as a mono clip.

    Returns `(wave, rate, seconds)`: wave is float32 `(num_samples,)` at `sample_rate`, full scale
    1, cut or zero-padded; rate (Hz) and seconds are those of the file. Only the part that is used
    is decoded. Raises BadClip with the reason when the file is no usable sound.
    """
    try:
        with open(path, "rb") as file:
            sniff(file.read(12))
        with soundfile.SoundFile(path) as sound:
            rate, channels, frames = sound.samplerate, sound.channels, sound.frames
            low, high = config.RATE_LIMITS
            if not low <= rate <= high:
                raise BadClip(f"sample rate {rate} Hz is outside {low} to {high} Hz")
            if channels > config.MAX_CHANNELS:
                raise BadClip(f"{channels} channels, more than {config.MAX_CHANNELS}")
            # A tenth of a second more, so that the resampler's filter has sound past the cut.
            wanted = num_samples * rate // sample_rate + rate // 10 + 1
            wave = sound.read(wanted, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadClip(f"cannot be read: {error}") from error
    if len(wave) == 0:
        raise BadClip("holds no samples")
    if not np.isfinite(wave).all():
        raise BadClip("holds NaN or Inf samples")
    if (peak := float(np.abs(wave).max())) > config.MAX_AMPLITUDE:
        raise BadClip(f"samples reach {peak:.3g}, where full scale is 1")
    mono = wave.mean(axis=1)
    if float(np.abs(mono).max()) < config.SILENCE:
        raise BadClip("silent (its first seconds, mixed to mono, stay below -80 dBFS)")
    mono = soxr.resample(mono, rate, sample_rate, quality="HQ")[:num_samples]
    out = np.zeros(num_samples, np.float32)
    out[: len(mono)] = mono
    return out, rate, frames / rate


def write_wav(path: str | Path, wave: Tensor, sample_rate: int) -> None:
    """Write `wave (L,)` as 16-bit mono; one that would clip is turned down as a whole."""
    wave = wave.detach().float().cpu()
    peak = float(wave.abs().max())
    if peak > 0.999:
        wave = wave * (0.999 / peak)
    soundfile.write(path, wave.numpy(), sample_rate, subtype="PCM_16", format="WAV")


# ---- waveforms -> log-mel -----------------------------------------------------------------------


class LogMel(nn.Module):
    """Waveform `(B, L)` -> natural-log mel magnitudes `(B, 1, M, T)`, T = L // hop + 1.

    Centred STFT, magnitude (not power), Slaney mels with Slaney norm, clamped to `log_floor`: the
    input that SpeechBrain's 22 050 Hz HiFi-GANs were trained on. The transform is built once;
    SpeechBrain's own helper builds it anew for every call.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.log_floor = cfg.log_floor
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=cfg.sample_rate,
            n_fft=cfg.n_fft,
            win_length=cfg.n_fft,
            hop_length=cfg.hop,
            f_min=cfg.f_min,
            f_max=cfg.f_max,
            n_mels=cfg.n_mels,
            power=1.0,
            norm="slaney",
            mel_scale="slaney",
        )

    def forward(self, wave: Tensor) -> Tensor:
        mel = self.mel(wave)  # (B, L) -> (B, M, T)
        return mel.clamp(min=self.log_floor).log()[:, None]  # (B, 1, M, T)


# ---- the cache ----------------------------------------------------------------------------------
# One folder for each pair of data folder and spectrogram: the clips as raw float32, read through a
# memory map, and meta.json, which says which files (path, size, time) they were made from.


@dataclass
class Clips:
    """A decoded data set."""

    mels: np.ndarray  # (N, 1, M, T) float32, usually a memory map
    labels: list[int]  # N indices into classes
    classes: list[str]
    files: list[str]  # N paths below root
    seconds: list[float]  # N durations of the files, before cutting
    rates: list[int]  # N sample rates of the files (Hz)
    left_out: list[tuple[str, str]]  # (path below root, reason)
    root: str
    fingerprint: str  # of the files that were found, usable or not

    def __len__(self) -> int:
        return len(self.labels)


def load_clips(cfg: Config, found: Found, keep: bool = True) -> Clips:
    """Decode every file of `found` into log-mels, or open what an earlier run decoded.

    With `keep` false (a dry run) nothing is written: all files are decoded and checked, and `mels`
    holds the first `batch_size` usable ones only. Raises UserError when the cache cannot be
    written.
    """
    folder = cfg.cache_dir / _spectrogram_key(cfg, found.root)
    fingerprint = _fingerprint(found)
    cached = _open_cache(folder, cfg, fingerprint)
    if cached is not None:
        return cached
    if not keep:
        mels: list[np.ndarray] = []
        clips = _decode_all(
            cfg, found, lambda m: mels.append(m) if len(mels) < cfg.batch_size else 0
        )
        clips.mels = np.stack(mels) if mels else np.empty((0, *cfg.shape), np.float32)
        return clips
    try:
        return _build_cache(folder, cfg, found, fingerprint)
    except OSError as error:
        raise UserError(
            f"The decoded sounds cannot be kept in {folder} ({error}); free some space there or "
            "choose another place with --output-dir."
        ) from error


def _build_cache(folder: Path, cfg: Config, found: Found, fingerprint: str) -> Clips:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob("*.tmp"):  # of runs that were killed while decoding
        if time.time() - stale.stat().st_mtime > 86_400:
            shutil.rmtree(stale, ignore_errors=True)
    building = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    building.mkdir()
    try:
        with open(building / "mels.f32", "wb") as file:
            clips = _decode_all(cfg, found, lambda mel: file.write(mel.tobytes()))
        meta = {k: v for k, v in asdict(clips).items() if k != "mels"}
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
        if (folder / "mels.f32").stat().st_size != 4 * int(np.prod(shape)):
            return None
        if shape[0] == 0:  # an empty file cannot be mapped
            return Clips(mels=np.empty(shape, np.float32), **meta)
        return Clips(mels=np.memmap(folder / "mels.f32", np.float32, "r", shape=shape), **meta)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _spectrogram_key(cfg: Config, root: Path) -> str:
    names = ("sample_rate", "n_fft", "hop", "n_mels", "f_min", "f_max", "frames", "log_floor")
    parts = [CACHE_VERSION, str(root.resolve()), *(getattr(cfg, n) for n in names)]
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _fingerprint(found: Found) -> str:
    digest = hashlib.sha256(repr(found.left_out).encode(errors="backslashreplace"))
    for name in found.files:
        try:
            stat = os.stat(found.root / name)
            entry = (name, stat.st_size, stat.st_mtime_ns)
        except OSError:  # a dangling link: it will be left out with this as its reason
            entry = (name, None, None)
        digest.update(repr(entry).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _decode_all(cfg: Config, found: Found, keep: Callable[[np.ndarray], object]) -> Clips:
    """Decode in parallel, in order; hand each usable clip's `(1, M, T)` float32 to `keep`."""
    clips = Clips(None, [], [], [], [], [], list(found.left_out), str(found.root), "")
    bar = tqdm(total=len(found.files), desc="Decoding", unit="clip", disable=not found.files)
    with bar:
        for name, result in _decode_in_order(cfg, found):
            bar.update()
            if isinstance(result, BadClip):
                clips.left_out.append((name, str(result)))
                continue
            mel, rate, seconds = result
            keep(mel)
            clips.files.append(name)
            clips.rates.append(rate)
            clips.seconds.append(seconds)
    # Only folders with a usable clip become classes; the report names the others.
    names = [name.split("/")[0] for name in clips.files]
    clips.classes = sorted(set(names))
    index = {name: i for i, name in enumerate(clips.classes)}
    clips.labels = [index[name] for name in names]
    return clips


def _decode_in_order(cfg: Config, found: Found) -> Iterator[tuple[str, tuple | BadClip]]:
    """Yield (name, (mel, rate, seconds) or BadClip), decoding ahead in threads, few at a time.

    Threads are enough: soundfile, soxr and torch let go of the interpreter while they work. One
    clip at a time through the transform: a batch of them leaves the processor's cache and is ten
    times slower.
    """
    transform = LogMel(cfg)

    @torch.inference_mode()
    def decode(name: str) -> tuple | BadClip:
        try:
            wave, rate, seconds = read_clip(found.root / name, cfg.sample_rate, cfg.clip_samples)
        except BadClip as reason:
            return reason
        return transform(torch.from_numpy(wave)[None])[0].numpy(), rate, seconds

    threads = cfg.decode_threads or os.cpu_count() or 1
    names = iter(found.files)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[str, Future]] = deque()
        try:
            while True:
                for name in itertools.islice(names, 64 + threads - len(ahead)):
                    ahead.append((name, pool.submit(decode, name)))
                if not ahead:
                    return
                name, future = ahead.popleft()
                yield name, future.result()
        finally:  # on Ctrl-C, do not decode what nobody waits for
            for _, future in ahead:
                future.cancel()


def describe(clips: Clips, found: Found) -> str:
    """The report before epoch 1: classes, clips, seconds, rates, and what was left out and why."""
    lines = [f"{len(clips)} clips in {len(clips.classes)} classes below {clips.root}"]
    width = max((len(c) for c in clips.classes), default=0)
    for index, name in enumerate(clips.classes):
        own = [i for i, label in enumerate(clips.labels) if label == index]
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
    empty = sorted({name.split("/")[0] for name in found.files} - set(clips.classes))
    for name in empty:
        lines.append(f"  {name}: no usable clip, so it is no class of this run")
    if clips.left_out:
        lines.append(f"Left out: {len(clips.left_out)} files")
        for reason, count in Counter(reason for _, reason in clips.left_out).most_common(8):
            example = next(path for path, why in clips.left_out if why == reason)
            lines.append(f"  {count} x {reason} (such as {example})")
    return "\n".join(lines)


# ---- log-mel -> waveforms -----------------------------------------------------------------------
# Every vocoder is called the same way: log-mel (B, 1, M, T) -> waveform (B, T * hop) on the CPU.


class GriffinLim:
    """The vocoder that needs no weights: least-squares mel inversion, then fast Griffin-Lim.

    Phase retrieval after Griffin & Lim 1984, with the momentum of Perraudin, Balazs & Søndergaard
    2013; both from torchaudio. Deterministic: the phases start the same for every call.
    """

    name = config.GRIFFIN_LIM

    def __init__(self, cfg: Config, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        self.to_linear = torchaudio.transforms.InverseMelScale(
            n_stft=cfg.n_fft // 2 + 1,
            n_mels=cfg.n_mels,
            sample_rate=cfg.sample_rate,
            f_min=cfg.f_min,
            f_max=cfg.f_max,
            norm="slaney",
            mel_scale="slaney",
        ).to(device)
        self.to_wave = torchaudio.transforms.GriffinLim(
            n_fft=cfg.n_fft, hop_length=cfg.hop, power=1.0, n_iter=config.GRIFFIN_LIM_ITERATIONS
        ).to(device)

    def decode(self, log_mel: Tensor) -> Tensor:
        # T centred frames span (T - 1) hops; a repeated last frame makes it T.
        log_mel = nn.functional.pad(log_mel, (0, 1), mode="replicate")  # (B, M, T + 1)
        return self.to_wave(self.to_linear(log_mel.exp()))  # (B, T * hop)

    def __call__(self, log_mel: Tensor) -> Tensor:
        return _in_batches(self, log_mel)


class HifiGan:
    """SpeechBrain's HiFi-GAN (Kong, Kim & Bae 2020), from a folder, the hub's cache or the hub."""

    def __init__(self, cfg: Config, device: torch.device, network: bool) -> None:
        from speechbrain.inference.vocoders import HIFIGAN  # a second to import: only when wanted
        from speechbrain.utils.fetching import FetchConfig

        self.cfg, self.device, self.name = cfg, device, cfg.vocoder
        self.model = HIFIGAN.from_hparams(
            source=cfg.vocoder,
            savedir=None,  # no links or copies beside the cache
            fetch_config=FetchConfig(
                revision=config.VOCODER_REVISIONS.get(cfg.vocoder), allow_network=network
            ),
            run_opts={"device": str(device)},
        )

    def decode(self, log_mel: Tensor) -> Tensor:
        wave = self.model.decode_batch(log_mel)[:, 0]  # (B, M, T) -> (B, (T + 2 pad) * hop)
        pad = (wave.shape[1] - log_mel.shape[2] * self.cfg.hop) // 2  # the vocoder's own padding
        return wave[:, pad : pad + log_mel.shape[2] * self.cfg.hop]

    def __call__(self, log_mel: Tensor) -> Tensor:
        return _in_batches(self, log_mel)


Vocoder = GriffinLim | HifiGan


@torch.no_grad()
def _in_batches(vocoder: Vocoder, log_mel: Tensor) -> Tensor:
    """`(B, 1, M, T)` -> `(B, T * hop)` on the CPU, leaving the random state as it was."""
    log_mel = log_mel[:, 0].float().clamp(min=vocoder.cfg.log_min).to(vocoder.device)
    cuda = [vocoder.device] if vocoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(0)
        parts = [vocoder.decode(part).cpu() for part in log_mel.split(config.VOCODER_BATCH)]
    return torch.cat(parts)


def load_vocoder(cfg: Config, device: torch.device, fetch: bool = True) -> tuple[Vocoder, str]:
    """The vocoder that `cfg.vocoder` names, ready and tried, or Griffin-Lim where it cannot be had.

    Returns `(vocoder, note)`; the note is empty, or one sentence that says what failed, how to get
    it and what is used instead. With `fetch` false nothing is downloaded (a dry run).
    """
    if cfg.vocoder == config.GRIFFIN_LIM:
        return GriffinLim(cfg, device), ""
    try:
        vocoder = _load_hifigan(cfg, device, fetch)
        wave = vocoder(torch.full((1, 1, cfg.n_mels, 8), cfg.log_min))
        if wave.shape != (1, 8 * cfg.hop):
            raise BadVocoder(f"it makes {wave.shape[1]} samples of 8 frames, not {8 * cfg.hop}")
        return vocoder, ""
    except BadVocoder as reason:
        return GriffinLim(cfg, device), (
            f"Vocoder {cfg.vocoder} cannot be used: {reason}. Griffin-Lim plays the sounds instead "
            "(rougher; the model learns the same). To get it, run once with a network, or name a "
            "folder that holds its hyperparams.yaml and generator.ckpt (--vocoder FOLDER); "
            "--vocoder griffin-lim chooses this one outright."
        )


class BadVocoder(Exception):
    """Why a vocoder cannot be used."""


def _load_hifigan(cfg: Config, device: torch.device, fetch: bool) -> HifiGan:
    off_grid = [
        f"{k} = {getattr(cfg, k)}, not {v}"
        for k, v in config.HIFIGAN_GRID.items()
        if getattr(cfg, k) != v
    ]
    if off_grid:
        raise BadVocoder(f"it was trained on another spectrogram ({'; '.join(off_grid)})")
    folder = Path(cfg.vocoder)
    if folder.is_dir():
        lacking = [n for n in ("hyperparams.yaml", "generator.ckpt") if not (folder / n).is_file()]
        if lacking:
            raise BadVocoder(f"the folder holds no {' and no '.join(lacking)}")
    elif cfg.vocoder.count("/") != 1 or cfg.vocoder.startswith((".", "/", "~")):
        raise BadVocoder("there is no such folder, and it is no hub name (owner/name)")
    try:
        return HifiGan(cfg, device, network=False)
    except Exception as error:  # SpeechBrain and what it calls raise whatever they like
        if folder.is_dir():
            raise BadVocoder(
                f"SpeechBrain cannot load the folder ({_first_line(error)})"
            ) from error
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise BadVocoder("it is not in the hub's local cache, and HF_HUB_OFFLINE is set")
    if not _hub_answers(cfg.vocoder):
        raise BadVocoder("it is not in the hub's local cache, and the hub cannot be reached")
    if not fetch:
        raise BadVocoder("it is not in the hub's local cache yet (a real run fetches it)")
    try:
        return HifiGan(cfg, device, network=True)
    except Exception as error:
        raise BadVocoder(f"fetching it failed ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _hub_answers(name: str) -> bool:
    """Whether the hub answers at all within HUB_SECONDS; its own client would try for 23 s.

    In a thread, because looking up a host name cannot be given a time limit.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(f"{endpoint}/{name}/raw/main/README.md", method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=config.HUB_SECONDS)
            answered.set()
        except urllib.error.HTTPError:  # it answered, if only to refuse
            answered.set()
        except OSError:
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(config.HUB_SECONDS)
    return answered.is_set()
