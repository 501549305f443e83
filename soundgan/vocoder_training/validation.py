"""How near the vocoder comes to real clips it was not trained on, and what that sounds like."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from soundgan import files
from soundgan.audio import read_clip, write_wav
from soundgan.audio.vocoders import VOCODER_BATCH, level_restored
from soundgan.dataset import Clips, Split, recordings
from soundgan.evaluation.evaluator import spread_out
from soundgan.settings import Config
from soundgan.vocoder_training.run import Run


@torch.no_grad()
def resynthesise(run: Run, waves: Tensor) -> Tensor:
    """Clips `(B, (T - 1) * hop)` -> mels -> sound `(B, T * hop)`, on the CPU.

    What a run of `train.py` would play.
    """
    parts, sound = [], run.transform.cfg.sound
    for part in waves.split(VOCODER_BATCH):
        clips = run.transform(part.to(run.device))[:, 0]  # (B, M, T)
        parts.append(run.kind.play(run.generator, clips).cpu())
    waves = torch.cat(parts)
    return level_restored(waves) if sound.compression == "db" else waves


class Validation:
    """Real clips that the vocoder is not trained on: `held_out` to measure, `examples` to hear.

    Where nothing is held out they are clips that it trains on, and `held_out_mel` flatters.
    """

    def __init__(self, cfg: Config, clips: Clips, split: Split, count: int) -> None:
        """`cfg`: of the waveforms; `count`: clips that are measured. Raises UserError where one has
        gone since it was decoded."""
        trained_on = recordings(clips, split.training)
        held_out = split.held_out or trained_on
        self.classes, self.sample_rate = list(clips.classes), cfg.sound.sample_rate
        firsts = [
            next(r for r in (*held_out, *trained_on) if r.label == label)
            for label in range(len(self.classes))
        ]
        some = spread_out(held_out, count)
        self.examples, self.held_out = (
            torch.stack([read_clip(cfg, r.path, r.number) for r in which])
            for which in (firsts, some)
        )  # (K, L), one of each class; (count, L)

    def distance(self, run: Run) -> float:
        """Mean absolute difference of real and resynthesised clips, in their own unit (of ln:
        nepers, 8.7 dB each)."""
        total = 0.0
        for real in self.held_out.split(VOCODER_BATCH):
            again = resynthesise(run, real)[:, : real.shape[1]]
            one, other = (run.transform(waves.to(run.device)) for waves in (real, again))
            total += float((one - other).abs().mean()) * len(real)
        return total / len(self.held_out)

    def write_originals(self, run_dir: Path) -> None:
        """The examples as they are: `samples/original`."""
        self._write(run_dir / "samples" / "original", self.examples)

    def write(self, run: Run) -> None:
        """The examples through the vocoder: `samples/step_<step>`."""
        folder = run.run_dir / "samples" / f"step_{run.step:06d}"
        self._write(folder, resynthesise(run, self.examples)[:, : self.examples.shape[1]])

    def _write(self, folder: Path, waves: Tensor) -> None:
        with files.whole_folder(folder) as inside:
            for name, wave in zip(self.classes, waves):
                write_wav(inside / f"{name}.wav", wave, self.sample_rate)
