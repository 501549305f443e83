"""Phase retrieval: spectrograms without phases -> waveforms, by the fast Griffin-Lim algorithm.

Griffin & Lim 1984, "Signal estimation from modified short-time Fourier transform", alternates
between two sets: spectrograms that a waveform has, and those that agree with what is given. The
momentum is that of Perraudin, Balazs & Søndergaard 2013, "A fast Griffin-Lim algorithm". What is
given is either magnitudes, or mel bands; the second are used directly, see `Mels`.

Shapes: B sounds of T frames, F = n_fft / 2 + 1 frequencies, M mel bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95  # with which vocoders play; docs/vocoders.md compares others
TINY = 1e-30  # under roots and quotients of float32
MOST_GAIN = 1e4  # of one iteration and band

Projection = Callable[[Tensor], Tensor]


class ShortTime(nn.Module):
    """The centred STFT with a Hann window and its inverse, of sounds of exactly T frames.

    `torch.stft` and `torch.istft` to rounding. Frames are rows of memory here, which is what makes
    an iteration cheap: `(B, T, F)`, not `(B, F, T)`.
    """

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """`(B, (T - 1) * hop)` -> complex `(B, T, F)`."""
        edge = self.n_fft // 2
        wave = nn.functional.pad(wave, (edge, edge), mode="reflect")
        return torch.fft.rfft(wave.unfold(-1, self.n_fft, self.hop) * self.window)

    def inverse(self, spectrum: Tensor, sums: Tensor | None = None) -> Tensor:
        """Complex `(B, T, F)` -> `(B, (T - 1) * hop)`: least squares (Griffin & Lim, equation 6).

        Frequencies that are left out at the end are zero. `sums`: `window_sums(T)`, if at hand.
        """
        sums = self.window_sums(spectrum.shape[1]) if sums is None else sums
        frames = torch.fft.irfft(spectrum, n=self.n_fft).mul_(self.window)  # (B, T, n_fft)
        return self._overlap_add(frames).div_(sums)

    def window_sums(self, frames: int) -> Tensor:
        """Sum of the squared windows over each sample of T frames, `(1, (T - 1) * hop)`.

        Small at no sample, unless windows hardly overlap.
        """
        squares = self.window.square().expand(1, frames, -1)
        return self._overlap_add(squares).clamp(min=1e-11)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """`(B, T, n_fft)` -> `(B, (T - 1) * hop)`, frame t centred on sample t * hop."""
        parts = math.ceil(self.n_fft / self.hop)
        if lacking := parts * self.hop - self.n_fft:
            frames = nn.functional.pad(frames, (0, lacking))
        frames = frames.unflatten(2, (parts, self.hop))  # (B, T, parts, hop)
        batch, count = frames.shape[:2]
        wave = frames.new_zeros(batch, count + parts - 1, self.hop)
        for part in range(parts):
            wave[:, part : part + count] += frames[:, :, part]
        edge = self.n_fft // 2
        return wave.flatten(1)[:, edge : edge + (count - 1) * self.hop]


def retrieve(
    short_time: ShortTime, project: Projection, start: Tensor, iterations: int, momentum: float
) -> Tensor:
    """Waveform `(B, (T - 1) * hop)` after so many iterations from the spectrum `start (B, T, f)`.

    `project` moves a complex spectrum to one that agrees with what is given; it may change its
    argument. With f < F, all frequencies above stay zero. `momentum`: the alpha of Perraudin et
    al., equation 5; only phases of the extrapolated spectrum count, so that it is scaled here.
    """
    spectrum, before, top = start, None, start.shape[2]
    sums = short_time.window_sums(start.shape[1])
    for _ in range(iterations):
        rebuilt = short_time(short_time.inverse(spectrum, sums))[..., :top]
        ahead = rebuilt if before is None else before.mul_(-momentum / (1 + momentum)).add_(rebuilt)
        before = rebuilt.clone() if ahead is rebuilt else rebuilt
        spectrum = project(ahead)
    return short_time.inverse(spectrum, sums)


def power_of(spectrum: Tensor) -> Tensor:
    """Squared magnitudes of a complex tensor, a little above zero; far cheaper than `abs()`."""
    real = spectrum.real
    return real.square().addcmul_(spectrum.imag, spectrum.imag).add_(TINY)


class Magnitudes:
    """Projection onto the spectra of magnitudes `(B, T, F)`: their phases are kept."""

    def __init__(self, magnitudes: Tensor) -> None:
        self.magnitudes = magnitudes

    def __call__(self, spectrum: Tensor) -> Tensor:
        return spectrum * power_of(spectrum).rsqrt_().mul_(self.magnitudes)


class Bank(nn.Module):
    """A mel filter bank, and the way back from ratios of bands to gains of frequencies."""

    def __init__(self, bands: Tensor, power: float) -> None:
        """`bands (F, M)`; `power`: of the magnitudes that they are sums of (1 or 2)."""
        super().__init__()
        reached = bands.sum(1).gt(0).nonzero()
        self.top = int(reached[-1]) + 1 if len(reached) else 1  # frequencies above are in no band
        bands = bands[: self.top]
        back = bands / bands.sum(1, keepdim=True).clamp(min=TINY)
        # The constant, and what else lies below all bands, goes with the lowest frequency in one:
        # were it zero, a rumble could not be what it is.
        lowest = int(reached[0]) if len(reached) else 0
        back[:lowest] = back[lowest]
        self.power = power
        self.register_buffer("bands", bands.contiguous(), persistent=False)  # (f, M)
        self.register_buffer("back", back.T.contiguous(), persistent=False)  # (M, f)

    def of(self, spectrum: Tensor) -> Tensor:
        """Complex `(B, T, f)` -> mel bands `(B, T, M)`."""
        power = power_of(spectrum)
        return (power.sqrt_() if self.power == 1 else power.pow_(self.power / 2)) @ self.bands

    def gains(self, wanted: Tensor, there: Tensor) -> Tensor:
        """Factors `(B, T, f)` of magnitudes that bring bands `there (B, T, M)` nearer to `wanted`.

        The multiplicative update of non-negative factorisation for the Kullback-Leibler divergence
        (Lee & Seung 2001, equation 5) with the filter bank as the fixed factor.
        """
        ratio = (wanted / there.clamp_(min=TINY)).clamp_(max=MOST_GAIN)
        gains = ratio @ self.back
        return gains if self.power == 1 else gains.pow_(1 / self.power)

    def start(self, wanted: Tensor) -> Tensor:
        """Magnitudes `(B, T, f)`: one update from a flat spectrum of ones."""
        return self.gains(wanted, self.bands.sum(0).expand(wanted.shape).clone())


class Mels:
    """Projection towards the spectra that have given mel bands `(B, T, M)`.

    Mel bands do not know the magnitudes within them. Where these are estimated first, by least
    squares, they are smooth, no waveform has them, and iterations end at one that has other bands.
    Here magnitudes follow the waveform too, and only as far as the bands ask for (in the manner of
    Masuyama, Ueno & Ono 2023, "Signal reconstruction from mel-spectrogram based on bi-level
    consistency of full-band magnitude and phase"): after each iteration each band's magnitudes are
    multiplied towards the wanted sum.
    """

    def __init__(self, bank: Bank, wanted: Tensor) -> None:
        self.bank, self.wanted = bank, wanted

    def __call__(self, spectrum: Tensor) -> Tensor:
        return spectrum.mul_(self.bank.gains(self.wanted, self.bank.of(spectrum)))


def random_phases(frames: int, frequencies: int) -> Tensor:
    """Complex `(frames, frequencies)` of magnitude 1, the same for every call and device."""
    draw = torch.Generator().manual_seed(0)
    angle = torch.rand(frames, frequencies, generator=draw) * (2 * math.pi)
    return torch.polar(torch.ones_like(angle), angle)
