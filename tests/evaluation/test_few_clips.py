"""Few clips, or copies of each other: what can be scored is scored, the rest is null."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from varied_tones import varied_tones

import evaluate
from soundgan.evaluation import classifier, distances, scores
from soundgan.evaluation.scores import GENERATED, SCORES
from soundgan.settings import Config
from train import train

ALWAYS = {"silent", "clipped"}  # figures that need nothing but the sounds themselves
DISTANCES = {"frechet", "kernel", "kernel_low", "kernel_high", "density", "coverage", "sliced"}
OF_CLASSES = {"accuracy", "inception", "cas"}
AREAS = {"auc", "auc_low", "auc_high"}  # of 50 clips or so


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 20)
    monkeypatch.setattr(classifier, "SEEDS", (0, 1))


def bring(folder: Path, **counts: int) -> str:
    """A data folder of `counts` clips a class: low, mid, high."""
    for name, waves in varied_tones(max(counts.values()), 0).items():
        for number, wave in enumerate(waves[: counts.get(name, 0)]):
            (folder / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name / f"x{number}x.wav", wave, 8000)
    return str(folder)


def copied(folder: Path, times: int) -> None:
    """Copies of the first clip of each class, `times` of each."""
    for name in folder.iterdir():
        for number in range(times):
            shutil.copy(name / "x0x.wav", name / f"copy{number}x.wav")


def no_number(name: str) -> None:
    pytest.fail(f"{name} is no JSON")


def scored(cfg: Config, batch_size: int = 1) -> dict:
    """Train an epoch, score, go on for another, score from outside; the content of scores.json."""
    cfg = replace(cfg, batch_size=batch_size, epochs=1, score_every=1, score_clips=4)
    train(cfg)
    train(replace(cfg, epochs=2))
    while_training = (cfg.run_dir / "scores.json").read_text()
    assert evaluate.main([str(cfg.run_dir), "--device", "cpu"]) == 0
    text = (cfg.run_dir / "scores.json").read_text()
    content = json.loads(text, parse_constant=no_number)
    rows = json.loads(while_training, parse_constant=no_number)["rows"]
    assert all(content["rows"][name] == pytest.approx(row) for name, row in rows.items())
    figures = [v for row in content["rows"].values() for v in row.values() if v is not None]
    figures += [row["diversity"] or 0.0 for row in content["per_class"].values()]
    assert all(abs(value) < 1e4 for value in figures)
    assert (cfg.run_dir / "index.html").exists()
    return content


def has(content: dict, row: str = GENERATED) -> set[str]:
    return {name for name in SCORES if content["rows"][row][name] is not None}


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("counts", "batch_size", "expected"),
    [
        ({"low": 1}, 1, ALWAYS),
        ({"low": 2}, 2, ALWAYS | DISTANCES | {"diversity"}),
        ({"low": 1, "mid": 1, "high": 1}, 2, ALWAYS | DISTANCES | OF_CLASSES),
        ({"low": 2, "mid": 1}, 1, ALWAYS | DISTANCES | OF_CLASSES | {"diversity"}),
        ({"low": 1, "mid": 30}, 4, set(SCORES) - AREAS),
        ({"low": 21}, 4, set(SCORES) - OF_CLASSES - AREAS),
    ],
)
def test_few_clips_are_trained_on_and_scored(
    small: Config,
    quick: None,
    tmp_path: Path,
    counts: dict,
    batch_size: int,
    expected: set,
    capsys: pytest.CaptureFixture,
) -> None:
    cfg = replace(small, data_dir=bring(tmp_path / "few", **counts))
    content = scored(cfg, batch_size)
    assert has(content) == expected
    (lacking,) = [note for note in content["notes"] if note.startswith("No figure for")]
    named = set(lacking.partition(":")[0].removeprefix("No figure for ").split(", "))
    assert named & (DISTANCES | {"diversity"} | AREAS) == (
        (DISTANCES | {"diversity"} | AREAS) - expected
    )
    assert content["give_away"] == {}
    said = capsys.readouterr().out
    if expected == ALWAYS:
        assert "Scores after epoch 2: there are too few clips for figures." in said
        assert not (cfg.run_dir / "best.safetensors").exists()  # nothing says that it is the best
    else:
        assert "uncertain" in next(line for line in said.split("\n") if "after epoch 2 (" in line)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
def test_clips_that_are_all_one_sound_give_no_ratios(
    small: Config, quick: None, tmp_path: Path
) -> None:
    folder = Path(bring(tmp_path / "one", low=1))
    copied(folder, 29)
    content = scored(replace(small, data_dir=str(folder)), 4)
    assert "too many clips are copies of each other" in content["notes"][1] or (
        "this run trained on all of them" in content["notes"][1]
    )
    assert has(content) == ALWAYS | {"frechet"}


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
def test_copies_give_no_ratios_beyond_measure(small: Config, quick: None, tmp_path: Path) -> None:
    folder = Path(bring(tmp_path / "copies", low=6, mid=6, high=6))
    copied(folder, 18)
    content = scored(replace(small, data_dir=str(folder)), 4)
    assert content["held_out"]["clips"] == 9
    assert has(content) == set(SCORES) - {"density", "coverage"} - AREAS
    assert content["rows"][GENERATED]["copy_ratio"] < 100


# ---- the formulas --------------------------------------------------------------------------------


def test_equal_sounds_have_no_distance_to_compare_with() -> None:
    x = torch.rand(40, 8) + 1
    assert distances.vanishes(float(torch.cdist(x, x).amin(1).median()), x)
    assert not distances.vanishes(float(torch.pdist(x).median()), x)
    assert distances.vanishes(math.nan, x)
    assert distances.copying(x, x[:9], torch.rand(5, 8)) is None
    assert distances.copying(x, torch.rand(9, 8) + 1, torch.rand(5, 8)) is not None
    assert distances.density_coverage(x[:1].repeat(7, 1), x, 5) is None


def test_density_of_fewer_clips_than_neighbours_is_of_those_there_are() -> None:
    """About 1 for real sounds, also where a clip has two neighbours only."""
    x = torch.tensor([[0.0, 1], [0, 2], [0, 4]])
    density, coverage = distances.density_coverage(x, x + 0.01, 5)
    assert (density, coverage) == (pytest.approx(7 / 6), 1)


def test_groups_of_similar_clips_are_no_more_than_there_are_clips() -> None:
    x = torch.randn(5, 1, 8, 12)
    assert classifier.similar(x[:1]).tolist() == [0]
    assert classifier.similar(x[:1].repeat(20, 1, 1, 1)).tolist() == [0] * 20
    assert sorted(classifier.similar(x).tolist()) == [0, 1, 2, 3, 4]
    twice = classifier.similar(torch.cat([x, x]))
    assert twice[:5].tolist() == twice[5:].tolist()
    assert len(set(twice.tolist())) == 5


# ---- how they are said ---------------------------------------------------------------------------


def row(**figures: float | None) -> dict:
    return {"clips": 3} | dict.fromkeys(SCORES) | figures


def test_a_line_and_a_table_without_some_figures() -> None:
    content = {
        "rows": {GENERATED: row(frechet=1.0, cas=0.25), "held-out real": row(cas=1.0)},
        "few": ["held-out real"],
        "notes": ["A note."],
    }
    line = scores.in_short(3, content)
    assert line == (
        "Scores after epoch 3 (in brackets: held-out real*): frechet 1 (-), cas 0.25 (1) "
        "(* from fewer than 50 clips: uncertain)"
    )
    assert [text.split() for text in scores.table(content).split("\n")] == [
        ["clips", "frechet", "cas"],
        ["generated", "3", "1", "0.25"],
        ["held-out", "real*", "3", "-", "1"],
        ["*", "from", "fewer", "than", "50", "clips:", "uncertain"],
        ["A", "note."],
    ]
    content["rows"] = {GENERATED: row(), "held-out real": row()}
    assert (
        scores.in_short(3, content) == "Scores after epoch 3: there are too few clips for figures."
    )


def test_what_is_no_number_is_null(small: Config) -> None:
    content = {
        "rows": {GENERATED: {"kernel": math.nan, "frechet": np.float64(2)}},
        "best": [math.inf],
    }
    scores.write_scores(small, 1, 2, "last", content)
    written = json.loads((small.run_dir / "scores.json").read_text(), parse_constant=no_number)
    assert written["rows"] == {GENERATED: {"kernel": None, "frechet": 2.0}}
    assert written["best"] == [None]
