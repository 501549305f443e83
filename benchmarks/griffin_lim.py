"""Griffin-Lim in many forms, on real clips: which is nearest, and how long each takes.

    python benchmarks/griffin_lim.py --data-dir data --clips 40

What is compared: momentum, iterations, the phases that it starts from, and what is done with mel
bands, which are no magnitudes yet:

- `least squares`: magnitudes from the bands by least squares, negative ones set to zero, and then
  kept (torchaudio's `InverseMelScale` and `GriffinLim`, in their own code or in this program's);
- `non-negative`: the same by 100 multiplicative updates (Lee & Seung 2001);
- `followed`: magnitudes move with the phases towards the bands (`soundgan/audio/griffin_lim.py`).

Phases start `random`, from `peaks` (single-pass spectrogram inversion: Beauregard, Harish & Wyse
2015), or from `slopes`: integrated over time from what the logarithm of the magnitudes says of them
(Prusa, Balazs & Søndergaard 2017, equation 4, without the way across frequencies and its heap).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ceiling
import torch
import torchaudio
import tyro
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import config  # noqa: E402
from soundgan import dataset  # noqa: E402
from soundgan.audio import GriffinLim, expand  # noqa: E402
from soundgan.audio.griffin_lim import Magnitudes, Mels, random_phases, retrieve  # noqa: E402
from soundgan.audio.transform import mel_bands  # noqa: E402
from soundgan.console import friendly  # noqa: E402
from soundgan.evaluation.evaluator import spread_out  # noqa: E402
from soundgan.settings import Config  # noqa: E402

CPU = torch.device("cpu")
UPDATES = 100  # of the non-negative inversion
WIDTH = 0.25645  # of a Hann window, as a Gaussian's: Prusa et al., table I


@dataclass(frozen=True)
class Options:
    """Compare forms of Griffin-Lim."""

    recipe: str = "best"
    """Whose clips and spectrograms."""
    data_dir: str = config.RUN["data_dir"]
    """Folder of the real sounds; all of them may be taken."""
    output_dir: str = config.RUN["output_dir"]
    """Folder that holds the cache of decoded sounds."""
    clips: int = 40
    """Clips, spread over the classes."""
    forms: tuple[str, ...] = ()
    """Those whose names hold one of these texts; none: all."""


class Forms:
    """The forms, each a function of mel bands `(M, T)` -> waveform."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.sound = cfg, cfg.sound
        vocoder = GriffinLim(cfg, CPU)
        self.bank, self.short_time = vocoder.bank, vocoder.short_time
        self.frequencies = cfg.sound.n_fft // 2 + 1
        self.to_linear = torchaudio.transforms.InverseMelScale(
            n_stft=self.frequencies, driver="gelsd", **mel_bands(cfg.sound)
        )

    def all(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Names and functions."""
        yield "torchaudio, least squares, 64, momentum 0.99", self.torchaudios
        for momentum in (0.0, 0.9, 0.99, 1.3):
            yield f"least squares, 64, momentum {momentum}", self.kept(64, momentum)
        for count in (16, 32, 128, 256):
            yield f"least squares, {count}, momentum 0.99", self.kept(count, 0.99)
        yield (
            "non-negative, 64, momentum 0.99",
            self.kept(64, 0.99, magnitudes=self.non_negative),
        )
        for momentum in (0.0, 0.8, 0.9, 0.95, 0.99, 1.05, 1.3):
            yield f"followed, 64, momentum {momentum}", self.followed(64, momentum)
        for count in (16, 32, 128, 256):
            yield f"followed, {count}, momentum 0.95", self.followed(count, 0.95)
        for name, phases in (("peaks", self.peaks), ("slopes", self.slopes)):
            for count in (16, 64):
                yield (
                    f"followed, {count}, momentum 0.95, {name}",
                    self.followed(count, 0.95, phases),
                )

    def torchaudios(self, mel: Tensor) -> Tensor:
        torch.manual_seed(0)
        sound = self.sound
        return torchaudio.transforms.GriffinLim(
            n_fft=sound.n_fft, hop_length=sound.hop, power=sound.power, n_iter=64
        )(self.to_linear(mel))

    def least_squares(self, mel: Tensor) -> Tensor:
        """Magnitudes `(T, F)`."""
        return self.to_linear(mel).T.pow(1 / self.sound.power).contiguous()

    def non_negative(self, mel: Tensor) -> Tensor:
        """Magnitudes `(T, F)`, zero where no band is."""
        wanted = mel.T.contiguous()
        magnitudes = self.bank.start(wanted)
        for _ in range(UPDATES):
            there = magnitudes.pow(self.sound.power) @ self.bank.bands
            magnitudes = magnitudes * self.bank.gains(wanted, there)
        lacking = self.frequencies - self.bank.top
        return torch.nn.functional.pad(magnitudes, (0, lacking))

    def random(self, mel: Tensor, count: int) -> Tensor:
        return random_phases(mel.shape[1], count)

    def peaks(self, mel: Tensor, count: int) -> Tensor:
        """Each frequency turns as fast as the nearest peak of its frame; neighbours of a peak are
        half a turn apart."""
        level = self.least_squares(mel)[:, :count]
        here = torch.arange(count).expand(level.shape)
        left, own, right = level[:, :-2], level[:, 1:-1], level[:, 2:]
        peak = torch.zeros_like(level, dtype=torch.bool)
        peak[:, 1:-1] = (own > left) & (own >= right)
        offset, curve = torch.zeros_like(level), left - 2 * own + right
        curve = torch.where(curve.abs() > 1e-12, curve, torch.ones_like(curve))
        offset[:, 1:-1] = (0.5 * (left - right) / curve).clamp(-0.5, 0.5)  # of a parabola's top
        below = torch.where(peak, here, -count).cummax(1).values
        above = torch.where(peak, here, 2 * count).flip(1).cummin(1).values.flip(1)
        nearest = torch.where(here - below <= above - here, below, above).clamp(0, count - 1)
        cycles = (nearest + offset.gather(1, nearest)) * (self.sound.hop / self.sound.n_fft)
        return _turned(cycles.double().cumsum(0) + ((here - nearest) % 2) / 2)

    def slopes(self, mel: Tensor, count: int) -> Tensor:
        """The rate of each frequency from the slope of its log magnitude along frequency."""
        level = self.least_squares(mel)[:, :count].clamp(min=1e-7).log().double()
        slope = torch.zeros_like(level)
        slope[:, 1:-1] = (level[:, 2:] - level[:, :-2]) / 2
        size, hop = self.sound.n_fft, self.sound.hop
        radians = 2 * math.pi * hop / size * torch.arange(count) + slope * hop / (WIDTH * size)
        return _turned(radians.cumsum(0) / (2 * math.pi))

    def kept(
        self, count: int, momentum: float, magnitudes: Callable[[Tensor], Tensor] | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Griffin-Lim on magnitudes that are estimated once."""

        def play(mel: Tensor) -> Tensor:
            level = (magnitudes or self.least_squares)(mel)[None]
            start = level * self.random(mel, level.shape[2])
            return retrieve(self.short_time, Magnitudes(level), start, count, momentum)

        return play

    def followed(
        self, count: int, momentum: float, phases: Callable[[Tensor, int], Tensor] | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Griffin-Lim on mel bands."""

        def play(mel: Tensor) -> Tensor:
            wanted = mel.T[None].contiguous()
            start = self.bank.start(wanted) * (phases or self.random)(mel, self.bank.top)
            return retrieve(self.short_time, Mels(self.bank, wanted), start, count, momentum)

        return play


def _turned(cycles: Tensor) -> Tensor:
    angle = (cycles % 1 * 2 * math.pi).float()
    return torch.polar(torch.ones_like(angle), angle)


class Form:
    """A form as a vocoder: clips `(B, 1, M, T)` -> waveforms `(B, T * hop)`."""

    def __init__(self, cfg: Config, play: Callable[[Tensor], Tensor]) -> None:
        self.cfg, self.play = cfg, play

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        clips = torch.nn.functional.pad(clips[:, 0], (0, 1), mode="replicate")
        waves = [self.play(mel).flatten() for mel in expand(clips, self.cfg)]
        return torch.stack(waves)


def measure(options: Options) -> list[str]:
    """Lines of a table in markdown, printed as they come. Raises UserError."""
    own = ceiling.Options(
        recipe=options.recipe, data_dir=options.data_dir, output_dir=options.output_dir
    )
    cfg = ceiling.config_of(own)
    clips = ceiling.real_clips(cfg)
    some = spread_out(dataset.recordings(clips, range(len(clips))), options.clips)
    windows = ", ".join(map(str, ceiling.WINDOWS))
    lines = [
        f"| form | clips differ by | spectra ({windows}) | CPU s a sound |",
        "|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    for name, play in Forms(cfg).all():
        if options.forms and not any(text in name for text in options.forms):
            continue
        off = ceiling.distances(cfg, Form(cfg, play), some)
        spectra = ", ".join(f"{value:.2f}" for value in off.spectra)
        lines.append(f"| {name} | {off.clips:.4f} | {spectra} | {off.seconds:.3f} |")
        print(lines[-1], flush=True)
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with friendly() as outcome:
        measure(tyro.cli(Options, args=argv, description=__doc__))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
