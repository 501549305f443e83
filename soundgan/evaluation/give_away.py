"""What gives sounds away: judges that are shown a part of them only.

Each view leaves something out. Where judges still tell the sounds from real ones, what is left
gives them away; where they no longer do, what was left out did. Beside each area stands that of
real sounds of other sources, which are as new to the judges.

Shapes: N sounds, M mel bands, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
import torchaudio
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from soundgan.evaluation.features import GRID
from soundgan.evaluation.sides import Sides
from soundgan.evaluation.two_sample import Area, two_sample

POOL = 4  # bands, and frames, whose mean a coarse view shows
PARTS = 4  # of the bands, shown one at a time
LEAST = 2  # bands and frames that a view must have
WHOLE = "whole"
OWN, REAL = "generated", "real"  # columns


@dataclass(frozen=True)
class View:
    """A part of what is to be seen of sounds."""

    show: Callable[[Tensor], Tensor]  # log-mels (N, 1, M, T) -> (N, 1, m, t)
    words: Callable[[], str]  # what is shown


def means(x: Tensor, bands: int, frames: int) -> Tensor:
    """Means of so many bands by so many frames, `(N, 1, M / bands, T / frames)`."""
    size = (min(bands, x.shape[2]), min(frames, x.shape[3]))
    return avg_pool2d(x, size)


def rest(x: Tensor) -> Tensor:
    """What the means of POOL bands by POOL frames leave out, as far as whole ones reach."""
    coarse = means(x, POOL, POOL)
    size = (coarse.shape[2] * POOL, coarse.shape[3] * POOL)
    x = x[..., : size[0], : size[1]]
    return x - interpolate(coarse, x.shape[2:], mode="nearest")


def shuffled(x: Tensor) -> Tensor:
    """Frames in random order, another for each sound: spectra, without when they are."""
    order = torch.rand(len(x), x.shape[3], generator=torch.Generator().manual_seed(0)).argsort(1)
    return x.gather(3, order[:, None, None].expand_as(x))


def part_of_bands(x: Tensor, part: int) -> Tensor:
    size = x.shape[2] // PARTS
    return x[:, :, part * size : (part + 1) * size]


def _milliseconds(frames: int) -> str:
    return f"{1000 * frames * GRID['hop_length'] / GRID['sample_rate']:.0f} ms"


@cache
def _edges() -> list[int]:
    """Between the parts of the bands: frequencies in Hz, to two digits."""
    freqs = torch.linspace(0, GRID["sample_rate"] / 2, 1 << 14)
    filters = torchaudio.functional.melscale_fbanks(
        len(freqs),
        GRID["f_min"],
        GRID["f_max"],
        GRID["n_mels"],
        GRID["sample_rate"],
        None,
        "slaney",
    )
    centres = freqs[filters.argmax(0)]
    size = GRID["n_mels"] // PARTS
    inner = [(centres[k * size - 1] + centres[k * size]) / 2 for k in range(1, PARTS)]
    return [int(float(f"{float(hz):.2g}")) for hz in (GRID["f_min"], *inner, GRID["f_max"])]


def _band(part: int) -> View:
    return View(
        lambda x: part_of_bands(x, part), lambda: "only {} to {} Hz".format(*_edges()[part:][:2])
    )


VIEWS = {
    WHOLE: View(lambda x: x, lambda: "everything"),
    "coarse": View(
        lambda x: means(x, POOL, POOL), lambda: f"means over {_milliseconds(POOL)} by {POOL} bands"
    ),
    "coarser": View(
        lambda x: means(x, 2 * POOL, 2 * POOL),
        lambda: f"means over {_milliseconds(2 * POOL)} by {2 * POOL} bands",
    ),
    "fine": View(
        rest, lambda: f"only what means over {_milliseconds(POOL)} by {POOL} bands leave out"
    ),
    "slow": View(lambda x: means(x, 1, POOL), lambda: f"means over {_milliseconds(POOL)}"),
    "smooth": View(lambda x: means(x, POOL, 1), lambda: f"means over {POOL} bands"),
    "shuffled": View(shuffled, lambda: "frames in random order"),
    **{f"band{part + 1}": _band(part) for part in range(PARTS)},
}


def areas(sides: Sides, other: Tensor | None = None) -> dict[str, Area | None]:
    """For each view, how well judges tell `other (N, 1, M, T)`, or real sounds of other sources.

    None where there are too few sounds, or too short ones.
    """
    found = {}
    for name, view in VIEWS.items():
        x = view.show(sides.x)
        own = replace(sides, x=x, unseen=view.show(sides.unseen) if len(sides.unseen) else x[:0])
        enough = min(x.shape[2:]) >= LEAST
        shown = None if other is None else view.show(other)
        found[name] = two_sample(own, shown) if enough else None
    return found


def compared(
    own: Mapping[str, Area | None], real: Mapping[str, Area | None]
) -> dict[str, dict[str, str | float]]:
    """For scores.json: of each view what is shown, and both areas; none where there is no area."""
    rows = {}
    for name, view in VIEWS.items():
        if own[name] is None or real[name] is None:
            continue
        row: dict[str, str | float] = {"shown": view.words()}
        for column, area in ((OWN, own[name]), (REAL, real[name])):
            row |= {column: area.mean, f"{column}_low": area.low, f"{column}_high": area.high}
        rows[name] = row
    return rows


def table(rows: Mapping[str, Mapping[str, str | float]]) -> str:
    """The same as lines of text."""

    def cell(row: Mapping[str, str | float], name: str) -> str:
        return f"{row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"

    lines = [["what judges are shown", OWN, REAL]]
    lines += [[str(row["shown"]), cell(row, OWN), cell(row, REAL)] for row in rows.values()]
    widths = [max(len(line[k]) for line in lines) for k in range(3)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)
