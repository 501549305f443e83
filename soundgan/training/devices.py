"""The device that a run trains on, and memory: what is used, what is free, what to do without."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from soundgan.errors import UserError
from soundgan.settings import Config

try:
    import resource
except ImportError:  # Windows
    resource = None

# Numbers of malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX (the pools of other
# threads, of which backward is one, give memory back whatever the rest says).
MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1, -2: 2**26, -8: 1}
FULL = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # of PyTorch, CUDA, its libraries


def pick_device(cfg: Config) -> torch.device:
    """The device that `cfg.device` names, with its precision and determinism set.

    Raises UserError where there is no such device.
    """
    name = cfg.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device = {cfg.device!r} is none: auto, cuda, cuda:1 or cpu.") from error
    if device.type not in ("cuda", "cpu"):
        raise UserError(f"device = {cfg.device!r} is not supported: auto, cuda, cuda:1 or cpu.")
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"device = {cfg.device!r}: PyTorch sees {torch.cuda.device_count()} CUDA devices "
                "here (--device cpu trains without)."
            )
        if device.index is not None:  # CUDA graphs are captured on the current device
            torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = cfg.tf32
        torch.backends.cudnn.allow_tf32 = cfg.tf32
        torch.backends.cudnn.benchmark = not cfg.deterministic  # what it picks depends on timing
        if cfg.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        keep_memory()
    return device


def keep_memory() -> None:
    """Let this process keep the memory that it frees (Linux with glibc; elsewhere nothing happens).

    A step on a CPU takes and frees its large tensors again and again. By default each goes back to
    the system, which clears and maps every page anew: half the time of a large batch.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in MALLOC_OPTIONS.items():
            libc.mallopt(option, value)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, of the GPU or of this machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in FULL)


@contextmanager
def explain_memory(advice: str) -> Iterator[None]:
    """Turn running out of memory into a UserError that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        place = "the GPU" if "CU" in f"{type(error).__name__}{error}" else "this machine"
        raise UserError(
            f"Out of memory on {place}: {advice}, or free what other programs hold."
        ) from error


def peak_memory() -> int:
    """Most bytes that this process has held at a time; 0 where the system does not say."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory() -> int:
    """Bytes that a process could still take; 0 where the system does not say (outside Linux)."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1])
    return 0


def space(device: torch.device, needed: int, folder: Path) -> str:
    """Memory that was taken and disk that will be (`needed` bytes), beside what is free."""
    if device.type == "cuda":
        # Reserved: a CUDA graph keeps the memory of its step, whether a tensor lives there or not.
        used, free = torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[0]
    else:
        used, free = peak_memory(), free_memory()
    name = "GPU memory" if device.type == "cuda" else "Memory"
    there = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    disk = shutil.disk_usage(there).free
    warning = " That is too little: choose another --output-dir." if needed > disk else ""
    return (
        f"{name}: {used / 2**30:.2f} GiB used at most, {free / 2**30:.1f} GiB free.\n"
        f"Disk: the run needs about {needed / 2**20:.0f} MiB, {disk / 2**30:.1f} GiB are free "
        f"below {there}.{warning}"
    )
