"""What this program wrote itself, and which is never its input: runs, and generated sounds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from soundgan import files

RUN_FILES = {  # of a run, and keys in it that tell it from other files of that name
    "config.json": {"recipe", "classes", "config", "versions"},
    "vocoder.json": {"options", "classes", "split", "versions"},
}
IN_CACHE = re.compile(r"[0-9a-f]{16}(\.lock)?|(evaluator|files)-[0-9a-f-]+\.\w+")  # in a cache
# Names of generated sounds, for those that lie among others.
GENERATED = re.compile(r".+_seed\d+.*_\d{4,}(-\d+)?\.wav", re.DOTALL)
SET = re.compile(r"(epoch|step)_\d{4,}")  # a set of samples
MOST = 1 << 24  # bytes of a file of RUN_FILES that are read


def is_made(folder: str, names: Iterable[str]) -> bool:
    """Whether a folder that holds these names is a run, or was marked by `generate.py`."""
    names = set(names)
    if names & {"real", "original"} and any(map(SET.fullmatch, names)):
        return True  # the samples of a run, without it
    if files.GENERATED_MARK in names:
        with suppress(OSError):
            path = Path(folder, files.GENERATED_MARK)
            return files.read_bytes(path).startswith(files.GENERATED_TEXT)
    return any(_has_keys(Path(folder, name), RUN_FILES[name]) for name in names & set(RUN_FILES))


def holds_runs(folder: str, folders: Iterable[str]) -> bool:
    """Whether one of the `folders` in a folder is a run, or the cache of runs."""
    for name in folders:
        inner = os.path.join(folder, name)
        if name == ".cache":
            with suppress(OSError):
                if any(IN_CACHE.fullmatch(kept) for kept in os.listdir(inner)):
                    return True
        elif any(_has_keys(Path(inner, file), keys) for file, keys in RUN_FILES.items()):
            return True
    return False


def _has_keys(path: Path, keys: set[str]) -> bool:
    try:
        if not files.is_regular(path) or os.stat(path).st_size > MOST:
            return False
        content = json.loads(files.read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and keys <= set(content)
