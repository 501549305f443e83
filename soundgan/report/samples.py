"""The sets of sounds and pictures below `samples/`.

The latents are the same every time, so that what changes from set to set is the model. A set is
made beside its place and renamed into it: a folder that exists is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from soundgan.audio import read_clip, write_wav
from soundgan.audio.vocoders import Vocoder
from soundgan.dataset import Clips, recordings
from soundgan.files import whole_folder
from soundgan.models.sampling import draw_latents, generate_clips
from soundgan.report import plots
from soundgan.settings import Config

UNCONDITIONAL = 8  # sounds of a set where there are no classes


def samples_of(classes: Sequence[str]) -> list[str]:
    """Names of the sounds of one set: the classes, or numbers where there are none."""
    return list(classes) or [f"sample_{k}" for k in range(UNCONDITIONAL)]


class Samples:
    """Writes the sets of a run, of K sounds each."""

    def __init__(
        self, cfg: Config, classes: Sequence[str], clips: Clips, rows: np.ndarray, vocoder: Vocoder
    ) -> None:
        """`rows`: indices of the clips that are trained on; the real ones shown are of these."""
        self.cfg, self.vocoder = cfg, vocoder
        self.names = samples_of(classes)
        if cfg.conditional:
            labels = np.array(clips.labels)
            # Of a class whose only clips are held out, one of these.
            order = np.concatenate([rows, np.setdiff1d(np.arange(len(labels)), rows)])
            real = [order[np.argmax(labels[order] == k)] for k in range(len(self.names))]
        else:
            real = [rows[k * len(rows) // len(self.names)] for k in range(len(self.names))]
        self.recordings = recordings(clips, real)
        self.real = torch.from_numpy(np.array(clips.data[real]))  # (K, 1, *S)
        generator = torch.Generator().manual_seed(cfg.seed)
        self.z = draw_latents(cfg, len(self.names), generator)  # (K, latent_dim)

    @staticmethod
    def path(cfg: Config, epoch: int) -> Path:
        """Folder of the set of an epoch."""
        return cfg.run_dir / "samples" / f"epoch_{epoch:04d}"

    def write_real(self) -> None:
        """One real clip a class, and the same through the vocoder: the best that it can do.

        Raises UserError where the file of one of them has gone.
        """
        folder = self.cfg.run_dir / "samples"
        panels = [{f"{name}: real": x[0].numpy()} for name, x in zip(self.names, self.real)]
        self._write(folder / "real", self.vocoder(self.real), panels)
        clips = torch.stack([read_clip(self.cfg, r.path, r.number) for r in self.recordings])
        rest = self.cfg.sound.wav_samples - clips.shape[1]  # as long as what comes of a vocoder
        self._write(folder / "original", nn.functional.pad(clips, (0, rest)), [])

    def write(self, generator: nn.Module, epoch: int) -> None:
        """What a generator makes, each picture beside the real clip on one colour scale."""
        device = next(generator.parameters()).device
        labels = torch.arange(len(self.names), device=device)
        fake = generate_clips(generator, self.z.to(device), labels)  # (K, 1, *S)
        panels = [
            {f"{name}: real": x[0].numpy(), f"generated, epoch {epoch}": y[0].numpy()}
            for name, x, y in zip(self.names, self.real, fake)
        ]
        self._write(self.path(self.cfg, epoch), self.vocoder(fake), panels)

    def _write(self, folder: Path, waves: Tensor, panels: list[dict[str, np.ndarray]]) -> None:
        """Write `waves (K, L)` and their pictures, if there are any."""
        with whole_folder(folder) as inside:
            for name, wave in zip(self.names, waves):
                write_wav(inside / f"{name}.wav", wave, self.cfg.sound.sample_rate)
            if panels:
                plots.draw_set([inside / f"{n}.png" for n in self.names], panels, self.cfg)
