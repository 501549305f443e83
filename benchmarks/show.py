"""What `compare.py` found, to look at: a table, scores over time, and sounds side by side.

    python benchmarks/show.py --out compare --pictures best sn-wgan-gp

Prints OUT/scores.csv as Markdown, each variant at its last minute (or that of --minutes) and each
figure with its lowest and highest seed, and says whether those that depend on the number of sounds
are of equally many. Bold is what a variant has beyond the spread of seeds.
Writes OUT/scores.png, a curve each recipe (black: real clips, as its recipe cuts them, of the
first); OUT/parts.png, where recipes with constants changed stand below themselves, a dot each seed;
and OUT/sounds.png, where each class is a row: a real clip, and one clip of each variant in
--pictures (first seed, first latent; none: no such picture).
"""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from scipy.stats import t

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from compare import AT_A_TIME, FLATTEST, real_row, rows_of, run_name  # noqa: E402

import config  # noqa: E402, F401 (the classes that a run's constants belong to)
from soundgan import dataset  # noqa: E402
from soundgan.evaluation.evaluator import REAL, ROUND_TRIP  # noqa: E402
from soundgan.evaluation.scores import HEADLINE  # noqa: E402
from soundgan.models.loading import load_run  # noqa: E402
from soundgan.models.sampling import draw_latents, generate_clips  # noqa: E402

FIGURES = (*HEADLINE, "copy_ratio", "diversity", FLATTEST)
FALLING = ("frechet", "kernel")  # from hundreds to almost nothing
PARTS = ("frechet", "accuracy", "coverage", "copy_ratio")  # of variants beside their recipe
LONGEST_LABEL = 40  # characters of a line


@dataclass(frozen=True)
class Options:
    """Show what compare.py found."""

    out: str = "compare"
    """Its folder."""
    pictures: tuple[str, ...] = ("best", "sn-wgan-gp")
    """Variants whose sounds are drawn beside real ones; their runs must still be in OUT."""
    minutes: float = 0.0
    """Of the table and of parts.png: only what was scored then; 0: what was scored last."""


@dataclass(frozen=True)
class Curve:
    """One variant: its minutes, and of each figure the values by minute and seed."""

    name: str
    minutes: list[float]
    figures: dict[str, list[list[float]]]

    @property
    def is_real(self) -> bool:
        return self.name.startswith(REAL)

    @property
    def recipe(self) -> str:
        return self.name.partition(":")[0]

    def at(self, figure: str, place: int) -> tuple[float, float, float]:
        """Mean, lowest and highest over the seeds."""
        values = self.figures[figure][place] or [math.nan]
        return float(np.mean(values)), min(values), max(values)


def curves(rows: Sequence[dict[str, str]]) -> list[Curve]:
    """Those of scores.csv, in its order, with the figures that it has."""
    found = []
    names = [name for name in FIGURES if rows and name in rows[0]]
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        minutes = sorted({float(row["minutes"]) for row in own})
        figures = {
            figure: [
                [float(r[figure]) for r in own if float(r["minutes"]) == minute and r[figure]]
                for minute in minutes
            ]
            for figure in names
        }
        found.append(Curve(name, minutes, figures))
    return found


def is_beyond(values: Sequence[float], own: Sequence[float], known: Sequence[list[float]]) -> bool:
    """Whether a variant's mean lies so far from its recipe's (`own`) as seeds alone would take two
    of the same in less than 5 % of cases: Student's t, with one deviation for all variants of the
    recipe (`known`, the seeds of each). Never where that has fewer than two degrees of freedom: two
    seeds that happen to agree would make anything else an effect.
    """
    freedom = sum(len(seeds) - 1 for seeds in known if seeds)
    if freedom < 2 or not (values and own):
        return False
    squares = sum(float(np.var(seeds)) * len(seeds) for seeds in known if seeds)
    least = t.ppf(0.975, freedom) * (squares / freedom * (1 / len(values) + 1 / len(own))) ** 0.5
    return bool(abs(np.mean(values) - np.mean(own)) > least)


def table(found: Sequence[Curve]) -> str:
    """Markdown: a row each variant, at its last minute."""
    names = list(found[0].figures)
    lines = [["", "minutes", "seeds", *names], ["---"] * (3 + len(names))]
    for curve in found:
        cells = []
        then = [c for c in found if c.minutes[-1] == curve.minutes[-1]]
        family = [c for c in then if c.recipe == curve.recipe]
        for figure in names:
            mean, low, high = curve.at(figure, -1)
            spread = f" ({low:.3g} to {high:.3g})" if high > low else ""
            cell = "-" if math.isnan(mean) else f"{mean:.3g}{spread}"
            # A deviation of 3 means something else at 200 than at 10.
            scale = np.arcsinh if figure in FALLING else np.asarray
            known = {c.name: scale(c.figures[figure][-1]).tolist() for c in family}
            own = known.get(curve.recipe, [])
            bold = is_beyond(known[curve.name], own, [*known.values()])
            cells.append(f"**{cell}**" if bold else cell)
        seeds = str(max(len(values[-1]) for values in curve.figures.values()))
        minutes = "" if curve.is_real else f"{curve.minutes[-1]:g}"
        lines.append([curve.name, minutes, seeds, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def numbers(rows: Sequence[dict[str, str]]) -> str:
    """Of how many sounds the figures are that depend on their number; whether rows differ in it."""
    known = {row["variant"]: row.get(AT_A_TIME) or "?" for row in rows}
    if len({*known.values()}) == 1:
        (number,) = {*known.values()}
        return "" if number == "?" else f"Frechet distance and coverage: of {number} sounds a row."
    said = ", ".join(f"{name}: {number}" for name, number in known.items())
    return f"Frechet distance and coverage cannot be compared between these rows ({said} sounds)."


def draw_curves(path: Path, found: Sequence[Curve]) -> None:
    names = list(found[0].figures)
    figure = Figure(figsize=(12, 6), dpi=100, layout="constrained")
    panels = figure.subplots(2, math.ceil((len(names) + 1) / 2)).flat
    trained = [curve for curve in found if not curve.is_real]
    trained = [curve for curve in trained if curve.name == curve.recipe] or trained
    beside = [real_row(row, trained[0].name) for row in (REAL, ROUND_TRIP.format(REAL))]
    real = [curve for curve in found if curve.name in beside]
    for name, axes in zip(names, panels):
        for curve, style in zip(real, ("--", ":")):
            axes.axhline(curve.at(name, -1)[0], color="black", ls=style, label=curve.name)
        for number, curve in enumerate(trained):
            mean, low, high = zip(*(curve.at(name, k) for k in range(len(curve.minutes))))
            axes.plot(curve.minutes, mean, "o-", ms=3, color=f"C{number}", label=curve.name)
            axes.fill_between(curve.minutes, low, high, color=f"C{number}", alpha=0.2, lw=0)
        if name in FALLING:
            axes.set_yscale("symlog", linthresh=1)
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(name)
        axes.set_xlabel("minutes of training")
    for axes in panels:
        axes.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend = figure.axes[-1].legend(handles, labels, loc="center right")
    legend.set_in_layout(False)  # long names would squeeze the panels above it
    figure.savefig(path)


def draw_parts(path: Path, found: Sequence[Curve]) -> None:
    """A row of panels each recipe with changed constants; grey: from its worst to its best seed."""
    blocks = [[own, *(c for c in found if c.recipe == own.name and c is not own)] for own in found]
    blocks = [block for block in blocks if len(block) > 1]
    if not blocks:
        return
    lines = [len(block) for block in blocks]
    figure = Figure(figsize=(13, 1.6 + 0.36 * sum(lines)), dpi=100, layout="constrained")
    shape = {"height_ratios": lines, "sharex": "col", "squeeze": False}
    panels = figure.subplots(len(blocks), len(PARTS), **shape)
    for block, row in zip(blocks, panels):
        labels = [textwrap.fill(_label(c), LONGEST_LABEL, max_lines=2) for c in block]
        for name, axes in zip(PARTS, row):
            _, low, high = block[0].at(name, -1)
            axes.axvspan(low, high, color="black", alpha=0.15, lw=0)
            axes.axvline(block[0].at(name, -1)[0], color="black", lw=0.8)
            for place, curve in enumerate(block):
                values = curve.figures[name][-1]
                axes.plot(values, [place] * len(values), "o", ms=4, color=f"C{place > 0:d}")
            if name in FALLING:
                axes.set_xscale("log")
            axes.set_yticks(range(len(block)), labels if axes is row[0] else [], fontsize=7)
            axes.set_ylim(len(block) - 0.5, -0.5)
            axes.grid(axis="y", alpha=0.3)
            axes.set_title(f"{name}, {block[0].name}", fontsize=9)
    figure.savefig(path)


def _label(curve: Curve) -> str:
    """What a variant changes."""
    return curve.name.removeprefix(f"{curve.recipe}:").replace(",", ", ")


def draw_sounds(path: Path, runs_: Sequence[Path]) -> None:
    """Spectrograms, one colour scale for all of them."""
    columns: dict[str, torch.Tensor] = {}
    for run_dir in runs_:
        cfg, classes, generator = load_run(run_dir, "last")
        labels = torch.arange(len(classes))
        if not columns:
            clips = dataset.load(cfg, dataset.find_clips(cfg))
            first = [int(np.argmax(np.array(clips.labels) == k)) for k in labels.tolist()]
            columns["real"] = torch.from_numpy(np.array(clips.data[first]))
        z = draw_latents(cfg, len(classes), torch.Generator().manual_seed(0))
        columns[run_dir.name] = generate_clips(generator, z, labels)
    rows = len(classes)
    figure = Figure(figsize=(3.6 * len(columns), 1.1 * rows), dpi=100, layout="constrained")
    panels = figure.subplots(rows, len(columns), squeeze=False)
    loudest = float(columns["real"].max())
    for column, (title, sounds) in zip(panels.T, columns.items()):
        column[0].set_title(title, fontsize=9)
        for axes, sound in zip(column, sounds):
            axes.imshow(
                sound[0].numpy(),
                origin="lower",
                aspect="auto",
                vmin=cfg.sound.quietest,
                vmax=loudest,
            )
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, name in zip(panels[:, 0], classes):
        axes.set_ylabel(name, fontsize=7)
    figure.savefig(path)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    out = Path(options.out)
    rows = rows_of(out / "scores.csv")
    if not rows:
        sys.exit(f"{out / 'scores.csv'} holds no scores: run benchmarks/compare.py --out {out}.")
    draw_curves(out / "scores.png", curves(rows))
    shown = curves([row for row in rows if options.minutes in (0.0, float(row["minutes"]))])
    if not shown:
        sys.exit(f"Nothing in {out / 'scores.csv'} was scored then (--minutes).")
    print(table(shown))
    if said := numbers(rows):
        print(f"\n{said}")
    draw_parts(out / "parts.png", shown)
    if not options.pictures:
        return
    folders = [out / run_name(variant, int(rows[0]["seed"])) for variant in options.pictures]
    if lacking := [str(folder) for folder in folders if not folder.is_dir()]:
        sys.exit(f"No pictures: there is no {', '.join(lacking)} (--pictures).")
    draw_sounds(out / "sounds.png", folders)


if __name__ == "__main__":
    main()
