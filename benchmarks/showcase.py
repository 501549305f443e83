"""A picture and a few sounds of a trained run, as the README shows them.

    python benchmarks/showcase.py outputs/best --classes dog_bark rooster --out docs

Writes OUT/samples.png, where each class is a column with a real clip above a generated one (the
first clip that the run was trained on, its first latent: none is picked; one colour scale), and
these generated sounds as OUT/sounds/<class>.mp3.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import tyro
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import config  # noqa: E402, F401 (the classes that a run's constants belong to)
from soundgan import dataset  # noqa: E402
from soundgan.audio import load_vocoder  # noqa: E402
from soundgan.models.loading import load_run  # noqa: E402
from soundgan.models.sampling import draw_latents, generate_clips  # noqa: E402
from soundgan.report.plots import HZ_TICKS, band_of  # noqa: E402
from soundgan.settings import Config  # noqa: E402


@dataclass(frozen=True)
class Options:
    """Show what a run makes."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, whose data are still where they were."""
    classes: tuple[str, ...]
    """The classes to show."""
    out: str = "docs"
    """Folder for samples.png and sounds/."""


def draw(path: Path, cfg: Config, columns: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Real and generated log-mels `(M, T)` of each class, into a PNG."""
    figure = Figure(figsize=(2.6 * len(columns), 4.4), dpi=100, layout="constrained")
    panels = figure.subplots(2, len(columns), sharex=True, sharey=True, squeeze=False)
    seconds, loudest = cfg.clip_seconds, max(float(real.max()) for real, _ in columns.values())
    for column, (name, pair) in zip(panels.T, columns.items()):
        column[0].set_title(name, fontsize=11)
        for axes, x in zip(column, pair):
            image = axes.imshow(
                x,
                origin="lower",
                aspect="auto",
                extent=(0, seconds, 0, len(x)),
                vmin=cfg.sound.quietest,
                vmax=loudest,
            )
    ticks = [hz for hz in HZ_TICKS if cfg.sound.f_min <= hz <= cfg.sound.f_max]
    for axes, title in zip(panels[:, 0], ("real", "generated")):
        axes.set_yticks([band_of(hz, cfg.sound) for hz in ticks], [str(hz) for hz in ticks])
        axes.set_ylabel(f"{title}\nHz")
    figure.supxlabel("seconds", fontsize=10)
    figure.colorbar(image, ax=panels, label="ln magnitude", shrink=0.9)
    figure.savefig(path)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    cfg, classes, generator = load_run(Path(options.run))
    if unknown := set(options.classes) - set(classes):
        sys.exit(f"{options.run} knows no class {', '.join(unknown)} (--classes).")
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    rows = dataset.split(cfg, clips, known=True, keep=False).training
    labels = np.array(clips.labels)[rows]
    vocoder, note = load_vocoder(cfg, torch.device("cpu"))
    print(note or f"Played by {vocoder.name}.")
    out, columns = Path(options.out), {}
    (out / "sounds").mkdir(parents=True, exist_ok=True)
    for name in options.classes:
        label = classes.index(name)
        z = draw_latents(cfg, 1, torch.Generator().manual_seed(0))  # (1, latent_dim)
        fake = generate_clips(generator, z, torch.tensor([label]))  # (1, 1, M, T)
        real = clips.data[rows[np.argmax(labels == label)], 0]
        columns[name] = (real, fake[0, 0].numpy())
        wave = vocoder(fake)[0].numpy()
        wave = wave * min(1.0, 0.8 / np.abs(wave).max())  # MP3 may overshoot by a quarter
        soundfile.write(out / "sounds" / f"{name}.mp3", wave, cfg.sound.sample_rate)
    draw(out / "samples.png", cfg, columns)


if __name__ == "__main__":
    main()
