"""The table of metrics: what follows from an entry, and where a figure has no meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from soundgan.evaluation import evaluator, metrics
from soundgan.evaluation.classifier import Classifier
from soundgan.evaluation.features import SoundSet
from soundgan.evaluation.metrics import METRICS, Comparison, Metric, View
from soundgan.evaluation.scores import HEADLINE, MEANINGS, SCORES
from soundgan.evaluation.two_sample import Area


@pytest.fixture
def comparison() -> Comparison:
    """Random log-mels of two classes, seen by two untrained classifiers."""
    torch.manual_seed(0)

    def sounds(count: int) -> SoundSet:
        return SoundSet(torch.randn(count, 1, 16, 24), torch.arange(count) % 2, silent=0.25)

    mean, std = torch.zeros(16, 1), torch.ones(16, 1)
    networks = [Classifier(2, mean, std).eval().requires_grad_(False) for _ in range(2)]
    draws = [np.arange(8), np.arange(4, 12)]
    return Comparison(
        *(sounds(12), sounds(20), sounds(8), networks, draws),
        intended=True,
        classes=2,
        held_out=True,
        teaching=None,
        device=torch.device("cpu"),
        area=Area(0.7, 0.6, 0.8),
    )


def test_names_and_order_are_those_of_scores_csv() -> None:
    """Runs that were scored before are read by these names; others may stand between them."""
    known = [
        *("accuracy", "frechet", "kernel", "kernel_low", "kernel_high", "density", "coverage"),
        *("inception", "cas", "copy_ratio", "copy_z", "diversity", "sliced", "silent", "clipped"),
    ]
    assert [name for name in SCORES if name in known] == known
    assert HEADLINE == ("accuracy", "frechet", "kernel", "coverage", "cas", "auc")
    assert list(MEANINGS) == list(SCORES)


def test_one_entry_is_a_new_figure(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    """Of one classifier's view, of equally many sounds, or of the whole comparison."""

    def distance(view: View) -> float:
        return float((view.fake.mean(0) - view.real.mean(0)).norm())

    before = metrics.figures(comparison)
    for name, metric in {
        "shift": Metric(distance, "distance of the means"),
        "shift_of_few": Metric(distance, "the same, of few", of="draw"),
        "count": Metric(lambda c: len(c.sounds.labels), "how many", of="comparison"),
    }.items():
        monkeypatch.setitem(METRICS, name, metric)
    after = metrics.figures(comparison)
    assert {name: after[name] for name in before} == before
    views = comparison.views
    assert after["shift"] == pytest.approx(np.mean([distance(view) for view in views]))
    few = [distance(view.subset(rows)) for view in views for rows in comparison.draws]
    assert after["shift_of_few"] == pytest.approx(np.mean(few))
    assert after["count"] == 12


def test_a_new_figure_is_measured_of_the_real_sounds_too(
    default, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept evaluator holds their rows: it is made anew for another set of figures."""

    class Clips:
        fingerprint = "clips"

    class Vocoder:
        name = "griffin-lim"

    before = evaluator._key(default, Clips, Vocoder, ())
    assert evaluator._key(default, Clips, Vocoder, ()) == before
    monkeypatch.setitem(METRICS, "new", Metric(lambda view: 0.0, "nothing"))
    assert evaluator._key(default, Clips, Vocoder, ()) != before
    monkeypatch.undo()
    monkeypatch.setattr(metrics, "NEIGHBOURS", 6)
    assert evaluator._key(default, Clips, Vocoder, ()) != before


def test_what_has_no_meaning_is_none(comparison: Comparison) -> None:
    def lacking() -> set[str]:
        for name in ("views", "draw_views"):
            vars(comparison).pop(name, None)
        return {name for name, value in metrics.figures(comparison).items() if value is None}

    assert lacking() == {"cas"}  # no classifier is to learn from these
    comparison.held_out = False
    assert lacking() == {"cas", "copy_ratio", "copy_z"}
    comparison.intended = False
    assert lacking() == {"cas", "copy_ratio", "copy_z", "accuracy"}
    comparison.classes = 1
    assert lacking() == {"cas", "copy_ratio", "copy_z", "accuracy", "inception"}
    assert [metrics.figures(comparison)[f"auc{end}"] for end in ("", "_low", "_high")] == [
        *(0.7, 0.6, 0.8)
    ]
    comparison.area = None  # too few
    areas = {"auc", "auc_low", "auc_high"}
    assert lacking() == areas | {"cas", "copy_ratio", "copy_z", "accuracy", "inception"}
