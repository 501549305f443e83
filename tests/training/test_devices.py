"""Devices and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.training import devices
from soundgan.training.devices import explain_memory, pick_device

ROOT = Path(__file__).resolve().parents[2]


def test_a_numbered_gpu_is_the_current_one(default, monkeypatch):
    """Graphs are captured on the current device, whatever device the tensors are on."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("allow_tf32", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    for name in ("cuda:1", "cuda", "cpu"):
        assert str(pick_device(change(default, {"device": name}))) == name
    assert chosen == [torch.device("cuda:1")]
    with pytest.raises(UserError, match="PyTorch sees 2 CUDA devices"):
        pick_device(change(default, {"device": "cuda:2"}))


@pytest.mark.parametrize(("name", "message"), [("tpu9", "is none"), ("mps", "is not supported")])
def test_other_devices_are_refused(default, name, message):
    with pytest.raises(UserError, match=message):
        pick_device(change(default, {"device": name}))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="malloc options of glibc")
def test_freed_memory_is_kept():
    """Ten times 64 MB, freed each time: mapped once (16 384 pages), not ten times."""
    script = (
        "import resource, sys, torch\n"
        "from soundgan.training.devices import keep_memory\n"
        "if sys.argv[1] == 'keep': keep_memory()\n"
        "for _ in range(10): torch.ones(2**24)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    )
    faults = [
        int(subprocess.check_output([sys.executable, "-c", script, mode], cwd=ROOT))
        for mode in ("keep", "default")
    ]
    assert faults[1] - faults[0] > 5 * 16_384


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (MemoryError(), "this machine"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "this machine"),
        (torch.OutOfMemoryError("CUDA out of memory."), "the GPU"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "the GPU"),
    ],
)
def test_running_out_of_memory_says_what_to_change(error, place):
    message = f"Out of memory on {place}: lower it, or"
    with pytest.raises(UserError, match=message), explain_memory("lower it"):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), explain_memory("lower it"):
        raise RuntimeError("shapes differ")


def test_space_says_what_is_used_and_what_is_free(tmp_path):
    said = devices.space(torch.device("cpu"), 3 * 2**20, tmp_path / "outputs" / "run")
    assert "Disk: the run needs about 3 MiB" in said
    assert f"below {tmp_path}." in said
    assert "too little" not in said
    assert "That is too little" in devices.space(torch.device("cpu"), 2**70, tmp_path)
