"""Scores of a finished run, from the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import evaluate
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
