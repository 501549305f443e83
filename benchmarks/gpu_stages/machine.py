"""What machine this is: card, versions, packages that are missing, compilers, ceilings."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from contextlib import suppress

import timing
import torch

from gpu_stages.asked import Asked, say

# What the program can use; of the last ones it says how it does without.
PACKAGES = (
    *("numpy", "scipy", "soundfile", "soxr", "librosa", "safetensors", "sklearn", "matplotlib"),
    *("tqdm", "tyro", "tensorboard", "pytest", "speechbrain", "yaml", "huggingface_hub"),
)
COMPILERS = ("cc", "gcc", "clang")


def missing() -> dict[str, str]:
    """Packages that cannot be imported, and why."""
    found = {}
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return found


def versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def triton_works(device: torch.device) -> dict[str, object]:
    """Whether a Triton kernel compiles and runs, and how long that takes; on a CPU interpreted."""
    if device.type != "cuda":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    start = time.perf_counter()
    try:
        from gpu_stages import triton_check

        return {"triton": triton_check.works(device), "triton_s": time.perf_counter() - start}
    except Exception as error:  # any: Triton's own, the compiler's, the driver's
        return {"triton": False, "why": f"{type(error).__name__}: {error}"[:300]}


def card(device: torch.device) -> dict[str, object]:
    """What CUDA says of the card; empty on a CPU."""
    if device.type != "cuda":
        return {}
    own = torch.cuda.get_device_properties(device)
    free, there = torch.cuda.mem_get_info(device)
    return {
        "card": own.name,
        "capability": f"{own.major}.{own.minor}",
        "multiprocessors": own.multi_processor_count,
        "free_gib": free / 2**30,
        "gib": there / 2**30,
        "cards": torch.cuda.device_count(),
    }


def machine(item: str, asked: Asked) -> None:
    device = asked.on()
    found = card(device) | versions("torch", "triton", "numpy", "librosa", "torchaudio")
    found |= {"python": sys.version.split()[0], "system": platform.platform()}
    found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    found |= {"processor": timing.processor(), "cores": os.cpu_count()}
    found["compiler"] = next(filter(None, map(shutil.which, COMPILERS)), "")
    say(asked.stage, item, device, **found)
    say(asked.stage, item, device, **triton_works(device))
    say(asked.stage, item, device, missing=missing())  # after what is quick: it imports them all
    if not asked.tiny:
        import speed  # and with it all of the program: not before the rest has been said

        most = speed.ceiling(device)
        say(asked.stage, item, device, tflops_as_trained=most.flops / 1e12, gb_s=most.bytes / 1e9)
