"""A run's folder: its `config.json`, and room for what a continued run writes again."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from soundgan import config_io, files
from soundgan.errors import UserError
from soundgan.settings import Config

PACKAGES = ("torchaudio", "speechbrain", "librosa", "soundfile", "soxr", "numpy")


def write_config(cfg: Config, classes: Sequence[str], **facts: object) -> None:
    """Write `config.json`: recipe, classes, every constant, versions, git revision, and `facts`.

    Raises OSError where it cannot be written.
    """
    content = {
        "recipe": cfg.recipe,
        "classes": list(classes),
        "config": config_io.to_dict(cfg),
    }
    text = json.dumps(content | program() | facts, indent=2)
    files.write_bytes(cfg.run_dir / "config.json", text.encode())


def program() -> dict:
    """What ran: versions of Python and packages, git revision."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"versions": versions, "git_revision": git_revision()}


def read_config(run_dir: Path) -> dict:
    """The content of `config.json`; raises UserError where there is none or it is damaged."""
    path = run_dir / "config.json"
    try:
        content = json.loads(path.read_bytes())
        classes, _ = content["classes"], content["config"]["recipe"]
        if not isinstance(classes, list) or not isinstance(content.get("changed", {}), dict):
            raise TypeError("its classes are no list, or what was changed is no table")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{run_dir} is no run: it holds no config.json.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}).") from error
    # Class names become names of files: nothing in them may lead elsewhere.
    if not all(isinstance(c, str) and c and Path(c).name == c for c in classes):
        raise UserError(f"{path} is damaged: its classes are no plain names.")
    return content


def git_revision() -> str | None:
    """Commit of this program, with '+changes' if tracked files differ; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def forget_after(run_dir: Path, epoch: int, fresh: bool, unit: str = "epoch") -> None:
    """Make room for what a run will write again: sets of samples after `epoch` (or another unit).

    Where the run begins anew in a folder that was used before, that one's samples are kept beside
    them under another name, and its weights, which fit nothing any more, go.
    """
    samples = run_dir / "samples"
    sets = samples.glob(f"{unit}_*")
    names = {p: re.fullmatch(rf"{unit}_(\d+)", p.name) for p in sets}  # not a user's own copies
    later = [p for p, name in names.items() if name and int(name[1]) > epoch]
    if fresh and later:
        kept = next(p for n in range(1, 10**6) if not (p := run_dir / f"samples.old{n}").exists())
        samples.rename(kept)
        for weights in ("generator.safetensors", "best.safetensors", "generator.ckpt"):
            (run_dir / weights).unlink(missing_ok=True)
        print(f"There is no checkpoint in {run_dir}: it begins anew; old samples are in {kept}.")
        return
    for path in later:
        shutil.rmtree(path)
