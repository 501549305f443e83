"""Files -> waveforms -> clips as the networks see them, and back to waveforms and files.

The transform and its inverses live together: `Transform` makes what the networks learn, a vocoder
makes it audible again.
"""

from __future__ import annotations

import io
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torchaudio
from torch import Tensor, nn

import bigvgan
import config
from config import Config, UserError

SILENT = "silent (mixed to mono, it stays below -80 dBFS)"


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
    if (peak := float(np.abs(wave).max()) / full) > config.MAX_AMPLITUDE:
        raise BadClip(f"samples reach {peak:.3g}, where full scale is 1")
    # numpy's mean over so short an axis takes 20 times as long.
    mono = sum(wave.T.astype(np.float32)) / (full * wave.shape[1])
    mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    mono = mono[lead * sample_rate // rate :][: count * num_samples]
    out = np.zeros(count * num_samples, np.float32)
    out[: len(mono)] = mono
    if float(np.abs(out).max()) < config.SILENCE:
        raise BadClip(SILENT)
    return out.reshape(count, num_samples), rate, frames / rate


def read_clip(cfg: Config, path: Path, number: int) -> Tensor:
    """One clip `(clip_samples,)` that was decoded before; raises UserError where it has gone."""
    try:
        waves, _, _ = read_clips(path, cfg.sample_rate, cfg.clip_samples, number)
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
    low, high = config.RATE_LIMITS
    reason = ""
    if not low <= sound.samplerate <= high:
        reason = f"sample rate {sound.samplerate} Hz is outside {low} to {high} Hz"
    elif sound.channels > config.MAX_CHANNELS:
        reason = f"{sound.channels} channels, more than {config.MAX_CHANNELS}"
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


# ---- waveforms -> log-mel -----------------------------------------------------------------------


class Transform(nn.Module):
    """Waveform `(B, clip_samples)` -> what the networks see: `(B, 1, M, T)`, or `(B, 1, L)` raw.

    Centred STFT, magnitude or power, mel bands, compression; built once. With the constants of the
    HiFi-GAN recipes (magnitude, Slaney mels and norm, natural log with a floor) this is the very
    input that SpeechBrain's 22 050 Hz HiFi-GANs were trained on.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        if cfg.representation == "mel":
            bands = torchaudio.functional.melscale_fbanks(
                n_freqs=cfg.n_fft // 2 + 1,
                f_min=cfg.f_min,
                f_max=cfg.f_max,
                n_mels=cfg.n_mels,
                sample_rate=cfg.sample_rate,
                norm=None if cfg.mel_norm == "none" else cfg.mel_norm,
                mel_scale=cfg.mel_scale,
            )
            self.register_buffer("bands", bands)  # (n_fft / 2 + 1, M)
            self.register_buffer("window", torch.hann_window(cfg.n_fft))

    def forward(self, wave: Tensor) -> Tensor:
        if self.cfg.representation == "wave":
            return wave[:, None]  # (B, 1, L)
        return compress(self.mel(wave), self.cfg)[:, None]  # (B, L) -> (B, M, T) -> (B, 1, M, T)

    def mel(self, wave: Tensor) -> Tensor:
        """Mel bands `(B, M, T)` of `wave (B, L)`: torchaudio's MelSpectrogram, to rounding.

        Frame by frame, and with a plain root in place of `abs()` of complex numbers, it takes
        three fifths of the time.
        """
        edge = self.cfg.n_fft // 2
        return self.mel_within(nn.functional.pad(wave, (edge, edge), mode="reflect"))

    def mel_within(self, wave: Tensor) -> Tensor:
        """The same of windows that lie whole within `wave (B, L)`, `(B, M, T)`.

        Frame 0 is centred on sample n_fft / 2, and T = (L - n_fft) // hop + 1.
        """
        frames = wave.unfold(-1, self.cfg.n_fft, self.cfg.hop)  # (B, T, n_fft), a view
        spectrum = torch.fft.rfft(frames * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.pow(self.cfg.power / 2) @ self.bands).mT


def compress(mel: Tensor, cfg: Config) -> Tensor:
    """Mel `(B, M, T)` -> the recipe's compressed unit, the same shape; `expand` is the inverse."""
    c = cfg.compression_constant
    if cfg.compression == "ln":
        return mel.clamp(min=c).log()
    if cfg.compression == "log1p":
        return (c * mel).log1p()
    db = 20 / cfg.power * mel.clamp(min=1e-10).log10()
    below = db - db.amax(dim=(-2, -1), keepdim=True)  # 0 at each clip's own maximum
    return 1 + below.clamp(min=-c) * (2 / c)


def expand(x: Tensor, cfg: Config) -> Tensor:
    """The inverse of `compress`; what decibels below a maximum have lost, the level, stays lost."""
    c = cfg.compression_constant
    if cfg.compression == "ln":
        return x.exp()
    if cfg.compression == "log1p":
        return x.expm1() / c
    return 10 ** ((x - 1) * (c / 2) * cfg.power / 20)


# ---- clips -> waveforms -------------------------------------------------------------------------
# Every vocoder is called the same way: clips (B, 1, *S) in the recipe's unit -> waveforms
# (B, T * hop) on the CPU.


class Vocoder:
    """What all vocoders share: batches of bounded size, the random state as it was, the level."""

    name = ""

    def __init__(self, cfg: Config, device: torch.device) -> None:
        self.cfg, self.device = cfg, device

    def decode(self, x: Tensor) -> Tensor:
        """`(B, M, T)` (raw audio: `(B, L)`) on the device -> `(B, T * hop)`."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        clips = clips[:, 0].float().to(self.device)
        if self.cfg.representation == "mel":
            clips = clips.clamp(self.cfg.quietest, self.cfg.loudest)
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(0)
            parts = [self.decode(part).cpu() for part in clips.split(config.VOCODER_BATCH)]
        waves = torch.cat(parts)  # (B, T * hop)
        if self.cfg.representation == "mel" and self.cfg.compression == "db":
            # Decibels below a clip's own maximum know no level: bring every clip up to the same.
            waves *= config.RESTORED_PEAK / waves.abs().amax(dim=1, keepdim=True).clamp(min=1e-9)
        return waves


class GriffinLim(Vocoder):
    """The vocoder that needs no weights: least-squares mel inversion, then fast Griffin-Lim.

    Phase retrieval after Griffin & Lim 1984, with the momentum of Perraudin, Balazs & Søndergaard
    2013; both from torchaudio. Deterministic: the phases start the same for every call.
    """

    name = config.GRIFFIN_LIM

    def __init__(self, cfg: Config, device: torch.device) -> None:
        super().__init__(cfg, device)
        # On the CPU, where lstsq knows a driver for filter banks with empty bands (128 HTK bands
        # are finer than the Fourier transform at the low end); a millisecond a clip.
        self.to_linear = torchaudio.transforms.InverseMelScale(
            n_stft=cfg.n_fft // 2 + 1,
            n_mels=cfg.n_mels,
            sample_rate=cfg.sample_rate,
            f_min=cfg.f_min,
            f_max=cfg.f_max,
            norm=None if cfg.mel_norm == "none" else cfg.mel_norm,
            mel_scale=cfg.mel_scale,
            driver="gelsd",
        )
        self.to_wave = torchaudio.transforms.GriffinLim(
            n_fft=cfg.n_fft,
            hop_length=cfg.hop,
            power=cfg.power,
            n_iter=config.GRIFFIN_LIM_ITERATIONS,
        ).to(device)

    def decode(self, x: Tensor) -> Tensor:
        # T centred frames span (T - 1) hops; a repeated last frame makes it T.
        x = nn.functional.pad(x, (0, 1), mode="replicate")  # (B, M, T + 1)
        linear = self.to_linear(expand(x, self.cfg).cpu())
        return self.to_wave(linear.to(self.device))  # (B, T * hop)


class Librosa(Vocoder):
    """librosa's mel inversion (non-negative least squares) and Griffin-Lim, clip by clip."""

    name = config.LIBROSA

    def decode(self, x: Tensor) -> Tensor:
        import librosa

        cfg = self.cfg
        norm = None if cfg.mel_norm == "none" else cfg.mel_norm
        waves = []
        for mel in expand(x, cfg).cpu().numpy():  # (M, T)
            # What mel_to_audio does, in its two parts, because only they take a seed.
            linear = librosa.feature.inverse.mel_to_stft(
                np.pad(mel, ((0, 0), (0, 1)), mode="edge"),
                sr=cfg.sample_rate,
                n_fft=cfg.n_fft,
                power=cfg.power,
                fmin=cfg.f_min,
                fmax=cfg.f_max,
                htk=cfg.mel_scale == "htk",
                norm=norm,
            )
            wave = librosa.griffinlim(
                linear, n_iter=config.LIBROSA_ITERATIONS, hop_length=cfg.hop, random_state=0
            )
            waves.append(torch.from_numpy(wave))
        return torch.stack(waves)


class RawAudio(Vocoder):
    """No vocoder: a clip of raw audio is the sound."""

    name = config.NO_VOCODER

    def decode(self, x: Tensor) -> Tensor:
        return x


class HifiGan(Vocoder):
    """SpeechBrain's HiFi-GAN (Kong, Kim & Bae 2020), from a folder, the hub's cache or the hub."""

    def __init__(self, cfg: Config, device: torch.device, network: bool) -> None:
        from speechbrain.inference.vocoders import HIFIGAN  # a second to import: only when wanted
        from speechbrain.utils.fetching import FetchConfig

        super().__init__(cfg, device)
        self.name = cfg.vocoder
        if device.type == "cuda" and device.index is None:  # SpeechBrain asks for a number
            device = torch.device("cuda", torch.cuda.current_device())
        self.model = HIFIGAN.from_hparams(
            source=cfg.vocoder,
            savedir=None,  # no links or copies beside the cache
            fetch_config=FetchConfig(
                revision=config.VOCODER_REVISIONS.get(cfg.vocoder), allow_network=network
            ),
            run_opts={"device": str(device)},
        )

    def decode(self, x: Tensor) -> Tensor:
        log_mel = expand(x, self.cfg).clamp(min=config.HIFIGAN_FLOOR).log()
        wave = self.model.decode_batch(log_mel)[:, 0]  # (B, M, T) -> (B, (T + 2 pad) * hop)
        pad = (wave.shape[1] - x.shape[2] * self.cfg.hop) // 2  # the vocoder's own padding
        return wave[:, pad : pad + x.shape[2] * self.cfg.hop]


class BigVgan(Vocoder):
    """BigVGAN v2 (Lee et al. 2022) from a folder of the published form, on HiFi-GAN's grid.

    Its mels differ from ours in one thing: frame t is centred on sample t * hop + hop / 2, where
    ours is centred on t * hop. So a sound of our mels comes half a hop (5.8 ms) late, and that much
    is cut from its beginning. (The 1e-9 under its root stays far below the floor of the logarithm.)
    """

    def __init__(self, cfg: Config, device: torch.device) -> None:
        super().__init__(cfg, device)
        self.name = cfg.vocoder
        self.model = bigvgan.load(Path(cfg.vocoder), config.HIFIGAN_GRID, device)

    def decode(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 1), mode="replicate")  # (B, M, T + 1): what the cut takes away
        log_mel = expand(x, self.cfg).clamp(min=config.HIFIGAN_FLOOR).log()
        late = self.cfg.hop // 2
        return self.model(log_mel)[:, 0, late : late - self.cfg.hop]  # (B, T * hop)


def load_vocoder(cfg: Config, device: torch.device, fetch: bool = True) -> tuple[Vocoder, str]:
    """The vocoder that `cfg.vocoder` names, ready and tried, or Griffin-Lim where it cannot be had.

    Returns `(vocoder, note)`; the note is empty, or one sentence that says what failed, how to get
    it and what is used instead. With `fetch` false nothing is downloaded (a dry run).
    """
    try:
        # Initial weights, though replaced, are drawn: a run goes on as if nothing had been loaded.
        with torch.random.fork_rng(devices=[]):
            return open_vocoder(cfg, device, fetch), ""
    except BadVocoder as reason:
        return GriffinLim(cfg, device), (
            f"Vocoder {cfg.vocoder} cannot be used: {reason}. Griffin-Lim plays the sounds instead "
            "(rougher; the model learns the same). To get it, run once with a network, or name a "
            f"folder that holds {FORMS} (--vocoder FOLDER); "
            "--vocoder griffin-lim chooses this one outright."
        )


FORMS = (
    "a HiFi-GAN's hyperparams.yaml and generator.ckpt, such as one that python vocoder.py trains, "
    f"or a BigVGAN's {bigvgan.CONFIG} and {bigvgan.WEIGHTS}"
)


class BadVocoder(Exception):
    """Why a vocoder cannot be used."""


def open_vocoder(cfg: Config, device: torch.device, fetch: bool = True) -> Vocoder:
    """The vocoder that `cfg.vocoder` names, ready and tried; raises BadVocoder with the reason."""
    for kind in (GriffinLim, Librosa, RawAudio):
        if cfg.vocoder == kind.name:
            return kind(cfg, device)
    vocoder = _load_bigvgan(cfg, device) if _is_bigvgan(cfg) else load_hifigan(cfg, device, fetch)
    try:
        wave = vocoder(torch.full((1, 1, cfg.n_mels, 8), cfg.quietest))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # weights of another form
        raise BadVocoder(f"it loads but does not play ({_first_line(error)})") from error
    if wave.shape != (1, 8 * cfg.hop):
        raise BadVocoder(f"it makes {wave.shape[1]} samples of 8 frames, not {8 * cfg.hop}")
    if not wave.isfinite().all():
        raise BadVocoder("it plays NaN or Inf: its weights are damaged")
    return vocoder


def _on_grid(cfg: Config) -> None:
    off_grid = [
        f"{k} = {getattr(cfg, k)}, not {v}"
        for k, v in config.HIFIGAN_GRID.items()
        if getattr(cfg, k) != v
    ]
    if off_grid:
        raise BadVocoder(f"it was trained on another spectrogram ({'; '.join(off_grid)})")


def _is_bigvgan(cfg: Config) -> bool:
    folder = Path(cfg.vocoder)
    ours = any((folder / name).is_file() for name in ("hyperparams.yaml", "generator.ckpt"))
    return not ours and any((folder / n).is_file() for n in (bigvgan.CONFIG, bigvgan.WEIGHTS))


def _load_bigvgan(cfg: Config, device: torch.device) -> BigVgan:
    _on_grid(cfg)
    names = (bigvgan.CONFIG, bigvgan.WEIGHTS)
    if lacking := [n for n in names if not (Path(cfg.vocoder) / n).is_file()]:
        raise BadVocoder(f"the folder holds no {' and no '.join(lacking)}")
    try:
        return BigVgan(cfg, device)
    except ValueError as reason:
        raise BadVocoder(str(reason)) from reason
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file fails in whatever way it likes
        raise BadVocoder(f"its files cannot be loaded ({_first_line(error)})") from error


def load_hifigan(cfg: Config, device: torch.device, fetch: bool = True) -> HifiGan:
    """The HiFi-GAN that `cfg.vocoder` names, not tried yet: its weights are still normalised.

    Raises BadVocoder with the reason.
    """
    _on_grid(cfg)
    folder = Path(cfg.vocoder)
    if folder.is_dir():
        lacking = [n for n in ("hyperparams.yaml", "generator.ckpt") if not (folder / n).is_file()]
        if lacking:
            raise BadVocoder(f"the folder holds no {' and no '.join(lacking)}")
    elif cfg.vocoder.count("/") != 1 or cfg.vocoder.startswith((".", "/", "~")):
        raise BadVocoder("there is no such folder, and it is no hub name (owner/name)")
    elif "bigvgan" in cfg.vocoder.lower():
        files = f"its {bigvgan.CONFIG} and {bigvgan.WEIGHTS}"
        raise BadVocoder(f"a BigVGAN is taken from a folder only: download {files} into one")
    try:
        return HifiGan(cfg, device, network=False)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # SpeechBrain and what it calls raise whatever they like
        if folder.is_dir():
            raise BadVocoder(
                f"SpeechBrain cannot load the folder ({_first_line(error)})"
            ) from error
        absent = type(error).__name__ == "LocalEntryNotFoundError"
        why = "it is not in the hub's local cache"
        if not absent:
            why = f"the hub's local cache of it does not load ({_first_line(error)})"
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise BadVocoder(f"{why}, and HF_HUB_OFFLINE is set")
    if not _hub_answers(cfg.vocoder):
        raise BadVocoder(f"{why}, and the hub cannot be reached")
    if not fetch:
        raise BadVocoder(f"{why} (a real run fetches it)")
    try:
        return HifiGan(cfg, device, network=True)
    except torch.OutOfMemoryError:
        raise
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
        try:
            request = urllib.request.Request(f"{endpoint}/{name}/raw/main/README.md", method="HEAD")
            urllib.request.urlopen(request, timeout=config.HUB_SECONDS)
            answered.set()
        except urllib.error.HTTPError:  # it answered, if only to refuse
            answered.set()
        except Exception:  # no route, no such host, no address at all: it does not answer
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(config.HUB_SECONDS)
    return answered.is_set()
