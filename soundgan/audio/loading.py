"""The vocoder that a configuration names: from a folder, the hub's cache, the hub, or none."""

from __future__ import annotations

import os
import re
import shlex
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from soundgan import packages
from soundgan.audio import bigvgan, hifigan, istft
from soundgan.audio import fetch as hub
from soundgan.audio.vocoders import (
    HIFIGAN_GRID,
    VOCODER_REVISIONS,
    BigVgan,
    GriffinLim,
    HifiGan,
    Istft,
    Librosa,
    RawAudio,
    Vocoder,
)
from soundgan.settings import Config

HUB_SECONDS = 3.0  # how long the model hub may take to answer before it counts as out of reach
FILES = (hifigan.ABOUT, hifigan.WEIGHTS)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class BadVocoder(Exception):
    """Why a vocoder cannot be used, and what to do about it."""

    def __init__(self, reason: str, advice: str = "--vocoder NAME takes another one") -> None:
        super().__init__(reason)
        self.advice = advice


def load_vocoder(cfg: Config, device: torch.device, fetch: bool = True) -> tuple[Vocoder, str]:
    """The vocoder that `cfg.vocoder` names, ready and tried, or Griffin-Lim where it cannot be had.

    Returns `(vocoder, note)`; the note is empty, or says in short what failed, what is used instead
    and what to type. With `fetch` false nothing is downloaded.
    """
    try:
        # Initial weights, though replaced, are drawn: a run goes on as if nothing had been loaded.
        with torch.random.fork_rng(devices=[]):
            return open_vocoder(cfg, device, fetch), ""
    except BadVocoder as reason:
        return GriffinLim(cfg, device), (
            f"Vocoder {cfg.vocoder} cannot be used: {reason}. Griffin-Lim plays instead, rougher "
            f"({reason.advice})."
        )


def may_fetch(name: str) -> bool:
    """Whether a vocoder that only a run's config.json names may be downloaded: pinned ones are."""
    return name in VOCODER_REVISIONS


def open_vocoder(cfg: Config, device: torch.device, fetch: bool = True) -> Vocoder:
    """The vocoder that `cfg.vocoder` names, ready and tried; raises BadVocoder with the reason."""
    for kind in (GriffinLim, Librosa, RawAudio):
        if cfg.vocoder == kind.name:
            with _packages():
                return kind(cfg, device)
    vocoder = _load(cfg, device, fetch)
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


def _load(cfg: Config, device: torch.device, fetch: bool) -> Vocoder:
    """The vocoder of a folder, by the files in it, or of the hub, not tried yet."""
    folder = Path(cfg.vocoder)
    if any((folder / name).is_file() for name in (istft.ABOUT, istft.WEIGHTS)):
        return load_istft(cfg, device)
    return _load_bigvgan(cfg, device) if _is_bigvgan(cfg) else load_hifigan(cfg, device, fetch)


def load_istft(cfg: Config, device: torch.device) -> Istft:
    """The iSTFT vocoder in the folder `cfg.vocoder`, not tried yet; raises BadVocoder."""
    if not Path(cfg.vocoder).is_dir():
        raise BadVocoder("there is no such folder")
    _refuse_lacking(Path(cfg.vocoder), (istft.ABOUT, istft.WEIGHTS))
    with _loading():
        return Istft(cfg, device)


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
    ours = any((folder / name).is_file() for name in FILES)
    return not ours and any((folder / n).is_file() for n in (bigvgan.CONFIG, bigvgan.WEIGHTS))


def _load_bigvgan(cfg: Config, device: torch.device) -> BigVgan:
    _on_grid(cfg)
    _refuse_lacking(Path(cfg.vocoder), (bigvgan.CONFIG, bigvgan.WEIGHTS))
    with _loading():
        return BigVgan(cfg, device)


def _refuse_lacking(folder: Path, names: Sequence[str]) -> None:
    if lacking := [name for name in names if not (folder / name).is_file()]:
        raise BadVocoder(f"the folder holds no {' and no '.join(lacking)}")


@contextmanager
def _packages() -> Iterator[None]:
    """Within it, a package that lacks becomes BadVocoder."""
    try:
        yield
    except packages.Missing as error:
        reason = error.reason[:1].lower() + error.reason[1:]  # within a sentence
        raise BadVocoder(reason, error.advice) from error


@contextmanager
def _loading(advice: str = "") -> Iterator[None]:
    """Within it, whatever is wrong with a vocoder's files becomes BadVocoder."""
    more = (advice,) if advice else ()
    try:
        yield
    except ValueError as reason:
        raise BadVocoder(str(reason), *more) from reason
    except (torch.OutOfMemoryError, packages.Missing):
        raise
    except Exception as error:  # a damaged file fails in whatever way it likes
        raise BadVocoder(f"its files cannot be loaded ({_first_line(error)})", *more) from error


def load_hifigan(cfg: Config, device: torch.device, fetch: bool = True) -> HifiGan:
    """The HiFi-GAN that `cfg.vocoder` names, not tried yet: its weights are still normalised.

    Raises BadVocoder with the reason.
    """
    _on_grid(cfg)
    folder, name = Path(cfg.vocoder), cfg.vocoder
    if folder.is_dir():
        _refuse_lacking(folder, FILES)
        with _packages(), _loading():
            return HifiGan(cfg, device, *(folder / file for file in FILES))
    if not HUB_NAME.fullmatch(name):
        raise BadVocoder("there is no such folder, and it is no hub name (owner/name)")
    if "bigvgan" in name.lower():
        files = f"its {bigvgan.CONFIG} and {bigvgan.WEIGHTS}"
        raise BadVocoder(f"a BigVGAN is taken from a folder only: download {files} into one")
    with _packages():
        wanted = ("speechbrain", "yaml", "huggingface_hub")
        packages.check(wanted, "Playing a HiFi-GAN of the hub")  # before it is fetched
        packages.needed("huggingface_hub", "Finding a model of the hub")
    paths = _from_hub(name, fetch)
    with _packages(), _loading(f"remove {paths[0].parent}, and it is fetched again"):
        return HifiGan(cfg, device, *paths)


def _from_hub(name: str, fetch: bool) -> list[Path]:
    """The files of a model in the hub's local cache, fetched if they may be."""
    revision = VOCODER_REVISIONS.get(name)
    found = [hub.cached(name, revision, file) for file in FILES]
    if all(found):
        return found
    why = "it is not in the hub's local cache"
    again = "with a network this command fetches it; --vocoder griffin-lim does without"
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise BadVocoder(f"{why}, and HF_HUB_OFFLINE is set", again)
    if not fetch and not may_fetch(name):
        raise BadVocoder(
            f"there is no such folder, {why}, and neither a run's config.json nor a dry run has "
            "an unknown model fetched",
            f"--vocoder {shlex.quote(name)} on the command line does",
        )
    if not _hub_answers(name):
        raise BadVocoder(f"{why}, and the hub cannot be reached", again)
    if not fetch:
        raise BadVocoder(why, "a real run fetches it; --vocoder griffin-lim does without")
    try:
        hub.fetch(name, revision, FILES)
    except hub.Unfetched as reason:
        raise BadVocoder(f"{why}, and {reason}", again) from reason
    found = [hub.cached(name, revision, file) for file in FILES]
    if not all(found):
        raise BadVocoder("the hub does not have its files", again)
    return found


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
