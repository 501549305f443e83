"""What a command says: progress for people and for log files, durations, exit codes."""

from __future__ import annotations

import errno
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from soundgan import console
from soundgan.errors import Interrupted, UserError

ROOT = Path(__file__).resolve().parent.parent


def lines_of(seconds: float, monkeypatch, steps: int = 1000) -> list[str]:
    monkeypatch.setattr(console, "LINE_SECONDS", seconds)
    file = io.StringIO()
    with console.ProgressLines(steps, "step", file=file) as bar:
        for number in range(steps):
            bar.set_description(f"Epoch {number // 10}", refresh=False)
            bar.set_postfix({"C": "1.5"}, refresh=False)
            bar.update()
    return file.getvalue().splitlines()


def test_progress_in_a_log_file_is_a_line_now_and_then(monkeypatch):
    first, last = lines_of(3600, monkeypatch)
    assert "1/1000" in first
    assert last.startswith("Epoch 99: 100%")
    assert "1000/1000" in last
    assert "C=1.5" in last


def test_progress_in_a_log_file_comes_every_so_many_seconds(monkeypatch):
    lines = lines_of(0.0, monkeypatch, steps=20)
    assert len(lines) == 20
    assert all(f"{number}/20" in line for number, line in enumerate(lines, 1))


def test_a_log_file_has_neither_carriage_returns_nor_a_line_a_step():

    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0
    assert b"\r" not in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert done.stdout == b"a message between\n"


PROGRAM = """
from soundgan.console import progress
with progress(5000, "step") as bar:
    for number in range(5000):
        bar.update()
        if number == 3:
            bar.write("a message between")
"""


@pytest.mark.parametrize(
    ("seconds", "said"), [(5, "5 s"), (119, "119 s"), (120, "2.0 min"), (7300, "2.0 h")]
)
def test_durations(seconds, said):
    assert console.duration(seconds) == said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("mend this"), 2, "Error: mend this"),
        (Interrupted("saved"), 75, "Interrupted: saved"),
        (
            OSError(28, "No space left on device", "x.pt"),
            2,
            "x.pt cannot be read or written (No sp",
        ),
        (KeyboardInterrupt(), 130, "Interrupted. What was saved before is intact."),
    ],
)
def test_what_a_person_can_mend_is_one_sentence_and_an_exit_code(error, code, said, capsys):
    with console.friendly() as outcome:
        raise error
    assert outcome.code == code
    assert said in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), console.friendly():
        1 / 0  # noqa: B018


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space there, or choose another folder (--output-dir"),
        (errno.EACCES, "mend the permissions of it"),
        (errno.EROFS, "what lies there can only be read: choose another folder"),
        (errno.EMFILE, "let a process open more files (ulimit -n 4096)."),
        (errno.ENAMETOOLONG, "shorten the names of folders and classes"),
        (errno.ENOTDIR, "name a folder: a file is in the way."),
        (errno.EXDEV, "see to that, or choose another folder"),
    ],
)
def test_each_error_of_the_system_has_its_own_advice(number, advice, capsys):
    with console.friendly() as outcome:
        raise OSError(number, os.strerror(number), b"folder/x.pt")
    assert outcome.code == 2
    said = capsys.readouterr().err
    reason = f"folder/x.pt cannot be read or written ({os.strerror(number)}). What was saved before"
    assert reason in said
    assert advice in said


# ---- streams that are gone -----------------------------------------------------------------------

TALK = r"""
import os, sys
from soundgan.console import friendly, say
with friendly() as outcome:
    with open(sys.argv[1], "w") as file:
        for number in range(20_000):
            print("line", number)
        print("\udcff, a name that is no text", flush=True)
        say("said")
        file.write("whole")
sys.exit(outcome.code)
"""


@pytest.mark.parametrize(
    "streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| head -n 1", "> /dev/full"]
)
def test_a_command_goes_on_without_its_streams(streams, tmp_path):
    """Nothing of what it would say gets into the files that it opens instead."""
    path = tmp_path / "x.txt"
    command = shlex.join([sys.executable, "-c", TALK, str(path)])
    shell = ["bash", "-o", "pipefail", "-c", f"{command} {streams}"]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, timeout=60, text=True)
    assert done.returncode == 0, done.stderr
    assert path.read_text() == "whole"
    full = "The output cannot be written (No space left on device): the command goes on without it."
    expected = {"> /dev/full": [full, "said"]}.get(streams, [] if "2>&-" in streams else ["said"])
    assert done.stderr.splitlines() == expected


def test_a_terminal_of_few_letters_shows_the_others_as_escapes():
    command = [sys.executable, "-c", "from soundgan.console import friendly\n"]
    command[-1] += "with friendly(): print('c\xf4q')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60)
    assert done.stdout == b"c\\xf4q\n"


def test_what_is_printed_can_be_pasted():
    assert console.shell_path("outputs/best") == "outputs/best"
    for path in ("Tom's sounds/$x {y}", "-x", "~/a b", 'a"b'):
        assert shlex.split(console.shell_path(path))[0].removeprefix("./") == path
    assert console.shell_path("-x") == "./-x"
    assert [console.plural(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
