"""How good can it sound? Real clips that nobody trained on, through each vocoder at hand.

    python benchmarks/ceiling.py --data-dir data --vocoders griffin-lim outputs/vocoder

No model sounds better than what its vocoder makes of real clips. This gives each vocoder's row in
the scores of `evaluate.py` (one set of classifiers for all of them), beside the distance of
log-mels, real and copy, and the seconds a clip takes. The clips are those that a run of the recipe
holds out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
import audio  # noqa: E402
import config  # noqa: E402
import dataset  # noqa: E402
import runs  # noqa: E402
import scores  # noqa: E402
from config import Config, UserError  # noqa: E402


@dataclass(frozen=True)
class Options:
    """Measure the ceilings of vocoders."""

    vocoders: tuple[str, ...] = (config.GRIFFIN_LIM,)
    """griffin-lim, librosa, folders and hub names of HiFi-GANs, folders of BigVGANs."""
    recipe: str = config.RECIPE
    """Whose clips and spectrograms."""
    data_dir: str = Config.data_dir
    """Folder of the real sounds."""
    output_dir: str = Config.output_dir
    """Folder that holds the cache of decoded sounds, and of the classifiers."""
    holdout: float = Config.holdout
    """Share of each class that is held out."""
    holdout_dir: str = Config.holdout_dir
    """Folder of class folders to score; then all of DATA_DIR is what nobody trained on."""
    device: str = Config.device
    """auto, cuda, cuda:1, cpu."""


def measure(options: Options) -> dict:
    """All rows, as the part of a card that `scores.table` prints. Raises UserError."""
    if options.recipe not in config.RECIPES:
        known = config.nearest(options.recipe, list(config.RECIPES))
        raise UserError(f"There is no recipe {options.recipe!r}: {known}")
    names = ("data_dir", "output_dir", "holdout", "holdout_dir", "device")
    own = {name: getattr(options, name) for name in names}
    cfg = replace(config.RECIPES[options.recipe], **own)
    if cfg.representation != "mel":
        raise UserError(f"recipe = {options.recipe!r}: raw audio needs no vocoder (--recipe).")
    device = runs.pick_device(cfg)
    vocoders = [ready(cfg, name, device) for name in options.vocoders]
    found = dataset.find_clips(cfg)
    if not found.files:
        raise UserError(f"There are no sounds in {cfg.data_dir} (--data-dir).")
    clips = dataset.load(cfg, found)
    split = dataset.split(cfg, clips, known=False, keep=False)
    print(split.said, flush=True)
    yard = scores.make_yardstick(cfg, clips, split, vocoders[0], device)
    rows, notes = {yard.real: yard.rows[yard.real]}, []
    apart = split.held_out or dataset.recordings(clips, split.training)
    of_first = yard.rows[scores.ROUND_TRIP.format(yard.real)]
    for index, vocoder in enumerate(vocoders):
        row = scores.round_trip(yard, clips, vocoder) if index else of_first
        rows[f"through {vocoder.name}"] = row
        error, seconds = distance(cfg, vocoder, apart)
        notes.append(f"{vocoder.name}: log-mels differ by {error:.3f}, {seconds:.3g} s a clip.")
    size = len(yard.unseen.labels)
    return {
        "rows": {title: {"clips": size} | row for title, row in rows.items()},
        "few": list(rows) if size < config.SCORE_FEW else [],
        "notes": [*notes, *([] if split.held_out else [split.said])],
    }


def ready(cfg: Config, name: str, device: torch.device) -> audio.Vocoder:
    """The vocoder of that name and no other; raises UserError with the reason."""
    try:
        return audio.open_vocoder(replace(cfg, vocoder=name), device)
    except audio.BadVocoder as reason:
        raise UserError(
            f"Vocoder {name} cannot be used: {reason}. Leave it out, or name a folder that holds "
            f"{audio.FORMS} (--vocoders)."
        ) from reason


def distance(
    cfg: Config, vocoder: audio.Vocoder, apart: list[dataset.Recording]
) -> tuple[float, float]:
    """Mean absolute difference of real and copied spectrograms, in the recipe's unit; s a clip."""
    transform, total, seconds = audio.Transform(cfg), 0.0, 0.0
    for first in range(0, len(apart), config.VOCODER_BATCH):
        some = apart[first : first + config.VOCODER_BATCH]
        waves = torch.stack([audio.read_clip(cfg, r.path, r.number) for r in some])
        real = transform(waves)
        start = time.perf_counter()
        back = vocoder(real)[:, : waves.shape[1]]
        seconds += time.perf_counter() - start
        total += float((transform(back) - real).abs().mean()) * len(some)
    return total / len(apart), seconds / len(apart)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with runs.friendly() as outcome:
        options = tyro.cli(Options, args=argv, description=__doc__)
        if not options.vocoders:
            raise UserError("Which vocoders? Name one at least (--vocoders griffin-lim).")
        with runs.explain_memory("lower VOCODER_BATCH in config.py"):
            print(scores.table(measure(options)))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
