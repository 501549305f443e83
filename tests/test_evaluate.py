"""Scores of a finished run, from the command line."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

import evaluate
from soundgan import tensor_files
from soundgan.dataset import splitting
from soundgan.evaluation import classifier
from soundgan.evaluation.scores import GENERATED
from soundgan.settings import Config
from train import train

pytestmark = pytest.mark.slow


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 80)
    monkeypatch.setattr(classifier, "SEEDS", (0, 1))


def test_evaluate_scores_a_finished_run(
    small: Config, quick: None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(small, score_clips=4)
    train(cfg)
    assert evaluate.main([str(cfg.run_dir), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    scores = json.loads((cfg.run_dir / "scores.json").read_text())
    assert (scores["epoch"], scores["weights"]) == (4, "last")
    assert f"{scores['rows'][GENERATED]['frechet']:.3g}" in said
    (cfg.run_dir / "scores.json").unlink()
    monkeypatch.chdir(cfg.run_dir)
    assert evaluate.main([".", "--data-dir", cfg.data_dir, "--device", "cpu"]) == 0
    assert (cfg.run_dir / "scores.json").exists()
    assert not (cfg.run_dir / cfg.recipe).exists()
    assert evaluate.main([str(cfg.run_dir), "--weights", "best"]) == 2
    assert "holds no best.safetensors yet" in capsys.readouterr().err
    assert evaluate.main([str(cfg.run_dir), "--data-dir", str(cfg.run_dir)]) == 2


@pytest.fixture
def held_out(small: Config, quick: None, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A trained run that held out two of its six clips a class."""
    monkeypatch.setattr(splitting, "HOLD_OUT_FROM", 2)
    cfg = replace(small, score_clips=4, epochs=1, holdout=0.3)
    train(cfg)
    return cfg


def clips_held_out(cfg: Config) -> int:
    return json.loads((cfg.run_dir / "scores.json").read_text())["held_out"]["clips"]


def test_a_list_of_held_out_clips_that_is_gone_is_that_of_the_checkpoint(
    held_out: Config, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = held_out
    path = cfg.run_dir / splitting.NAME
    content = path.read_bytes()
    saved = tensor_files.read(cfg.run_dir / "checkpoints" / "last.pt")["held_out"]
    assert splitting.summary(saved)["clips"] == 6
    said = json.loads((cfg.run_dir / "config.json").read_text())
    assert said["held_out"] == splitting.summary(saved)
    for spoil in (Path.unlink, lambda p: p.write_bytes(content.splitlines(True)[0])):
        spoil(path)
        assert evaluate.main([str(cfg.run_dir), "--device", "cpu"]) == 0
        assert "restored from the checkpoint (6 clips)" in capsys.readouterr().out
        assert clips_held_out(cfg) == 6
        assert path.read_bytes() == content
    for name in ("last.pt", "previous.pt", "best.pt"):
        (cfg.run_dir / "checkpoints" / name).unlink(missing_ok=True)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(splitting, "HOLD_OUT_FROM", 100)  # the rule gives others now
    assert evaluate.main([str(cfg.run_dir), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert f"{path} cannot be read" in error
    assert "no checkpoint has the list" in error
    assert "Traceback" not in error


def test_training_goes_on_with_the_list_of_the_checkpoint(
    held_out: Config, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """Spoilt between two starts, it leaves the same weights as untouched."""
    cfg, path = held_out, held_out.run_dir / splitting.NAME
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    train(replace(cfg, epochs=2))
    assert "restored from the checkpoint (6 clips)" in capsys.readouterr().out
    assert path.read_bytes() == content
    whole = replace(cfg, epochs=2, output_dir=str(tmp_path / "whole"))
    train(whole)
    one, other = (c.run_dir / "generator.safetensors" for c in (cfg, whole))
    assert one.read_bytes() == other.read_bytes()


def test_a_run_that_held_out_nothing_keeps_to_that(
    small: Config, quick: None, capsys: pytest.CaptureFixture
) -> None:
    cfg = replace(small, score_clips=4, epochs=1)
    train(cfg)
    (cfg.run_dir / splitting.NAME).write_text("file,clip,source\nlow/0.wav,0,\nlow/1.wav,0,\n")
    assert evaluate.main([str(cfg.run_dir), "--device", "cpu"]) == 0
    assert "does not name the 0 clips that this run held out" in capsys.readouterr().out
    assert clips_held_out(cfg) == 0


@pytest.mark.parametrize("count", ["1", "-3", "1001", "1000000000"])
def test_the_number_of_sounds_has_bounds(
    count: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate.main([str(tmp_path), "--count", count]) == 2
    assert f"--count {count}: must be from 2 to 1000" in capsys.readouterr().err


def test_paths_begin_at_home(
    small: Config,
    quick: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = replace(small, score_clips=4, epochs=1)
    train(cfg)
    monkeypatch.setenv("HOME", str(tmp_path))
    home = "~/" + str(cfg.run_dir.relative_to(tmp_path))
    words = [home, "--data-dir", "~/" + str(Path(cfg.data_dir).relative_to(tmp_path))]
    assert evaluate.main([*words, "--device", "cpu"]) == 0
    assert f"Written to {cfg.run_dir / 'scores.json'}" in capsys.readouterr().out
    other = tmp_path / "other" / "dog"
    other.mkdir(parents=True)
    soundfile.write(other / "a.wav", torch.rand(4000).numpy() - 0.5, 8000)
    assert evaluate.main([home, "--data-dir", "~/other", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'other'} holds the classes dog" in error
    assert "was trained on high, low, mid: name the folder of its sounds (--data-dir)" in error


def test_the_sounds_are_found_from_another_folder(
    small: Config, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained with a relative data_dir, scored from elsewhere."""
    monkeypatch.chdir(tmp_path)
    cfg = replace(small, score_clips=4, epochs=1, data_dir="data")
    train(cfg)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert evaluate.main([str(cfg.run_dir), "--device", "cpu"]) == 0
    assert list(elsewhere.iterdir()) == []
