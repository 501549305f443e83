"""Which real sounds a judge learns from and is tried on: no source is ever on two sides.

The real training clips are divided by source into halves, another division for each judge. One half
is what it learns to know as real. The other half are "other" sounds that are real as well: how well
it tells those from the first half is the measure of how well it tells generated ones.

Shapes: P real training clips, U unseen ones, M mel bands, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from soundgan.dataset import Recording
from soundgan.dataset.splitting import HELD_OUT_AT_MOST, source_in_folder, source_in_name

TRIED = 1 / 3  # of the other sounds, that a judge is tried on and does not learn from
LEAST = 8  # sounds of each kind, to learn from and to try: below, there is no figure


@dataclass
class Sides:
    """Real sounds for judges, all through the same vocoder as the sounds to score."""

    x: Tensor  # (P, 1, M, T) log-mels of training clips
    sources: Tensor  # (P,) number of the source of each
    unseen: Tensor  # (U, 1, M, T) of held-out ones; U is 0 where nothing is held out
    most: int  # other sounds at most, learnt from and tried: as many in every row of the scores


class Division(NamedTuple):
    """Rows of the real clips `Sides.x` for one judge."""

    real: np.ndarray  # to learn from
    real_tried: np.ndarray  # to try, where nothing is held out; else empty
    other: np.ndarray  # to learn from as other sounds, in the row of real ones
    other_tried: np.ndarray  # to try
    is_enough: bool  # whether there are LEAST clips of each kind


def divide(sides: Sides, seed: Sequence[int]) -> Division:
    """The division of `sides` for one judge; where nothing is held out, its real half is parted."""
    rng = np.random.default_rng(seed)
    sources = sides.sources.numpy()
    real, others = _part(sources, np.arange(len(sources)), 1 / 2, rng)
    tried, rest = _part(sources, others, TRIED, rng)
    real_tried = real[:0]
    if not len(sides.unseen):
        real_tried, real = _part(sources, real, TRIED, rng)
    most = round(TRIED * sides.most)
    other, tried = rest[: sides.most - most], tried[:most]
    kinds = (real, sides.unseen if len(sides.unseen) else real_tried, other, tried)
    return Division(real, real_tried, other, tried, min(map(len, kinds)) >= LEAST)


def _part(
    sources: np.ndarray, rows: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of `rows`, the first about `share` of them; whole sources, drawn at random."""
    names, sizes = np.unique(sources[rows], return_counts=True)
    order = rng.permutation(len(names))
    middle = np.cumsum(sizes[order]) - sizes[order] / 2  # of each source, in clips
    first = names[order[middle < share * len(rows)]]
    rows = rng.permutation(rows)
    inside = np.isin(sources[rows], first)
    return rows[inside], rows[~inside]


def numbers_of_sources(recordings: Sequence[Recording], root: str) -> np.ndarray:
    """Number of the source of each recording, `(P,)`.

    A source is what `dataset.splitting` takes for one: a folder below the class, else what the
    file's name says, else the file; and copies of a clip are of one source. Where that makes one
    of them more than a quarter of all (a long file, one folder for everything), the next finer
    kind; single clips at last.
    """
    names = [r.path.relative_to(root).as_posix() for r in recordings]
    clips = [r.digest for r in recordings]
    by_name = [source_in_name(name) or name for name in names]
    by_folder = [source_in_folder(name) or source for name, source in zip(names, by_name)]
    for kind in (by_folder, by_name, names):
        found = _joined(kind, clips)
        if np.bincount(found, minlength=1).max() <= HELD_OUT_AT_MOST * len(names):
            return found
    return _joined(clips, clips)


def _joined(*kinds: Sequence[str]) -> np.ndarray:
    """The finest division in which rows that are equal by any of these names are together."""
    kinds = [np.unique(kind, return_inverse=True)[1] for kind in kinds]
    found = np.arange(len(kinds[0]))
    before = None
    while before is None or (found != before).any():
        before = found
        for kind in kinds:
            least = np.full(len(found), len(found))
            np.minimum.at(least, kind, found)
            found = least[kind]
    return np.unique(found, return_inverse=True)[1]
