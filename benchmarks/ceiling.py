"""How good can it sound? Real clips that nobody trained on, through each vocoder at hand.

    python benchmarks/ceiling.py --data-dir data --vocoders griffin-lim outputs/vocoder

No model sounds better than what its vocoder makes of real clips. This gives each vocoder's row in
the scores of `evaluate.py` (one set of classifiers for all of them), and a table of its own:

- how well judges tell real clips through the vocoder from real clips as they are (area under the
  curve, 0.5: not at all; lowest and highest of three);
- how far the clips of its sound are from those it was given, and log spectra from those of the
  recordings (root mean square over the frequencies that the mel bands reach);
- processor seconds a sound.

The clips are those that a run of the recipe holds out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import Tensor

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
from soundgan.evaluation.evaluator import make_evaluator, round_trip  # noqa: E402
from soundgan.settings import GRIFFIN_LIM, Config  # noqa: E402
from soundgan.training.devices import explain_memory, pick_device  # noqa: E402

AREA = ("auc", "auc_low", "auc_high")  # in the scores: what judges tell
WINDOWS = (256, 1024, 2048)  # samples, of log spectra
QUIETEST = 1e-4  # magnitudes are clamped to this before the logarithm


@dataclass(frozen=True)
class Options:
    """Measure the ceilings of vocoders."""

    vocoders: tuple[str, ...] = (GRIFFIN_LIM,)
    """griffin-lim, librosa, folders of vocoders, hub names of HiFi-GANs."""
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
    rows = {evaluator.real: evaluator.rows[evaluator.real]}
    held_out = split.held_out or dataset.recordings(clips, split.training)
    found = []
    for vocoder in vocoders:
        row = round_trip(evaluator, clips, vocoder)
        rows[f"through {vocoder.name}"] = row
        found.append((vocoder.name, row, distances(cfg, vocoder, held_out)))
    size = len(evaluator.unseen.labels)
    return {
        "rows": {title: {"clips": size} | row for title, row in rows.items()},
        "few": list(rows) if size < scores.FEW else [],
        "notes": [*table(found), *([] if split.held_out else [split.said])],
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


class Distances(NamedTuple):
    """Means over clips."""

    clips: float  # mean absolute difference of clips, in the recipe's unit
    spectra: tuple[float, ...]  # nepers, one of each of WINDOWS
    seconds: float  # of the processor, a sound


def distances(cfg: Config, vocoder: Vocoder, recordings: Sequence[Recording]) -> Distances:
    """Real clips beside what a vocoder makes of them."""
    transform, count = Transform(cfg), len(recordings)
    off, spectra, seconds = 0.0, torch.zeros(len(WINDOWS)), 0.0
    for first in range(0, count, VOCODER_BATCH):
        some = recordings[first : first + VOCODER_BATCH]
        waves = torch.stack([read_clip(cfg, r.path, r.number) for r in some])
        clips = transform(waves)
        start = time.process_time()
        again = vocoder(clips)[:, : waves.shape[1]]
        seconds += time.process_time() - start
        off += float((transform(again) - clips).abs().mean()) * len(some)
        if cfg.sound.compression == "db":  # they know no level
            again = again * (waves.std(1) / again.std(1).clamp(min=1e-9))[:, None]
        spectra += torch.stack([spectral(cfg, waves, again, n) for n in WINDOWS]) * len(some)
    return Distances(off / count, tuple((spectra / count).tolist()), seconds / count)


def spectral(cfg: Config, real: Tensor, again: Tensor, window: int) -> Tensor:
    """Log-spectral distance of waveforms `(B, L)`: root mean square, nepers (8.7 dB each)."""
    shape = torch.hann_window(window)
    low, high = (
        int(edge / cfg.sound.sample_rate * window) for edge in (cfg.sound.f_min, cfg.sound.f_max)
    )
    one, other = (
        torch.stft(x, window, window // 4, window=shape, return_complex=True)[:, low : high + 1]
        .abs()
        .clamp(min=QUIETEST)
        .log()
        for x in (real, again)
    )
    return (one - other).square().mean().sqrt()


def table(found: Sequence[tuple[str, Mapping[str, float | None], Distances]]) -> list[str]:
    """Lines of a table in markdown, one row a vocoder: its name, its scores, its distances."""
    windows = ", ".join(map(str, WINDOWS))
    lines = [
        f"| vocoder | judges | clips differ by | spectra ({windows}) | CPU s a sound |",
        "|---|---|---|---|---|",
    ]
    for name, row, off in found:
        area = [row[key] for key in AREA]
        judged = "-" if None in area else "{:.2f} ({:.2f} to {:.2f})".format(*area)
        spectra = ", ".join(f"{value:.2f}" for value in off.spectra)
        lines.append(f"| {name} | {judged} | {off.clips:.3f} | {spectra} | {off.seconds:.3g} |")
    return lines


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
