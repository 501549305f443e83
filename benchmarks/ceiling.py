"""How good can it sound? Real clips that nobody trained on, through each vocoder at hand.

    python benchmarks/ceiling.py --data-dir data --vocoders griffin-lim outputs/vocoder

No model sounds better than what its vocoder makes of real clips. This gives each vocoder's row in
the scores of `evaluate.py` (one set of classifiers for all of them), beside the distance of
log-mels, real and resynthesised, and the seconds a clip takes. The clips are those that a run of
the recipe holds out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import config  # noqa: E402
from soundgan import dataset  # noqa: E402
from soundgan.audio import BadVocoder, Transform, Vocoder, open_vocoder, read_clip  # noqa: E402
from soundgan.audio.vocoders import VOCODER_BATCH  # noqa: E402
from soundgan.config_io import change  # noqa: E402
from soundgan.console import friendly  # noqa: E402
from soundgan.dataset import Clips, Recording  # noqa: E402
from soundgan.errors import UserError, nearest  # noqa: E402
from soundgan.evaluation import scores  # noqa: E402
from soundgan.evaluation.evaluator import ROUND_TRIP, make_evaluator, round_trip  # noqa: E402
from soundgan.settings import GRIFFIN_LIM, Config  # noqa: E402
from soundgan.training.devices import explain_memory, pick_device  # noqa: E402


@dataclass(frozen=True)
class Options:
    """Measure the ceilings of vocoders."""

    vocoders: tuple[str, ...] = (GRIFFIN_LIM,)
    """griffin-lim, librosa, folders and hub names of HiFi-GANs, folders of BigVGANs."""
    recipe: str = config.RECIPE
    """Whose clips and spectrograms."""
    data_dir: str = config.RUN["data_dir"]
    """Folder of the real sounds."""
    output_dir: str = config.RUN["output_dir"]
    """Folder that holds the cache of decoded sounds, and of the classifiers."""
    holdout: float = config.RUN["holdout"]
    """Share of each class that is held out."""
    holdout_dir: str = config.RUN["holdout_dir"]
    """Folder of class folders to score; then all of DATA_DIR is what nobody trained on."""
    device: str = config.RUN["device"]
    """auto, cuda, cuda:1, cpu."""


def measure(options: Options) -> dict:
    """All rows, in the form that `scores.table` prints. Raises UserError."""
    cfg = config_of(options)
    device = pick_device(cfg)
    vocoders = [ready(cfg, name, device) for name in options.vocoders]
    clips = real_clips(cfg)
    split = dataset.split(cfg, clips, known=False, keep=False)
    print(split.said, flush=True)
    evaluator = make_evaluator(cfg, clips, split, vocoders[0], device)
    rows, notes = {evaluator.real: evaluator.rows[evaluator.real]}, []
    of_first = evaluator.rows[ROUND_TRIP.format(evaluator.real)]
    held_out = split.held_out or dataset.recordings(clips, split.training)
    for index, vocoder in enumerate(vocoders):
        row = round_trip(evaluator, clips, vocoder) if index else of_first
        rows[f"through {vocoder.name}"] = row
        error, seconds = distance(cfg, vocoder, held_out)
        notes.append(f"{vocoder.name}: log-mels differ by {error:.3f}, {seconds:.3g} s a clip.")
    size = len(evaluator.unseen.labels)
    return {
        "rows": {title: {"clips": size} | row for title, row in rows.items()},
        "few": list(rows) if size < scores.FEW else [],
        "notes": [*notes, *([] if split.held_out else [split.said])],
    }


def config_of(options: Options) -> Config:
    """The recipe, where its clips are; raises UserError where it has no vocoder to measure."""
    if options.recipe not in config.RECIPES:
        known = nearest(options.recipe, list(config.RECIPES))
        raise UserError(f"There is no recipe {options.recipe!r}: {known}")
    names = ("data_dir", "output_dir", "holdout", "holdout_dir", "device")
    own = {name: getattr(options, name) for name in names}
    cfg = change(config.RECIPES[options.recipe], own)
    if cfg.sound.raw:
        raise UserError(f"recipe = {options.recipe!r}: raw audio needs no vocoder (--recipe).")
    return cfg


def real_clips(cfg: Config) -> Clips:
    """The decoded clips; raises UserError where there are none."""
    found = dataset.find_clips(cfg)
    if not found.files:
        raise UserError(f"There are no sounds in {cfg.data_dir} (--data-dir).")
    return dataset.load(cfg, found)


def ready(cfg: Config, name: str, device: torch.device) -> Vocoder:
    """The vocoder of that name and no other; raises UserError with the reason."""
    try:
        return open_vocoder(change(cfg, {"vocoder": name}), device)
    except BadVocoder as reason:
        raise UserError(
            f"Vocoder {name} cannot be used: {reason}. Leave it out, or name another (--vocoders)."
        ) from reason


def distance(cfg: Config, vocoder: Vocoder, recordings: Sequence[Recording]) -> tuple[float, float]:
    """Mean absolute difference of real and resynthesised spectrograms, in the recipe's unit; and
    seconds a clip."""
    transform, total, seconds = Transform(cfg), 0.0, 0.0
    for first in range(0, len(recordings), VOCODER_BATCH):
        some = recordings[first : first + VOCODER_BATCH]
        waves = torch.stack([read_clip(cfg, r.path, r.number) for r in some])
        real = transform(waves)
        start = time.perf_counter()
        again = vocoder(real)[:, : waves.shape[1]]
        seconds += time.perf_counter() - start
        total += float((transform(again) - real).abs().mean()) * len(some)
    return total / len(recordings), seconds / len(recordings)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with friendly() as outcome:
        options = tyro.cli(Options, args=argv, description=__doc__)
        if not options.vocoders:
            raise UserError("Which vocoders? Name one at least (--vocoders griffin-lim).")
        with explain_memory("lower VOCODER_BATCH in soundgan/audio/vocoders.py"):
            print(scores.table(measure(options)))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
