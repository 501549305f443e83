"""Importing anything does nothing else: no file, no random number, no device, no thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
PACKAGE = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "soundgan").rglob("*.py")
)

# Each module is imported alone, in a process that has only what is not ours: that also finds two
# that need each other, which works in one order and not in the other.
EACH = """
import os, random, signal, sys, threading, warnings
import matplotlib.figure, numpy, safetensors.torch, scipy, sklearn, soundfile, soxr, torch
import torchaudio, tqdm.auto, tyro

root, *names = sys.argv[1:]
sys.path.insert(0, root)
sys.dont_write_bytecode = True
written, watching = [], False

def watch(event, arguments):
    if not watching:
        return
    if event == "open" and isinstance(arguments[2], int):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])
    elif event in ("os.mkdir", "os.rename", "os.remove", "subprocess.Popen", "socket.connect"):
        written.append((event, *arguments))

def state():
    return {
        "random numbers": random.getstate(),
        "NumPy's random numbers": str(numpy.random.get_state()),
        "PyTorch's random numbers": torch.get_rng_state().tolist(),
        "CUDA": torch.cuda.is_initialized(),
        "processes": torch.distributed.is_initialized(),
        "threads": len(threading.enumerate()),
        "cores": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "type of numbers": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "files": sorted(os.listdir()),
        "written": list(written),
    }

sys.addaudithook(watch)
failed = 0
for name in names:
    if pid := os.fork():
        failed |= os.waitpid(pid, 0)[1]
        continue
    before, watching = state(), True
    try:
        __import__(name)
        watching, after = False, state()
        changed = {key: (before[key], after[key]) for key in after if after[key] != before[key]}
    except BaseException as error:
        changed = {type(error).__name__: error}
    for key, value in changed.items():
        print(f"{name}: {key}: {str(value)[:300]}", flush=True)
    os._exit(bool(changed))
sys.exit(bool(failed))
"""


def test_the_root_has_few_scripts():
    assert SCRIPTS == ["config", "evaluate", "generate", "train", "train_vocoder"]
    assert len(PACKAGE) > 40


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each import has a process of its own")
def test_importing_does_nothing_else(tmp_path):
    command = [sys.executable, "-c", EACH, str(ROOT), *PACKAGE, *SCRIPTS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
