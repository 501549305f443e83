"""The figures of a set of sounds: METRICS says how each is computed and what it means.

To add one, write a function and add an entry: columns of scores.csv, scores.json, the table of
`evaluate.py` and the page follow. A function gets a `View`, what one classifier sees of the sounds
and of the real ones, and returns a number, or None where it has no meaning or the sounds are too
few; formulas of papers stand in `distances.py`. Raise VERSION in `evaluator.py` when a formula
changes.

Shapes: N sounds, K classes, D numbers of an embedding.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from soundgan.evaluation import distances
from soundgan.evaluation.classifier import Classifier, share_right, train_classifiers
from soundgan.evaluation.features import SoundSet, statistics
from soundgan.evaluation.two_sample import Area

NEIGHBOURS = 5  # the k of density and coverage
BOOTSTRAP = 500  # draws of the kernel distance's interval


# ---- what a metric is computed of ---------------------------------------------------------------


@dataclass(eq=False)
class View:
    """A set of sounds, and the real ones beside it, as one classifier sees them."""

    classifier: Classifier
    real: Tensor  # (R, D) embeddings of the real training clips
    real_labels: Tensor  # (R,) their classes
    unseen: Tensor  # (U, D) embeddings of real sounds that nobody trained on
    fake: Tensor  # (N, D) embeddings of the sounds that are scored
    labels: Tensor  # (N,) class that each was meant to be
    intended: bool  # whether a class was meant at all
    classes: int  # K
    held_out: bool  # whether `unseen` was really kept from training

    def subset(self, rows: np.ndarray) -> View:
        """Some of the sounds, beside all the real ones."""
        return replace(self, fake=self.fake[rows], labels=self.labels[rows])

    @cached_property
    def logits(self) -> Tensor:
        """Predictions of the sounds' classes, `(N, K)`."""
        return self.classifier.classify(self.fake)

    @cached_property
    def width(self) -> float | None:
        """Width of the kernel; None where the real clips are too few, or copies of each other."""
        if len(self.real) < 2:
            return None
        width = distances.bandwidth(self.real)
        return None if distances.vanishes(width, self.real) else width

    @cached_property
    def kernel(self) -> tuple[float, np.ndarray] | None:
        """The kernel distance, and BOOTSTRAP values of it."""
        if self.width is None or len(self.fake) < 2:
            return None
        return distances.kernel_distance(self.real, self.fake, self.width, BOOTSTRAP)

    @cached_property
    def density_coverage(self) -> tuple[float, float] | None:
        if self.width is None:
            return None
        return distances.density_coverage(self.real, self.fake, NEIGHBOURS)

    @cached_property
    def copying(self) -> tuple[float, float] | None:
        """Ratio and rank test."""
        if not self.held_out:
            return None
        return distances.copying(self.real, self.unseen, self.fake)

    @cached_property
    def diversity(self) -> dict[int, float]:
        """Mean distance within each class, over that of its training clips.

        Of the classes that have two sounds in both, and whose training clips are not all equal.
        """
        labels = (self.real_labels, self.labels)
        if not self.intended:  # all of it is one class
            labels = tuple(torch.zeros_like(y) for y in labels)
        whole = distances.spread(self.real, labels[0])
        own = distances.spread(self.fake, labels[1])
        differ = {k for k in whole if not distances.vanishes(whole[k], self.real)}
        return {k: own[k] / whole[k] for k in own if k in differ}


@dataclass(eq=False)
class Comparison:
    """A set of sounds beside the real ones, with the classifiers that compare them."""

    sounds: SoundSet
    training: SoundSet  # the real training clips
    unseen: SoundSet  # real sounds that nobody trained on
    classifiers: list[Classifier]
    draws: list[np.ndarray]  # rows of `sounds`: as many as are compared of any set, several times
    intended: bool
    classes: int
    held_out: bool
    teaching: SoundSet | None  # from which classifiers learn for the classification accuracy score
    device: torch.device  # where those are trained
    area: Area | None = None  # what judges found

    @cached_property
    def views(self) -> list[View]:
        """One a classifier."""
        return [
            View(
                classifier,
                *(classifier.embed(self.training.x), self.training.labels),
                *(classifier.embed(self.unseen.x), classifier.embed(self.sounds.x)),
                *(self.sounds.labels, self.intended, self.classes, self.held_out),
            )
            for classifier in self.classifiers
        ]

    @cached_property
    def draw_views(self) -> list[list[View]]:
        """For each classifier, one a draw."""
        return [[view.subset(rows) for rows in self.draws] for view in self.views]


# ---- metrics ------------------------------------------------------------------------------------


def accuracy(view: View) -> float | None:
    if view.classes < 2 or not view.intended:
        return None
    return float((view.logits.argmax(1) == view.labels).float().mean())


def inception(view: View) -> float | None:
    if view.classes < 2 or len(view.fake) < 2:
        return None
    return distances.inception_score(view.logits)


def frechet(view: View) -> float | None:
    if min(len(view.real), len(view.fake)) < 2:
        return None
    return distances.frechet(view.real, view.fake)


def kernel_interval(comparison: Comparison, percent: float) -> float | None:
    """A percentile of the kernel distance's bootstrap values, which are means over classifiers."""
    kernels = [view.kernel for view in comparison.views]
    if None in kernels:
        return None
    return float(np.percentile(np.mean([values for _, values in kernels], axis=0), percent))


def diversity(view: View) -> float | None:
    ratios = list(view.diversity.values())
    return float(np.mean(ratios)) if ratios else None


def classification_accuracy_score(comparison: Comparison) -> float | None:
    """Ravuri & Vinyals 2019: learn the classes from these sounds, be tested on unseen real ones."""
    if comparison.teaching is None or comparison.classes < 2:
        return None
    learnt = train_classifiers(comparison.teaching, comparison.classes, comparison.device)
    return float(np.mean([share_right(classifier, comparison.unseen) for classifier in learnt]))


def sliced(comparison: Comparison) -> float | None:
    """Equally many sounds and real clips at a time, in their log-mel statistics."""
    real, fake = statistics(comparison.training.x), statistics(comparison.sounds.x)
    rng = np.random.default_rng(0)
    fits = [
        rng.permutation(rows)[: len(real)] if len(rows) > len(real) else rows
        for rows in comparison.draws
    ]
    pairs = [(real[rng.permutation(len(real))[: len(rows)]], fake[rows]) for rows in fits]
    # In deviations of the real clips: there must be one.
    pairs = [pair for pair in pairs if len(pair[0].unique(dim=0)) > 1]
    return float(np.mean([distances.sliced_wasserstein(*p) for p in pairs])) if pairs else None


@dataclass(frozen=True)
class Metric:
    """A figure: how it is computed, and what it says."""

    compute: Callable[..., float | None]
    meaning: str  # one line, for scores.json and the page
    of: Literal["view", "draw", "comparison"] = "view"
    """What `compute` gets. view: all sounds, as one classifier sees them (the figure is the mean
    over classifiers); draw: likewise, but equally many sounds of every set, for what depends on
    their number (the mean over draws, too); comparison: everything, once."""
    headline: bool = False  # whether it is one to look at first


METRICS = {  # in the order of the columns of scores.csv
    "accuracy": Metric(
        accuracy,
        "share of sounds classified as the class they were meant to be; higher is better",
        headline=True,
    ),
    "frechet": Metric(
        frechet,
        "distance of means and covariances of embeddings; lower is better",
        of="draw",
        headline=True,
    ),
    "kernel": Metric(
        lambda view: view.kernel and view.kernel[0],
        "100 times the unbiased kernel distance of embeddings; 0: no difference",
        headline=True,
    ),
    "kernel_low": Metric(
        lambda comparison: kernel_interval(comparison, 2.5),
        "lower end of its 95 % bootstrap interval",
        of="comparison",
    ),
    "kernel_high": Metric(
        lambda comparison: kernel_interval(comparison, 97.5),
        "upper end of its 95 % bootstrap interval",
        of="comparison",
    ),
    "density": Metric(
        lambda view: view.density_coverage and view.density_coverage[0],
        "how many real neighbourhoods a sound lies in, over 5; about 1 for real sounds",
        of="draw",
    ),
    "coverage": Metric(
        lambda view: view.density_coverage and view.density_coverage[1],
        "share of real training clips with a sound nearby; higher is better",
        of="draw",
        headline=True,
    ),
    "inception": Metric(
        inception,
        "certain predictions for each sound, different ones overall: 1 to the number of classes",
        of="draw",
    ),
    "cas": Metric(
        classification_accuracy_score,
        "accuracy, on unseen real sounds, of a classifier that learnt from these",
        of="comparison",
        headline=True,
    ),
    "auc": Metric(
        lambda comparison: comparison.area and comparison.area.mean,
        "how often judges that learnt to tell these from real sounds through the vocoder rank a "
        "real one higher; 0.5: they cannot tell, 1: they always can",
        of="comparison",
        headline=True,
    ),
    "auc_low": Metric(
        lambda comparison: comparison.area and comparison.area.low,
        "the lowest of three such figures",
        of="comparison",
    ),
    "auc_high": Metric(
        lambda comparison: comparison.area and comparison.area.high,
        "the highest of them",
        of="comparison",
    ),
    "copy_ratio": Metric(
        lambda view: view.copying and view.copying[0],
        "distance to the nearest training clip, over that of unseen real sounds",
    ),
    "copy_z": Metric(
        lambda view: view.copying and view.copying[1],
        "rank test of the same; under -3, sounds lie suspiciously near",
    ),
    "diversity": Metric(
        diversity,
        "distance between sounds of a class, over that of training clips; 0: equal",
    ),
    "sliced": Metric(
        sliced,
        "distance of log-mel statistics, without any classifier; lower is better",
        of="comparison",
    ),
    "silent": Metric(
        lambda comparison: comparison.sounds.silent, "share of silent sounds", of="comparison"
    ),
    "clipped": Metric(
        lambda comparison: comparison.sounds.clipped,
        "share of sounds with ten samples or more at full scale",
        of="comparison",
    ),
}


def figures(comparison: Comparison) -> dict[str, float | None]:
    """All METRICS of a set of sounds; those that have no meaning here are None."""
    return {name: _figure(metric, comparison) for name, metric in METRICS.items()}


def _figure(metric: Metric, comparison: Comparison) -> float | None:
    if metric.of == "comparison":
        value = metric.compute(comparison)
    elif metric.of == "view":
        value = _mean(metric.compute(view) for view in comparison.views)
    else:
        value = _mean(_mean(map(metric.compute, views)) for views in comparison.draw_views)
    return value if value is not None and math.isfinite(value) else None


def _mean(values: Iterable[float | None]) -> float | None:
    """Added in order (NumPy adds in another), so that scores repeat to the last bit."""
    values = list(values)
    if None in values:
        return None
    return float(reduce(operator.add, values) / len(values))
