"""The evaluator: real sounds, the classifiers trained on them, and how real sounds score.

It is made once for a data set, a vocoder and a length of clip, then kept in the cache and shared by
all runs on them. Each figure is also given for real sounds that nobody trained on (what a perfect
model would reach) and for the same sounds sent through the vocoder (what any model can reach with
it). Judges (`two_sample.py`) know real sounds as the vocoder gives them. So in these rows their
figure says how well they tell the vocoder, and how well they tell real sounds of other sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from soundgan import files, packages, tensor_files
from soundgan.audio import Transform, Vocoder, bigvgan, istft
from soundgan.dataset import Clips, Recording, Split, decoded_constants, recordings, stale
from soundgan.evaluation import classifier as classifiers
from soundgan.evaluation import distances, features, give_away, metrics, two_sample
from soundgan.evaluation import sides as judged
from soundgan.evaluation.classifier import Classifier, train_classifiers
from soundgan.evaluation.features import SoundSet, measure_files
from soundgan.evaluation.metrics import METRICS, Comparison, View
from soundgan.evaluation.sides import Sides
from soundgan.evaluation.two_sample import Area
from soundgan.settings import Config

VERSION = 7  # raise it when a formula changes: what was kept is made anew then
MOST_REAL = 2000  # most training clips that sounds are compared with
MOST_JUDGED = 320  # of these, and of the unseen ones, for judges: each goes through the vocoder
LEAST = 4  # sounds that are generated of the rarest class
VOCODER_FILES = (
    *("generator.ckpt", "hyperparams.yaml", bigvgan.WEIGHTS, bigvgan.CONFIG),
    *(istft.WEIGHTS, istft.ABOUT),
)
DRAWS = 10  # subsets over which figures that depend on the number of sounds are averaged

REAL, SEEN = "held-out real", "real, trained on"  # the row of real sounds
ROUND_TRIP = "{}, through the vocoder"  # the row of the same, there and back

Item = TypeVar("Item")


@dataclass
class Evaluator:
    """The real sounds, the classifiers that were trained on them, and how the real ones score.

    Where nothing is held out, `unseen` is a part of the training clips, and the scores say so.
    """

    cfg: Config
    classes: list[str]
    split: Split
    vocoder: str
    counts: list[int]  # sounds of each class to generate, in proportion to the training clips
    device: torch.device  # where classifiers are trained
    classifiers: list[Classifier] = field(default_factory=list)
    training: SoundSet | None = None
    unseen: SoundSet | None = None
    sides: Sides | None = None  # the real sounds of judges,
    areas: dict[str, Area | None] = field(default_factory=dict)  # and how well they tell those
    rows: dict[str, dict[str, float | None]] = field(default_factory=dict)  # of real sounds

    @property
    def real(self) -> str:
        """Name of the row of unseen real sounds."""
        return REAL if self.split.held_out else SEEN

    @property
    def at_a_time(self) -> np.ndarray:
        """Sounds of each class, `(K,)`, of which the figures are taken that depend on the number:
        as many as there are both unseen real and generated ones."""
        unseen = np.bincount(self.unseen.labels.numpy(), minlength=len(self.counts))
        return np.minimum(unseen, self.counts)

    @property
    def labels(self) -> Tensor:
        """Classes of the sounds to generate, `(N,)`."""
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))

    @property
    def teaching(self) -> np.ndarray:
        """Sounds of each class, `(K,)`, of which classifiers learn in every row."""
        known = np.bincount(self.training.labels.numpy(), minlength=len(self.counts))
        return np.minimum(known, self.counts)

    def teach(self, sounds: SoundSet) -> SoundSet:
        """As many generated sounds of each class as the real rows learn from."""
        left = self.teaching.tolist()
        return sounds.subset(_first(sounds.labels.tolist(), left))

    def compare(
        self,
        sounds: SoundSet,
        intended: bool = True,
        teaching: SoundSet | None = None,
        area: Area | None = None,
    ) -> Comparison:
        """A set of sounds beside the real ones.

        `intended`: whether its labels were meant. `teaching`: sounds from which classifiers learn
        the classes before they are tested on unseen real ones. `area`: what judges found.
        """
        return Comparison(
            sounds=sounds,
            training=self.training,
            unseen=self.unseen,
            classifiers=self.classifiers,
            draws=self.draws(sounds, intended),
            intended=intended,
            classes=len(self.classes),
            held_out=bool(self.split.held_out),
            teaching=teaching,
            area=area,
            device=self.device,
        )

    def row(
        self,
        sounds: SoundSet,
        intended: bool = True,
        teaching: SoundSet | None = None,
        area: Area | None = None,
    ) -> dict[str, float | None]:
        """The figures METRICS of a set of sounds; arguments as those of `compare`."""
        return metrics.figures(self.compare(sounds, intended, teaching, area))

    def draws(self, sounds: SoundSet, intended: bool) -> list[np.ndarray]:
        """Rows of `sounds`, several times: as many (of a class) as every row of the scores has."""
        labels, sizes = sounds.labels.numpy(), self.at_a_time
        if not intended:
            labels, sizes = np.zeros_like(labels), sizes.sum(keepdims=True)
        if (np.bincount(labels, minlength=len(sizes)) <= sizes).all():
            return [np.arange(len(labels))]
        rng = np.random.default_rng(0)

        def draw() -> np.ndarray:
            own = [np.flatnonzero(labels == k) for k in range(len(sizes))]
            return np.concatenate([rng.permutation(r)[:size] for r, size in zip(own, sizes)])

        return [draw() for _ in range(DRAWS)]

    def per_class(self, comparison: Comparison) -> dict[str, dict[str, float | str | None]]:
        """Which class is bad, and what it is taken for, beside what unseen real clips reach."""
        views, sounds = comparison.views, comparison.sounds
        predicted = torch.stack([view.logits.argmax(1) for view in views])  # (classifiers, N)
        real = torch.stack([c(self.unseen.x).argmax(1) for c in self.classifiers])
        table = {}
        for k, name in enumerate(self.classes):
            unseen, own = self.unseen.labels == k, sounds.labels == k
            wrong = predicted[:, own][predicted[:, own] != k]
            spreads = [view.diversity for view in views]
            table[name] = {
                "clips": int(own.sum()),
                "accuracy": _share(predicted[:, own] == k),
                f"accuracy, {self.real}": _share(real[:, unseen] == k),
                "taken for": self.classes[int(wrong.mode().values)] if len(wrong) else None,
                "kernel": _kernel_of_class(views, k),
                "diversity": _mean([own.get(k) for own in spreads]),
            }
        return table


def _kernel_of_class(views: list[View], k: int) -> float | None:
    """Kernel distance of one class's sounds from its training clips, by all of their widths."""
    values = []
    for view in views:
        real, fake = view.real[view.real_labels == k], view.fake[view.labels == k]
        if min(len(real), len(fake)) < 2 or view.width is None:
            return None
        values.append(distances.kernel_distance(real, fake, view.width)[0])
    return float(np.mean(values))


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def _share(mask: Tensor) -> float | None:
    return float(mask.float().mean()) if mask.numel() else None


# ---- making it ----------------------------------------------------------------------------------


def make_evaluator(
    cfg: Config, clips: Clips, split: Split, vocoder: Vocoder, device: torch.device
) -> Evaluator:
    """Open what an earlier scoring kept, or measure the real sounds and train the classifiers.

    Raises UserError where a real sound has gone since it was decoded.
    """
    chosen = _choose(cfg, clips, split)
    real = [[(r.digest, r.label) for r in some] for some in (chosen.training, chosen.unseen)]
    judging = (chosen.judging, chosen.sources.tolist())
    key = _key(cfg, clips, vocoder, (*real, chosen.teaching, chosen.counts, *judging))
    path = stale.reference_path(cfg.cache_dir, clips.fingerprint, key)
    evaluator = Evaluator(cfg, clips.classes, split, vocoder.name, chosen.counts, device)
    if not _open(evaluator, path):
        print(
            "Scores: measuring the real sounds, once for this data set (on a CPU that takes some "
            "minutes, and each scoring one or two more; --score-every 0: none) ...",
            flush=True,
        )
        _measure_real(evaluator, vocoder, chosen)
        _keep(evaluator, path)
    return evaluator


@dataclass(frozen=True)
class _Chosen:
    """Real sounds of an evaluator."""

    training: list[Recording]  # to compare with
    unseen: list[Recording]
    teaching: list[int]  # which of `training` teach classifiers: as many as are generated
    judging: list[int]  # which of them judges know as real
    sources: np.ndarray  # number of the source of each of those
    counts: list[int]  # of each class, both of `teaching` and of the sounds to generate


def _choose(cfg: Config, clips: Clips, split: Split) -> _Chosen:
    training = recordings(clips, spread_out(split.training, MOST_REAL))
    per_class = np.bincount([r.label for r in training], minlength=len(clips.classes))
    share = cfg.score_clips * len(per_class) * per_class / per_class.sum()
    counts = np.maximum(np.round(share).astype(int), LEAST).tolist()
    teaching = _first([r.label for r in training], counts)
    unseen = spread_out(split.held_out, MOST_REAL) or [training[i] for i in teaching]
    judging = spread_out(range(len(training)), MOST_JUDGED)
    sources = judged.numbers_of_sources([training[i] for i in judging], clips.root)
    return _Chosen(training, unseen, teaching, judging, sources, counts)


def check_packages(cfg: Config, classes: int, instead: str = "") -> None:
    """Raise UserError where a package is not installed that scoring such a run needs.

    Before training, which would otherwise end at its first scoring. `instead`: what to do without.
    """
    names = ["torchmetrics"]
    if cfg.holdout or cfg.holdout_dir:
        names.append("scipy")  # to test for copies
    if classes < 2:
        names.append("sklearn")
    if cfg.sound.sample_rate != features.GRID["sample_rate"]:
        names.append("soxr")
    packages.check(names, "Scoring", instead)


def _measure_real(evaluator: Evaluator, vocoder: Vocoder, chosen: _Chosen) -> None:
    cfg = evaluator.cfg
    evaluator.training = measure_files(cfg, chosen.training)
    evaluator.unseen = measure_files(cfg, chosen.unseen)
    evaluator.classifiers = train_classifiers(
        evaluator.training, len(evaluator.classes), evaluator.device
    )
    direct = _Heard(evaluator.unseen, evaluator.training, range(len(chosen.training)))
    heard = direct if cfg.sound.raw else _through(evaluator, vocoder, chosen)
    evaluator.sides = _sides(evaluator, chosen, heard)
    evaluator.areas = give_away.areas(evaluator.sides)
    area = evaluator.areas[give_away.WHOLE]
    if not cfg.sound.raw:
        name = ROUND_TRIP.format(evaluator.real)
        evaluator.rows[name] = _row(evaluator, chosen, heard, area)
        x = evaluator.training.x[chosen.judging]
        area = two_sample.two_sample(evaluator.sides, x, paired=True)
    evaluator.rows = {evaluator.real: _row(evaluator, chosen, direct, area), **evaluator.rows}


@dataclass(frozen=True)
class _Heard:
    """Real sounds, as they are or through a vocoder."""

    unseen: SoundSet
    training: SoundSet
    rows: Sequence[int]  # of the chosen training clips, which of them `training` has, rising

    def some(self, rows: Sequence[int]) -> SoundSet:
        """Those of the chosen training clips with these numbers."""
        place = {row: k for k, row in enumerate(self.rows)}
        return self.training.subset([place[row] for row in rows])


def _through(evaluator: Evaluator, vocoder: Vocoder, chosen: _Chosen) -> _Heard:
    transform = Transform(evaluator.cfg)

    def through(waves: Tensor) -> Tensor:
        return vocoder(transform(waves))

    rows = sorted({*chosen.teaching, *chosen.judging})
    taught = [chosen.training[k] for k in rows]
    unseen, training = (
        measure_files(evaluator.cfg, some, through) for some in (chosen.unseen, taught)
    )
    return _Heard(unseen, training, rows)


def _row(
    evaluator: Evaluator, chosen: _Chosen, heard: _Heard, area: Area | None
) -> dict[str, float | None]:
    return evaluator.row(heard.unseen, teaching=heard.some(chosen.teaching), area=area)


def _sides(evaluator: Evaluator, chosen: _Chosen, heard: _Heard) -> Sides:
    held_out = heard.unseen.x if evaluator.split.held_out else heard.unseen.x[:0]
    rows = spread_out(range(len(held_out)), MOST_JUDGED)
    sources = torch.from_numpy(chosen.sources)
    return Sides(heard.some(chosen.judging).x, sources, held_out[rows], sum(chosen.counts))


def round_trip(evaluator: Evaluator, clips: Clips, vocoder: Vocoder) -> dict[str, float | None]:
    """The row of unseen real sounds through another vocoder, by the evaluator's own classifiers.

    What judges tell is that vocoder, from the sounds as they are. Raises UserError where one of
    them has gone.
    """
    chosen = _choose(evaluator.cfg, clips, evaluator.split)
    direct = _Heard(evaluator.unseen, evaluator.training, range(len(chosen.training)))
    heard = _through(evaluator, vocoder, chosen)
    other = heard.some(chosen.judging).x
    area = two_sample.two_sample(_sides(evaluator, chosen, direct), other, paired=True)
    return _row(evaluator, chosen, heard, area)


def spread_out(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of them, evenly from the whole sequence."""
    step = max(1.0, len(items) / most)
    return [items[int(k * step)] for k in range(int(len(items) / step))]


def _first(labels: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Rows of the first `counts[k]` of each class k."""
    left, rows = list(counts), []
    for row, label in enumerate(labels):
        if left[label]:
            left[label] -= 1
            rows.append(row)
    return rows


# ---- keeping it ---------------------------------------------------------------------------------


def _key(cfg: Config, clips: Clips, vocoder: Vocoder, chosen: tuple) -> str:
    """What the kept evaluator depends on, in 16 characters; `chosen`: its real sounds."""
    decisive = [clips.fingerprint, chosen, decoded_constants(cfg), _content_of(vocoder)]
    decisive += [VERSION, list(METRICS), list(give_away.VIEWS), _constants()]
    return hashlib.sha256(repr(decisive).encode(errors="surrogateescape")).hexdigest()[:16]


def _content_of(vocoder: Vocoder) -> list[str] | str:
    """Checksums of the files of a vocoder that lies in a folder; the name of any other."""
    weights = [Path(vocoder.name) / name for name in VOCODER_FILES]
    return [files.digest_of_file(p) for p in weights if files.is_regular(p)] or vocoder.name


def _constants() -> list[tuple[str, object]]:
    """The numbers at the top of the files of this folder."""
    modules = (classifiers, distances, features, give_away, metrics, judged, two_sample)
    values = [vars(module) for module in modules]
    named = [item for own in (*values, globals()) for item in own.items() if item[0].isupper()]
    # Not those that hold functions, whose text is another in each process.
    return [(n, value) for n, value in named if n not in ("METRICS", "VIEWS", "KINDS")]


def _keep(evaluator: Evaluator, path: Path) -> None:
    weights = [classifier.state_dict() for classifier in evaluator.classifiers]
    areas = {name: area and list(area) for name, area in evaluator.areas.items()}
    state = {"classifiers": weights, "rows": evaluator.rows, "areas": areas}
    state |= {name: vars(getattr(evaluator, name)) for name in ("training", "unseen", "sides")}
    tensor_files.write(path, state)


def _open(evaluator: Evaluator, path: Path) -> bool:
    """Fill an evaluator from what was kept; False where there is nothing whole."""
    try:
        state = tensor_files.read(path)
        sets = [_sounds(state[name], len(evaluator.classes)) for name in ("training", "unseen")]
        sides = _real_sides(state["sides"])
        areas, rows = _areas(state["areas"]), _rows(state["rows"])
        classifiers = [_classifier(weights) for weights in state["classifiers"]]
        if not classifiers or evaluator.real not in rows:
            raise ValueError("it lacks a part")
    except FileNotFoundError:
        return False
    except MemoryError:
        raise
    except Exception as error:  # a file of another program fails in whatever way it likes
        print(f"{path} is damaged ({error}) and will be made anew.", flush=True)
        return False
    (evaluator.training, evaluator.unseen), evaluator.rows = sets, rows
    evaluator.sides, evaluator.areas = sides, areas
    evaluator.classifiers = classifiers
    stale.mark_used(path)
    return True


def _sounds(kept: dict, classes: int) -> SoundSet:
    """A set of sounds as `_keep` left it; raises an exception where it has another form."""
    sounds = SoundSet(**kept)
    whole = sounds.x.dtype == torch.float32 and sounds.x.shape[1:3] == (1, features.GRID["n_mels"])
    whole &= sounds.labels.dtype == torch.int64 and sounds.labels.shape == sounds.x.shape[:1]
    whole &= isinstance(sounds.silent, float) and isinstance(sounds.clipped, float)
    known = (sounds.labels >= 0) & (sounds.labels < classes)
    if not (whole and known.all() and sounds.x.isfinite().all()):
        raise ValueError("its sounds have another form")
    return sounds


def _real_sides(kept: dict) -> Sides:
    """The sounds of judges as `_keep` left them; raises an exception where they have another
    form."""
    sides = Sides(**kept)
    mels = (sides.x, sides.unseen)
    whole = all(x.dtype == torch.float32 and x.shape[1:] == sides.x.shape[1:] for x in mels)
    whole &= sides.x.shape[1:3] == (1, features.GRID["n_mels"]) and isinstance(sides.most, int)
    whole &= sides.sources.dtype == torch.int64 and sides.sources.shape == sides.x.shape[:1]
    if not (whole and all(x.isfinite().all() for x in mels)):
        raise ValueError("its sounds for judges have another form")
    return sides


def _areas(kept: dict) -> dict[str, Area | None]:
    """Those of real sounds as `_keep` left them; raises ValueError where they are others."""
    areas = {name: area and Area(*map(float, area)) for name, area in kept.items()}
    if list(areas) != list(give_away.VIEWS):
        raise ValueError("its areas have another form")
    return areas


def _rows(kept: dict) -> dict[str, dict[str, float | None]]:
    """The rows of real sounds as `_keep` left them; raises ValueError where they are others."""
    for row in kept.values():
        if not all(isinstance(value, float | int | None) for value in row.values()):
            raise ValueError("its rows have another form")
    return kept


def _classifier(weights: dict[str, Tensor]) -> Classifier:
    with torch.random.fork_rng(devices=[]):  # initial weights, though replaced, are drawn
        one = Classifier(len(weights["classify.bias"]), weights["mean"], weights["std"])
    one.load_state_dict(weights)
    return one.eval().requires_grad_(False)
