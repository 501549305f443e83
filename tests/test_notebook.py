"""colab.ipynb from top to bottom with small constants; what only Colab can run is skipped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from soundgan.report import run_command

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "--vocoder griffin-lim --device cpu --sound.sample-rate 8000 --sound.n-fft 256 --sound.hop 64 "
    "--sound.n-mels 16 --sound.f-max 4000 --sound.frames 32 --generator.latent-dim 8 "
    "--generator.channels 16 8 --critic.channels 8 16 --generator.norm-groups 4 "
    "--critic.norm-groups 4 --batch-size 4 --score-every 0"
)

ODD = """sounds' "$HOME" {x} {{y}} `z` \\ $$"""  # what a shell or IPython would take apart


@pytest.fixture
def notebook():
    return nbformat.read(ROOT / "colab.ipynb", as_version=4)


def tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


@pytest.mark.slow
def test_it_runs_and_plays(notebook, sounds, tmp_path):
    folder, out, name = sounds.with_name(f"Tom's {ODD}"), tmp_path / ODD, f"-{ODD}"
    sounds.rename(folder)
    (parameters,) = [cell for cell in notebook.cells if tagged(cell, "parameters")]
    values = (str(folder), str(out), name, 1, SMALL)
    parameters.source += "\nSOUNDS, OUTPUTS, RUN_NAME, EPOCHS, MORE = " + repr(values)
    notebook.cells = [cell for cell in notebook.cells if not tagged(cell, "colab")]
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    players = [o for o in outputs if "<audio" in o.get("data", {}).get("text/html", "")]
    pages = [o for o in outputs if "srcdoc" in o.get("data", {}).get("text/html", "")]
    assert len(players) == 3 * 2  # two more of each class
    assert len(pages) == 1
    assert pages[0]["data"]["text/html"].count("data:audio/flac") == 3 * 3  # real, played, made
    assert len(list((out / name / "generated").glob("*.wav"))) == 6


def test_it_is_clean(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs"), "commit the notebook without outputs"
        assert cell.get("execution_count") is None


@pytest.fixture
def program(tmp_path):
    """A folder that holds no more of the program than the notebook looks for."""
    folder = tmp_path / "drive" / "soundgan"
    folder.mkdir(parents=True)
    (folder / "train.py").write_text("")
    return folder


@pytest.mark.parametrize("kind", ["here", "folder", "zip", "git"])
def test_it_takes_the_program_from_where_it_lies(notebook, program, tmp_path, monkeypatch, kind):
    """The current folder; else a folder, a zip of one, or a repository."""
    (tmp_path / "content").mkdir()
    monkeypatch.chdir(program if kind == "here" else tmp_path / "content")
    place = str(program)
    if kind == "zip":
        place = shutil.make_archive(str(program), "zip", program.parent, program.name)
    if kind == "git":
        git = ["git", "-C", str(program), "-c", "user.name=x", "-c", "user.email=x@x"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "All of it"]):
            subprocess.run([*git, *command], check=True)
        place = program.as_uri()
    find_it(notebook, "nowhere" if kind == "here" else place)
    unpacked = {"zip": "program/soundgan", "git": "program"}
    expected = tmp_path / "content" / unpacked[kind] if kind in unpacked else program
    assert Path.cwd() == expected.resolve()
    find_it(notebook, place)  # the cell may run again
    assert Path.cwd() == expected.resolve()


def test_it_says_where_no_program_lies(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"nowhere\.zip holds no train\.py: say in the first cell"):
        find_it(notebook, "nowhere.zip")
    assert os.listdir(tmp_path) == []


def find_it(notebook, place: str) -> None:
    """Run the cell that goes to the program's folder."""
    (cell,) = [cell for cell in notebook.cells if "def find_program" in cell.source]
    exec(cell.source, {"PROGRAM": place})


def test_colab_keeps_its_torch(notebook, tmp_path, monkeypatch):
    """The cell that installs asks for everything but torch, and pins the torch that is there."""
    (cell,) = [c for c in notebook.cells if tagged(c, "colab") and "requirements.txt" in c.source]
    *code, install = cell.source.strip().splitlines()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(ROOT)
    exec("\n".join(code), {})
    wanted = (tmp_path / "wanted.txt").read_text()
    pins = (tmp_path / "keep.txt").read_text()
    assert "speechbrain" in wanted
    assert not {"torch", "torchaudio"} & {re.split("[<>=]", n)[0] for n in wanted.splitlines()}
    assert "torch==2." in pins
    assert "torchaudio==2." in pins
    assert install == "%pip install -q -r {TEMP}/wanted.txt -c {TEMP}/keep.txt"


# ---- commands ------------------------------------------------------------------------------------

SAVES = """
import pathlib, sys, time
print(sys.argv[1])
try:
    pathlib.Path(sys.argv[2]).touch()
    time.sleep(60)
except KeyboardInterrupt:
    print("saving")
    time.sleep(0.5)
    print("sav\u00e9d")
    sys.exit(75)
"""


def test_a_command_saves_when_it_is_stopped(tmp_path, capsys):
    ready = tmp_path / "ready"

    def stop() -> None:
        while not ready.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)  # what the stop button does to the kernel

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    assert run_command("-c", SAVES, ODD, str(ready)) == 75
    thread.join()
    assert capsys.readouterr().out.splitlines() == [ODD, "saving", "sav\u00e9d"]
    assert run_command("-c", "import sys; print('no', file=sys.stderr); sys.exit(2)") == 2
    assert capsys.readouterr().out == "no\n"
