"""Training scores its run: what is written, when, and that it changes nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from varied_tones import varied_tones

from soundgan.errors import Interrupted
from soundgan.evaluation import classifier
from soundgan.evaluation.evaluator import SEEN
from soundgan.evaluation.scores import GENERATED, SCORES
from soundgan.models.loading import trained
from soundgan.report import score_log
from soundgan.settings import Config
from train import train

pytestmark = pytest.mark.slow


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 80)
    monkeypatch.setattr(classifier, "SEEDS", (0, 1))


@pytest.fixture
def scored(small: Config, quick: None) -> Config:
    """Every second of four epochs is scored; six clips a class, so that none is held out."""
    return replace(small, score_every=2, score_clips=4)


def rows_of(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().split()]


def test_scores_of_a_run(scored: Config, capsys: pytest.CaptureFixture) -> None:
    train(scored)
    header, *rows = rows_of(scored.run_dir / "scores.csv")
    assert header == ["epoch", *SCORES]
    assert [row[0] for row in rows] == ["2", "4"]
    kernel = [float(row[header.index("kernel")]) for row in rows]
    scores = json.loads((scored.run_dir / "scores.json").read_text())
    assert scores["epoch"] == 4
    assert scores["rows"][GENERATED]["kernel"] == pytest.approx(kernel[1], rel=1e-5)
    assert scores["on"] == "sound, by griffin-lim"
    best = kernel.index(min(kernel))
    assert scores["best"]["epoch"] == [2, 4][best]
    assert trained(scored.run_dir, "best")["epoch"] == [2, 4][best]
    saved = torch.load(scored.run_dir / "checkpoints" / "best.pt", weights_only=True)
    assert saved["epoch"] == [2, 4][best]
    # Nothing was held out, and the scores say so.
    assert list(scores["rows"])[1] == SEEN
    assert scores["rows"][SEEN]["copy_ratio"] is None
    assert "No clip is held out" in scores["notes"][1]
    assert "Scores after epoch 2" in capsys.readouterr().out


def test_scoring_changes_nothing_in_training(scored: Config) -> None:
    train(scored)
    apart = replace(scored, score_every=0, run_name="without")
    train(apart)
    for name in ("log.csv", "generator.safetensors"):
        with_scores = (scored.run_dir / name).read_bytes()
        if name == "log.csv":  # but for the seconds
            lines = [
                [c for i, c in enumerate(row) if i != 2] for row in rows_of(scored.run_dir / name)
            ]
            assert lines == [
                [c for i, c in enumerate(row) if i != 2] for row in rows_of(apart.run_dir / name)
            ]
        else:
            assert with_scores == (apart.run_dir / name).read_bytes()
    assert (
        not (apart.run_dir / "scores.csv").exists()
        or len(rows_of(apart.run_dir / "scores.csv")) == 1
    )


def test_scores_that_lack_are_made_on_continuing(scored: Config) -> None:
    train(scored)
    whole = (scored.run_dir / "scores.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    (scored.run_dir / "scores.csv").write_bytes(b"".join(lines[:2]))  # killed in the last scoring
    train(scored)
    assert (scored.run_dir / "scores.csv").read_bytes() == whole


def test_a_signal_does_not_wait_for_the_end_of_a_scoring(
    scored: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    def slow(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal had to wait")

    monkeypatch.setattr(score_log, "make_evaluator", slow)
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(scored)
    monkeypatch.undo()
    assert (scored.run_dir / "log.csv").read_text().count("\n") == 3


def test_unlabelled_sounds_get_what_has_a_meaning(
    small: Config, quick: None, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for name, waves in varied_tones(8, 0).items():
        for number, wave in enumerate(waves):
            soundfile.write(flat / f"{name}{number}x.wav", wave, 8000)
    cfg = replace(small, data_dir=str(flat), conditional=False, epochs=1, score_every=1)
    train(cfg)
    scores = json.loads((cfg.run_dir / "scores.json").read_text())
    made = scores["rows"][GENERATED]
    assert made["accuracy"] is made["cas"] is made["inception"] is None
    assert made["kernel"] > 1
    assert made["copy_ratio"] > 0
    assert scores["held_out"]["clips"] == 3  # a tenth of 24, in one class
    assert scores["per_class"] == {}
    assert any("one class" in note for note in scores["notes"])
