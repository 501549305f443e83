"""A run needs the packages that it uses, and no other: each of them missing, and all at once."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import flags

from soundgan import packages
from soundgan.config_io import change

ROOT = Path(__file__).resolve().parent.parent
HUB = "speechbrain/tts-hifigan-libritts-22050Hz"
OPTIONAL = (
    *("speechbrain", "hyperpyyaml", "huggingface_hub", "yaml", "librosa", "numba", "pooch"),
    *("soxr", "scipy", "sklearn", "torchmetrics", "tensorboard", "IPython"),
)

# Finds what `sys.path` holds but for some packages: as if they were not installed.
WITHOUT = """
import importlib.util, json, os, sys
from importlib.machinery import PathFinder

class Without:
    names = set()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.names:
            return PathFinder.find_spec(name, path, target)

    def find_distributions(self, context):
        found = PathFinder.find_distributions(context)
        return (one for one in found if one.name not in self.names)

missing = Without()
sys.meta_path[sys.meta_path.index(PathFinder)] = missing
root, *words = sys.argv[1:]
sys.path.insert(0, root)
sys.dont_write_bytecode = True
"""


def python(program: str, *words: str, folder: Path) -> str:
    """What a program that begins with WITHOUT prints; its words follow that of the root."""
    command = [sys.executable, "-c", WITHOUT + program, str(ROOT), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- what is imported ----------------------------------------------------------------------------

IMPORTED = """
def those(names):
    return sorted(name for name in names if name in sys.modules)

import generate, evaluate, train_vocoder
before = those(["matplotlib"])
import train
print(json.dumps([before, those(words), those(["torch", "matplotlib"])]))
"""


def test_commands_import_no_package_that_only_some_runs_need(tmp_path):
    before, optional, needed = json.loads(python(IMPORTED, *OPTIONAL, folder=tmp_path))
    assert (before, optional) == ([], [])
    assert needed == ["matplotlib", "torch"]


# ---- without all of them -------------------------------------------------------------------------

# Each line of `words`: a script and its arguments, one after the other in one process.
COMMANDS = """
import contextlib, importlib, io, shlex

missing.names = set(words.pop(0).split(","))
results = []
for line in words:
    script, *argv = shlex.split(line)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = importlib.import_module(script).main(argv)
        except SystemExit as end:  # --help
            code = end.code
    results.append((code, said.getvalue()))
print(json.dumps(results))
"""


def without_all(folder: Path, *lines: str) -> list[tuple[int, str]]:
    """Exit codes and what is said of commands, without any of the optional packages."""
    return json.loads(python(COMMANDS, ",".join(OPTIONAL), *lines, folder=folder).splitlines()[-1])


@pytest.mark.slow
def test_every_command_without_all_of_them(small, tmp_path):
    cfg = change(small, {"epochs": 2})
    run, words = cfg.run_dir, " ".join(flags(cfg))
    scripts = ("train", "generate", "evaluate", "train_vocoder")
    *helps, dry, trained, made, scored, unscored, dry_unscored, other = without_all(
        tmp_path,
        *(f"{script} --help" for script in scripts),
        f"train {words} --dry-run",
        f"train {words}",
        f"generate {run} --count 1",
        f"evaluate {run}",
        f"train {words} --run-name scored --score-every 2",
        f"train {words} --run-name scored --score-every 2 --dry-run",
        f"train {words} --run-name other --vocoder librosa",
    )
    assert [code for code, _ in helps] == [0] * 4
    assert (dry[0], trained[0], made[0], other[0]) == (0, 0, 0, 0), (dry, trained, made, other)
    assert (run / "samples/epoch_0002/low.png").is_file()
    assert len(list((run / "generated").glob("*.wav"))) == 3
    versions = json.loads((run / "config.json").read_text())["versions"]
    assert {"torch", "torchaudio", "numpy"} <= versions.keys()
    assert not {"speechbrain", "librosa", "soxr"} & versions.keys()
    scoring = (
        "Scoring needs the packages torchmetrics, scipy and soxr, which are not installed: pip "
        "install torchmetrics scipy soxr"
    )
    assert scored[0] == 2
    assert scored[1].endswith(f"Error: {scoring}.\n")
    for code, said in (unscored, dry_unscored):
        assert code == 2
        assert f"{scoring}, or train without scores (--score-every 0)." in said
    assert not (run.parent / "scored/checkpoints").exists()
    used = json.loads((run.parent / "other/config.json").read_text())["vocoder_used"]
    assert used == "griffin-lim"
    assert "playing through librosa needs the package librosa, which is not installed" in other[1]


@pytest.mark.slow
def test_training_of_a_vocoder_and_other_rates_name_what_they_need(small, tmp_path):
    words = " ".join(flags(small))
    (coarse, rate), (code, vocoder) = without_all(
        tmp_path,
        f"train {words} --sound.sample-rate 7000 --sound.f-max 3500",
        f"train_vocoder --data-dir {small.data_dir} --output-dir {tmp_path} --batch-size 2",
    )
    assert (coarse, code) == (2, 2)
    assert (
        "0.wav from 8000 to 7000 Hz needs the package soxr, which is not installed: pip install "
        "soxr, or bring sounds of 7000 Hz." in rate
    )
    assert "from 8000 to 22050 Hz needs the package soxr" in vocoder


# ---- without one of them -------------------------------------------------------------------------

NOTES = """
import torch
from soundgan import audio, config_io, errors
import config

usual = config.RECIPES["sn-wgan-gp"]

def note(vocoder):
    cfg = config_io.change(usual, {"vocoder": vocoder})
    return audio.load_vocoder(cfg, torch.device("cpu"), fetch=False)[1]

for word in words:
    names, vocoder = word.split("=")
    sys.stdout.flush()
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
        continue
    missing.names = set(names.split(","))
    print(json.dumps(note(vocoder)), flush=True)
    os._exit(0)
"""
HIFIGAN = "playing a HiFi-GAN needs the package speechbrain, which "
LIBROSA = "playing through librosa needs the package librosa, which "
LACKING = {  # what is missing, the vocoder -> what is said, and to be typed
    ("speechbrain", "FOLDER"): (f"{HIFIGAN}is not installed", "speechbrain"),
    ("hyperpyyaml", "FOLDER"): (
        f"{HIFIGAN}cannot be imported (ModuleNotFoundError: No module named 'hyperpyyaml')",
        "hyperpyyaml",
    ),
    ("yaml,huggingface_hub", HUB): (
        "playing a HiFi-GAN of the hub needs the packages pyyaml and huggingface_hub, which are "
        "not installed",
        "pyyaml huggingface_hub",
    ),
    ("speechbrain", HUB): (
        "playing a HiFi-GAN of the hub needs the package speechbrain, which is not installed",
        "speechbrain",
    ),
    ("librosa", "librosa"): (f"{LIBROSA}is not installed", "librosa"),
    **{
        (name, "librosa"): (
            f"{LIBROSA}cannot be imported (ModuleNotFoundError: No module named '{name}')",
            name,
        )
        for name in ("numba", "pooch", "scipy", "soxr")
    },
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each has a process of its own")
def test_a_vocoder_says_what_it_lacks_and_another_one_plays(tmp_path):
    folder = tmp_path / "vocoder"
    folder.mkdir()
    for name in ("hyperparams.yaml", "generator.ckpt"):
        (folder / name).write_bytes(b"")
    named = [(names, v.replace("FOLDER", str(folder))) for names, v in LACKING]
    said = python(NOTES, *(f"{names}={vocoder}" for names, vocoder in named), folder=tmp_path)
    expected = [
        f"Vocoder {vocoder} cannot be used: {reason}. Griffin-Lim plays instead, rougher (pip "
        f"install {command})."
        for (_, vocoder), (reason, command) in zip(named, LACKING.values())
    ]
    assert [json.loads(line) for line in said.splitlines()] == expected


# ---- the sentences -------------------------------------------------------------------------------


def test_a_package_that_is_there_is_imported():
    assert packages.needed("json", "Anything") is json
    packages.check(["json", "os"], "Anything")


def test_a_missing_package_is_named_by_what_pip_knows(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(packages.Missing) as caught:
        packages.needed("yaml", "Reading it", "write it anew")
    said = "Reading it needs the package pyyaml, which is not installed: pip install pyyaml, or "
    assert str(caught.value) == f"{said}write it anew."
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(packages.Missing, match="packages pyyaml, no_one and no_two, which are not"):
        packages.check(["yaml", "json", "no_one", "no_two"], "Reading it")


@pytest.mark.parametrize(
    ("content", "reason", "command"),
    [
        ("import nowhere_else.part", "No module named 'nowhere_else'", "pip install nowhere_else."),
        (
            "raise AttributeError('numpy has no attribute float')",
            "AttributeError: numpy has no attribute float",
            "pip install --upgrade broken_one.",
        ),
        (  # as a package of another version, which lacks a module
            "raise ModuleNotFoundError('No module named broken_one.part', name='broken_one.part')",
            "No module named broken_one.part",
            "pip install --upgrade broken_one.",
        ),
    ],
)
def test_a_package_that_fails_says_why(tmp_path, monkeypatch, content, reason, command):
    (tmp_path / "broken_one.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(packages.Missing) as caught:
        packages.needed("broken_one", "Playing it")
    said = str(caught.value)
    assert said.startswith("Playing it needs the package broken_one, which cannot be imported (")
    assert reason in said
    assert said.endswith(command)
