"""Models from the hub: in its client's local cache, or fetched into it by a process of their own.

The client waits and tries again for minutes where a hub answers and then sends nothing. A process
can be given up: this file is also the program of that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

STALL_SECONDS = 10.0  # s without a new byte after which a download is given up
PIECE = 2**14  # bytes that are written at a time: a slow line that lives is seen to do so
STALLED, FAILED = 3, 4  # exit codes of the process


class Unfetched(Exception):
    """Why a file could not be fetched."""


def cached(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a model in the local cache, or None; nothing is asked of any network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def fetch(name: str, revision: str | None, files: tuple[str, ...]) -> None:
    """Fetch files of a model into the local cache; raises Unfetched with the reason."""
    from huggingface_hub import constants

    words = [sys.executable, __file__, str(STALL_SECONDS), constants.HF_HUB_CACHE, name]
    words += [revision or "main", *files]
    # As plain HTTP, whose bytes can be seen to arrive.
    environment = os.environ | {"HF_HUB_DISABLE_XET": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    if done.returncode == STALLED:
        raise Unfetched(f"the hub sent nothing for {STALL_SECONDS:g} s")
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip()
        raise Unfetched(f"fetching it failed ({said or f'exit code {done.returncode}'})")


# ---- the process ---------------------------------------------------------------------------------


def main(patience: str, cache: str, name: str, revision: str, *files: str) -> int:
    """Fetch the files into `cache`; returns the exit code, and prints the reason of FAILED."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it would tell of each of its attempts
    constants.DOWNLOAD_CHUNK_SIZE = PIECE
    blobs = Path(cache) / f"models--{name.replace('/', '--')}" / "blobs"
    threading.Thread(target=_watch, args=(blobs, float(patience)), daemon=True).start()
    try:
        for file in files:
            hf_hub_download(name, file, revision=revision, cache_dir=cache, token=False)
    except Exception as error:  # the client and what it calls raise whatever they like
        lines = str(error).strip().splitlines() or ["no reason given"]
        print(f"{type(error).__name__}: {lines[0][:200]}")
        return FAILED
    return 0


def _watch(blobs: Path, patience: float) -> None:
    """End this process when no file of the model has grown for `patience` seconds."""
    waiting, pause = 0.0, threading.Event()
    first = before = _sizes(blobs)
    while waiting < patience:
        pause.wait(0.2)
        now = _sizes(blobs)
        waiting = waiting + 0.2 if now == before else 0.0
        before = now
    for path in set(before) - set(first):  # what nobody will go on with
        if path.suffix == ".incomplete":
            with suppress(OSError):
                path.unlink()
    os._exit(STALLED)


def _sizes(folder: Path) -> dict[Path, int]:
    sizes = {}
    with suppress(OSError):  # not there yet; gone meanwhile
        for path in folder.iterdir():
            sizes[path] = path.stat().st_size
    return sizes


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules are none of the client's
    sys.exit(main(*sys.argv[1:]))
