"""The vocoder that a configuration names: from a folder, the hub's cache, the hub, or none."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

import torch

from soundgan.audio import bigvgan
from soundgan.audio.vocoders import (
    HIFIGAN_GRID,
    BigVgan,
    GriffinLim,
    HifiGan,
    Librosa,
    RawAudio,
    Vocoder,
)
from soundgan.settings import Config

HUB_SECONDS = 3.0  # how long the model hub may take to answer before it counts as out of reach
FORMS = (
    "a HiFi-GAN's hyperparams.yaml and generator.ckpt, such as one that python train_vocoder.py "
    f"trains, or a BigVGAN's {bigvgan.CONFIG} and {bigvgan.WEIGHTS}"
)


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


class BadVocoder(Exception):
    """Why a vocoder cannot be used."""


def open_vocoder(cfg: Config, device: torch.device, fetch: bool = True) -> Vocoder:
    """The vocoder that `cfg.vocoder` names, ready and tried; raises BadVocoder with the reason."""
    for kind in (GriffinLim, Librosa, RawAudio):
        if cfg.vocoder == kind.name:
            return kind(cfg, device)
    vocoder = _load_bigvgan(cfg, device) if _is_bigvgan(cfg) else load_hifigan(cfg, device, fetch)
    try:
        wave = vocoder(torch.full((1, 1, cfg.sound.n_mels, 8), cfg.sound.quietest))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # weights of another form
        raise BadVocoder(f"it loads but does not play ({_first_line(error)})") from error
    if wave.shape != (1, 8 * cfg.sound.hop):
        raise BadVocoder(f"it makes {wave.shape[1]} samples of 8 frames, not {8 * cfg.sound.hop}")
    if not wave.isfinite().all():
        raise BadVocoder("it plays NaN or Inf: its weights are damaged")
    return vocoder


def _on_grid(cfg: Config) -> None:
    off_grid = [
        f"{k} = {getattr(cfg.sound, k)}, not {v}"
        for k, v in HIFIGAN_GRID.items()
        if getattr(cfg.sound, k) != v
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
            urllib.request.urlopen(request, timeout=HUB_SECONDS)
            answered.set()
        except urllib.error.HTTPError:  # it answered, if only to refuse
            answered.set()
        except Exception:  # no route, no such host, no address at all: it does not answer
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answered.is_set()
