"""A run's folder: whose it is, its `config.json`, and room for what is written again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from soundgan import config_io, files
from soundgan.errors import UserError
from soundgan.settings import Config

PACKAGES = ("torchaudio", "speechbrain", "librosa", "soundfile", "soxr", "numpy")
WEIGHTS = ("generator.safetensors", "best.safetensors", "generator.ckpt", "istft.safetensors")
OF_FORMER = ("samples", "log.csv", "scores.csv", "scores.json", "losses.png", "tensorboard")
NOBODYS = (".DS_Store", "Thumbs.db", "desktop.ini")  # what file managers leave everywhere


# ---- config.json ---------------------------------------------------------------------------------


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
    """The content of `config.json`; raises UserError where there is none or it is damaged.

    Its `classes` are names that a file can have, in Unicode's composed form (NFC), each once.
    """
    path = run_dir / "config.json"
    try:
        content = _read_json(path)
        classes, constants = content["classes"], content["config"]
        if not isinstance(constants, dict) or not isinstance(constants["recipe"], str):
            raise TypeError("its constants are no table, or name no recipe")
        if not isinstance(classes, list) or not isinstance(content.get("changed", {}), dict):
            raise TypeError("its classes are no list, or what was changed is no table")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{run_dir} is no run: it holds no config.json.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    content["classes"] = _plain_names(classes, path)
    return content


def changed_before(run_dir: Path) -> dict[str, object]:
    """The constants that differed from the recipe when `config.json` was written; {}: unknown."""
    with suppress(UserError):
        return read_config(run_dir).get("changed", {})
    return {}


def _read_json(path: Path) -> dict:
    """A JSON file that holds a table; raises ValueError, TypeError, OSError."""
    if path.exists() and not files.is_regular(path):
        raise ValueError("it is no regular file")
    content = config_io.read_json(path)
    if not isinstance(content, dict):
        raise TypeError("it holds no table")
    return content


def _plain_names(classes: Sequence[object], path: Path) -> list[str]:
    """Names of classes, in NFC; they become names of files, and nothing may lead elsewhere."""
    if not all(isinstance(name, str) and plain_name(name) for name in classes):
        raise UserError(f"{path} is damaged: its classes are no plain names.")
    names = [files.nfc(name) for name in classes]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{path} is damaged: its classes hold {twice[0]!r} twice.")
    return names


def plain_name(name: str) -> bool:
    """Whether a folder of this name can lie in another, and be shown on a terminal."""
    whole = Path(name).name == name and name not in ("", ".", "..")
    return whole and not any(unicodedata.category(sign) == "Cc" for sign in name)


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


# ---- whose folder it is --------------------------------------------------------------------------


def refuse_foreign(run_dir: Path) -> None:
    """Raise UserError where a folder holds files, and nothing says that a run wrote them.

    Marks of a run are its config.json (a vocoder's: vocoder.json) and its `.lock`. A run begins
    only in a folder that is one, is empty or is not there: what it writes would replace others'.
    """
    try:
        names = {entry.name for entry in os.scandir(run_dir)}
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise UserError(
            f"{run_dir} is a file, and no folder for a run: choose another with --run-name NAME."
        ) from error
    others = {n for n in names if n not in NOBODYS and not files.UNFINISHED.fullmatch(n)}
    if not others - {".lock"} or _is_ours(run_dir):
        return
    example = sorted(others - {".lock"})[0]
    raise UserError(
        f"{run_dir} holds files of something else (such as {example}), and no run: nothing is "
        "written among them. Choose a folder of its own with --run-name NAME, or another "
        "--output-dir."
    )


def _is_ours(run_dir: Path) -> bool:
    with suppress(OSError):
        if files.read_bytes(run_dir / ".lock") == files.LOCK_TEXT:
            return True
    for name, part in (("config.json", "config"), ("vocoder.json", "options")):
        try:
            return {part, "classes"} <= _read_json(run_dir / name).keys()
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, RecursionError):  # damaged: perhaps ours
            return (run_dir / "checkpoints").is_dir()
        except OSError:
            continue
    return False


def refuse_weights(run_dir: Path, again: str) -> None:
    """Raise UserError where a folder without a checkpoint holds weights, which training would
    replace; `again`: the option, with its value, that begins with the networks of this run."""
    weights = [name for name in WEIGHTS if os.path.lexists(run_dir / name)]
    if weights:
        raise UserError(
            f"{run_dir} holds the weights of a run ({', '.join(weights)}) and no checkpoint to go "
            "on from: nothing there is touched. Begin a run beside it with --run-name NAME, from "
            f"new networks or, with {again} besides, from these."
        )


# ---- where its sounds are ------------------------------------------------------------------------


def constants_of(run_dir: Path) -> tuple[dict, str]:
    """What a run that was begun says of itself: its constants, where its data was ("": nothing).

    ({}, "") where no run was begun. Raises UserError where the file is damaged.
    """
    for name, part in (("config.json", "config"), ("vocoder.json", "options")):
        path = run_dir / name
        try:
            content = _read_json(path)
            if not isinstance(content[part], dict):
                raise TypeError("its constants are no table")
            root = content.get("data_root")
            return content[part], root if isinstance(root, str) else ""
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged ({type(error).__name__}: {error}), so that it does not say "
                "where the sounds of the run are: name them with --data-dir, and it is written "
                "anew."
            ) from error
    return {}, ""


def sounds_elsewhere(data_dir: str, root: object) -> str:
    """`root`, where a run's sounds were, if they are there and not at `data_dir` as it is seen from
    here; else ""."""
    there = isinstance(root, str) and os.path.isdir(root)
    return root if there and not os.path.isdir(data_dir) else ""


# ---- what a run writes again ---------------------------------------------------------------------


def set_aside_after(run_dir: Path, number: int, unit: str = "epoch") -> Path | None:
    """Put the sets of samples after an epoch (or another unit) beside the others, as `samples.old1`
    or the like; returns that folder, or None where there are none.

    The run makes them again, and `clear_old` then removes what came out the same.
    """
    later = [path for path, own in sets_of(run_dir, unit) if own > number]
    if not later:
        return None
    kept = next(p for n in range(1, 10**6) if not os.path.lexists(p := run_dir / f"samples.old{n}"))
    kept.mkdir()
    for path in later:
        os.replace(path, kept / path.name)
    return kept


def epochs_aside(run_dir: Path, number: int, unit: str = "epoch") -> set[int]:
    """The epochs (or another unit) after `number` whose sets `set_aside_after` put aside last."""
    names = [path.name.removeprefix("samples.old") for path in run_dir.glob("samples.old*")]
    newest = max((int(name) for name in names if name.isdecimal()), default=0)
    sets = _sets_in(run_dir / f"samples.old{newest}", unit)
    return {own for _, own in sets if own > number}


def sets_of(run_dir: Path, unit: str = "epoch") -> list[tuple[Path, int]]:
    """The sets of samples of a run, with their epochs (or another unit); not a user's copies."""
    return _sets_in(run_dir / "samples", unit)


def _sets_in(folder: Path, unit: str) -> list[tuple[Path, int]]:
    paths = folder.glob(f"{unit}_*")
    matches = [(path, re.fullmatch(rf"{unit}_(\d+)", path.name)) for path in paths]
    return sorted((path, int(match[1])) for path, match in matches if match)


def clear_old(run_dir: Path) -> None:
    """Remove sets of samples that were set aside and have been made again, file for file."""
    for old in run_dir.glob("samples.old*"):
        if old.is_symlink() or not old.is_dir():
            continue
        for kept in list(old.iterdir()):
            if kept.is_dir() and _same_files(kept, run_dir / "samples" / kept.name):
                unfinished = files.unfinished_beside(old)  # what a kill leaves of it is removed
                os.replace(kept, unfinished)
                shutil.rmtree(unfinished, ignore_errors=True)
        with suppress(OSError):  # others are left in it
            old.rmdir()


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files and nothing else."""
    with suppress(OSError):
        names = sorted(entry.name for entry in os.scandir(one))
        if names != sorted(entry.name for entry in os.scandir(other)):
            return False
        pairs = [(one / name, other / name) for name in names]
        regular = all(files.is_regular(path) for pair in pairs for path in pair)
        return regular and all(a.read_bytes() == b.read_bytes() for a, b in pairs)
    return False


def begin_anew(run_dir: Path, unit: str = "epoch") -> list[Path]:
    """Set aside what an earlier run left in a folder without weights and checkpoints: samples,
    logs, lists. Returns what they are called now.

    What a run that was killed before its first checkpoint left (a row of its log at most, and real
    clips) is written again by the one that begins, and stays.
    """
    kept = []
    for name in OF_FORMER if is_used(run_dir, unit) else ():
        if os.path.lexists(run_dir / name):
            kept.append(files.set_aside(run_dir / name))
    if kept:
        print(
            f"There is no checkpoint in {run_dir}: it begins anew, and what was there is kept as "
            f"{', '.join(path.name for path in kept)}."
        )
    return kept


def is_used(run_dir: Path, unit: str = "epoch") -> bool:
    """Whether a folder without a checkpoint holds more than the beginning of a run."""
    rows = [_lines(run_dir / name) for name in ("log.csv", "scores.csv")]
    return bool(sets_of(run_dir, unit)) or rows[0] > 2 or rows[1] > 1


def _lines(path: Path) -> int:
    try:
        return files.read_bytes(path).count(b"\n")
    except OSError:  # there is none
        return 0
