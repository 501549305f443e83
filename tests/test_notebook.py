"""colab.ipynb from top to bottom with small constants; what only Colab can run is skipped."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "--vocoder griffin-lim --device cpu --sample-rate 8000 --n-fft 256 --hop 64 --n-mels 16 "
    "--f-max 4000 --frames 32 --latent-dim 8 --generator-channels 16 8 --critic-channels 8 16 "
    "--norm-groups 4 --batch-size 4 --score-every 0"
)


@pytest.fixture
def notebook():
    return nbformat.read(ROOT / "colab.ipynb", as_version=4)


def tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def test_it_runs_and_plays(notebook, sounds, tmp_path):
    (parameters,) = [cell for cell in notebook.cells if tagged(cell, "parameters")]
    values = (str(sounds), str(tmp_path / "out"), 1, SMALL)
    parameters.source += "\nSOUNDS, OUTPUTS, EPOCHS, MORE = " + repr(values)
    notebook.cells = [cell for cell in notebook.cells if not tagged(cell, "colab")]
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    players = [o for o in outputs if "<audio" in o.get("data", {}).get("text/html", "")]
    pages = [o for o in outputs if "srcdoc" in o.get("data", {}).get("text/html", "")]
    assert len(players) == 3 * 2  # two more of each class
    assert len(pages) == 1
    assert pages[0]["data"]["text/html"].count("data:audio/flac") == 3 * 3  # real, played, made
    assert len(list((tmp_path / "out" / "first-run" / "generated").glob("*.wav"))) == 6


def test_it_is_clean(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs"), "commit the notebook without outputs"
        assert cell.get("execution_count") is None


def test_colab_keeps_its_torch(notebook, tmp_path, monkeypatch):
    """The cell that installs asks for everything but torch, and pins the torch that is there."""
    (cell,) = [c for c in notebook.cells if tagged(c, "colab") and "requirements.txt" in c.source]
    *code, install = cell.source.strip().splitlines()
    source = "\n".join(code).replace("/tmp/", f"{tmp_path}/")
    monkeypatch.chdir(ROOT)
    exec(source, {})
    wanted = (tmp_path / "wanted.txt").read_text()
    pins = (tmp_path / "keep.txt").read_text()
    assert "speechbrain" in wanted
    assert not {"torch", "torchaudio"} & {re.split("[<>=]", n)[0] for n in wanted.splitlines()}
    assert "torch==2." in pins
    assert "torchaudio==2." in pins
    assert install == "!pip install -q -r /tmp/wanted.txt -c /tmp/keep.txt"
