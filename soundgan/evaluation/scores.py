"""How good are the generated sounds? The content of scores.json, and how it is shown.

The figures come from waveforms, beside the same figures for real sounds: no network is downloaded.
"""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor, nn

from soundgan import files
from soundgan.audio import Vocoder, vocoders
from soundgan.evaluation import give_away, metrics
from soundgan.evaluation.evaluator import Evaluator
from soundgan.evaluation.features import measure
from soundgan.evaluation.sides import divide
from soundgan.models.sampling import draw_latents, generate_clips
from soundgan.settings import Config

FEW = 50  # clips below which a row is marked as uncertain
COLLAPSE = 0.3  # diversity of a class, as a share of real clips', below which it is named
COPY_Z = -3.0  # copying is named below this
LOUDEST = 1e6  # samples beyond which a sound is none (full scale is 1)
UNCERTAIN = f"* from fewer than {FEW} clips: uncertain"

SCORES = tuple(metrics.METRICS)  # one row of figures; also the columns of scores.csv
MEANINGS = {name: metric.meaning for name, metric in metrics.METRICS.items()}
HEADLINE = tuple(name for name, metric in metrics.METRICS.items() if metric.headline)
GENERATED = "generated"  # the row of what is scored


def score(cfg: Config, generator: nn.Module, vocoder: Vocoder, evaluator: Evaluator) -> dict:
    """Generate, vocode and measure; returns the content of scores.json but for the epoch.

    Always of the same latents, and with a random state of its own: scoring changes nothing.
    """
    device = next(generator.parameters()).device
    labels = evaluator.labels  # (N,)
    z = draw_latents(cfg, len(labels), torch.Generator().manual_seed(cfg.seed + 1))
    parts = zip(z.split(vocoders.VOCODER_BATCH), labels.split(vocoders.VOCODER_BATCH))
    waves = [vocoder(generate_clips(generator, a.to(device), b.to(device))) for a, b in parts]
    return score_waves(evaluator, torch.cat(waves))


def score_waves(evaluator: Evaluator, waves: Tensor) -> dict:
    """All that is known of `waves (N, L)`, made for `evaluator.labels`: most of scores.json."""
    cfg, split = evaluator.cfg, evaluator.split
    intended = cfg.conditional
    broken = ~(waves.abs().amax(1) <= LOUDEST)  # NaN is no less
    waves = waves.masked_fill(broken[:, None], 0.0)
    sounds = measure(cfg, waves, evaluator.labels)
    areas = give_away.areas(evaluator.sides, sounds.x)
    teaching = evaluator.teach(sounds) if intended else None
    comparison = evaluator.compare(sounds, intended, teaching, areas[give_away.WHOLE])
    rows = {GENERATED: metrics.figures(comparison), **evaluator.rows}
    sizes = {n: len((sounds if n == GENERATED else evaluator.unseen).labels) for n in rows}
    many = intended and len(evaluator.classes) > 1
    table = evaluator.per_class(comparison) if many else {}
    return {
        "on": "sound" if cfg.sound.raw else f"sound, by {evaluator.vocoder}",
        "held_out": {
            "clips": len(split.held_out),
            "training_clips": len(split.training),
            "by": split.said,
        },
        "rows": {name: {"clips": sizes[name]} | row for name, row in rows.items()},
        "few": [name for name, size in sizes.items() if size < FEW],
        "at_a_time": int(evaluator.at_a_time.sum()),
        "per_class": table,
        "give_away": give_away.compared(areas, evaluator.areas),
        "notes": _notes(evaluator, rows[GENERATED], table, int(broken.sum())),
        "headline": HEADLINE,
        "meanings": MEANINGS,
    }


def _notes(evaluator: Evaluator, made: dict, table: dict, broken: int) -> list[str]:
    sized = [name for name, metric in metrics.METRICS.items() if metric.of == "draw"]
    notes = [
        f"Means over {len(evaluator.classifiers)} classifiers trained on "
        f"{len(evaluator.training.labels)} real training clips, to which every row is compared. "
        f"{', '.join(sized).capitalize()} and sliced are of "
        f"{evaluator.at_a_time.sum()} sounds at a time."
    ]
    if evaluator.areas[give_away.WHOLE]:
        notes.append(_judges(evaluator))
    if not evaluator.split.held_out:
        notes.append(
            f"{evaluator.split.said} The classifiers know those: the real rows flatter, and copies "
            "cannot be told. Judges are tried on real clips that they do not know."
        )
    if len(evaluator.classes) < 2:
        notes.append(
            "There is one class: the classifiers learnt to tell groups of similar clips apart, "
            "and figures about classes are left out."
        )
    if lacking := [name for name in SCORES if made[name] is None and _applies(name, evaluator)]:
        notes.append(
            f"No figure for {', '.join(lacking)}: there are too few clips, or they are copies of "
            "each other."
        )
    if broken:
        notes.append(
            f"{broken} generated sounds hold values that are no numbers, or beyond {LOUDEST:g}: "
            "they count as silent."
        )
    spreads = {name: own["diversity"] for name, own in table.items()}
    if flat := [name for name, own in spreads.items() if own is not None and own < COLLAPSE]:
        notes.append(
            f"Collapse: the sounds of {', '.join(flat)} are less than {COLLAPSE:g} times as "
            "different from each other as real ones."
        )
    if made["copy_z"] is not None and made["copy_z"] < COPY_Z:
        notes.append(
            "Copying: generated sounds lie nearer to training clips than unseen real ones do "
            f"(ratio {made['copy_ratio']:.2f}, z {made['copy_z']:.1f})."
        )
    return notes


def _judges(evaluator: Evaluator) -> str:
    """What the areas under the curve are of."""
    rows = divide(evaluator.sides, (0, 0))
    tried = len(evaluator.sides.unseen) or len(rows.real_tried)
    vocoded = "" if evaluator.cfg.sound.raw else " through the vocoder"
    return (
        f"Auc: judges learn from about {len(rows.real)} real clips{vocoded} and {len(rows.other)} "
        f"others, and are tried on {tried} and {len(rows.other_tried)}, of other sources. 0.5 is "
        f"chance, and what real sounds{vocoded} reach."
    )


def _applies(name: str, evaluator: Evaluator) -> bool:
    """Whether a figure has a meaning for this run, if there are enough clips."""
    if name in ("accuracy", "cas", "inception"):
        return len(evaluator.classes) > 1 and (evaluator.cfg.conditional or name == "inception")
    return bool(evaluator.split.held_out) or not name.startswith("copy_")


# ---- writing and showing them -------------------------------------------------------------------


def write_scores(cfg: Config, epoch: int, step: int, weights: str, scores: dict) -> None:
    """Write `scores.json` of a run; `weights`: last or best. What is no number becomes null."""
    about = {"recipe": cfg.recipe, "epoch": epoch, "step": step, "weights": weights}
    content = json.dumps(_without_nan(about | scores), indent=2, allow_nan=False)
    files.write_bytes(cfg.run_dir / "scores.json", content.encode())


def _without_nan(value: object) -> object:
    """The same content, with None for each NaN or infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _without_nan(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def in_short(epoch: int, scores: dict) -> str:
    """The figures that matter most in one line, each with that of unseen real sounds."""
    made, real = list(scores["rows"].values())[:2]
    if whole := scores.get("give_away", {}).get(give_away.WHOLE):  # not how well a vocoder is told
        real = real | {"auc": whole[give_away.REAL]}
    figures = [
        f"{name} {made[name]:.3g} ({_cell(real[name])})"
        for name in HEADLINE
        if made[name] is not None
    ]
    of = _starred(list(scores["rows"])[1], scores)
    if not figures:
        return f"Scores after epoch {epoch}: there are too few clips for figures."
    line = f"Scores after epoch {epoch} (in brackets: {of}): {', '.join(figures)}"
    return f"{line} ({UNCERTAIN})" if scores["few"] else line


def _starred(title: str, scores: dict) -> str:
    """The title of a row, with a star where its figures are uncertain."""
    return f"{title}*" if title in scores["few"] else title


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def table(scores: dict) -> str:
    """The rows of scores as lines of text, what is uncertain marked with a star."""
    names = [n for n in SCORES if any(row[n] is not None for row in scores["rows"].values())]
    lines = [["", "clips", *names]]
    for title, row in scores["rows"].items():
        cells = [_cell(row[name]) for name in names]
        lines.append([_starred(title, scores), str(row["clips"]), *cells])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines]
    if scores["few"]:
        text.append(UNCERTAIN)
    if rows := scores.get("give_away"):
        text += ["", give_away.table(rows), ""]
    return "\n".join([*text, *scores["notes"]])
