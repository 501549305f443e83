"""One command for a GPU box: its parts can be started, and end with all that they started."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import compare
import gpu
import pytest
import torch

import config


def test_every_recipe_is_compared_and_every_part_taken_away(tmp_path):
    parts = gpu.parts(gpu.Options(data_dir="d", holdout_dir="h"), tmp_path)
    assert all((gpu.ROOT / words[0]).is_file() for words in parts.values() if words[0] != "-m")
    assert all((gpu.ROOT / name).is_file() for name in gpu.CHECKS)
    for name, variants in (("compare", (*config.RECIPES,)), ("ablation", ("ablation",))):
        options = compare.tyro.cli(compare.Options, args=parts[name][1:])
        assert options.variants == variants
        assert options.seeds == (0, 1, 2)
        assert Path(options.holdout_dir) == Path("h").resolve()
    assert [*parts][-1] == "ablation"  # the longest one


def alive(pid: int) -> bool:
    """Whether a process runs (one that ended, and that nobody waited for, does not)."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_part_that_is_given_up_leaves_nothing_running(tmp_path, monkeypatch, stubborn):
    """Not what it started either: a training without end would keep the GPU."""
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if stubborn else ""
    child = f"import signal, time;{deaf}print('ready', flush=True);time.sleep(600)"
    part = tmp_path / "part.py"
    part.write_text(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with open(tmp_path / "said.txt", "w+") as said:
        assert "given up" in gpu.run_part([str(part)], said, minutes=3 / 60)
        said.seek(0)
        pid = int(said.read())
    last = time.monotonic() + 5
    while alive(pid) and time.monotonic() < last:
        time.sleep(0.05)
    assert not alive(pid)


def test_a_part_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    words = {"bad": ["-c", "import sys; sys.exit(3)"], "good": ["-c", "print('well')"]}
    monkeypatch.setattr(gpu, "parts", lambda options, out: words)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    assert gpu.main() == 1
    said = capsys.readouterr().out
    assert "== bad: exit code 3" in said
    assert "== good: done" in said
    assert (tmp_path / "good.txt").read_text() == "well\n"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--only", "other"])
    assert gpu.main() == 2
    assert os.listdir(tmp_path).count("other.txt") == 0
