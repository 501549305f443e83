"""Ctrl-C before a command has imported all it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from soundgan import startup
from soundgan.console import friendly

ROOT = Path(__file__).resolve().parent.parent

# In place of PyTorch: says that its import has begun, and takes longer than anybody waits.
SLOW = """
import time
print("importing", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to another process")
@pytest.mark.parametrize("script", ["train", "generate", "evaluate", "train_vocoder"])
def test_ctrl_c_during_the_imports_is_no_traceback(tmp_path, script):
    (tmp_path / "torch.py").write_text(SLOW)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, str(ROOT / f"{script}.py")],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "Interrupted. Nothing was begun.\n"


@pytest.fixture
def handler():
    """Ctrl-C as Python has it at the start; put back afterwards."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handler")
def test_a_command_that_runs_has_the_usual_ctrl_c():
    startup.leave_on_interrupt()
    assert signal.getsignal(signal.SIGINT) is startup._leave
    with friendly() as outcome:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.raise_signal(signal.SIGINT)
    assert outcome.code == 130


@pytest.mark.usefixtures("handler")
def test_an_ignored_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and `&` in a script have it
    startup.leave_on_interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    with friendly():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
