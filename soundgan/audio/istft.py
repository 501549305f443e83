"""A small vocoder that predicts a spectrum and inverts it, in the manner of Vocos.

Siuzdak 2023, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders for
high-quality audio synthesis" (arXiv 2306.00814): ConvNeXt blocks (Liu et al. 2022) on mel frames,
a head that gives magnitude and phase of each frequency, and an inverse STFT. Everything is computed
once a frame, not once a sample. Different here, so that minutes of training are enough: the head
gives what the logarithm of the magnitudes is above that of the mel bands spread out, and the
network is given noise beside the mels, since most sounds that are no speech have some.

Written from the paper. Shapes: B clips, M mel bands, T frames, F = n_fft / 2 + 1 frequencies.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from soundgan import files
from soundgan.audio import hifigan
from soundgan.audio.griffin_lim import MOMENTUM, Bank, Mels, ShortTime, retrieve
from soundgan.audio.transform import expand, filter_bank
from soundgan.config_io import read_json
from soundgan.parts import shown
from soundgan.settings import Config, Spectrogram

ABOUT, WEIGHTS = "istft.json", "istft.safetensors"
DIGEST = "blake2b"  # of the weights and what is said of them, in the header of WEIGHTS
KERNEL, EXPANSION = 7, 3  # of the blocks
NOISE = 16  # channels of noise beside the mels
WIDE = 16  # frequencies in a band above all mel bands
FLOOR = 1e-5  # of mels before their logarithm
MOST_CHANGE = 6.0  # of log magnitudes, nepers
MOST_WEIGHTS = 10**8
RANGES = {"width": (8, 4096), "blocks": (1, 64), "iterations": (0, 1000)}
GRID = (
    *("sample_rate", "n_fft", "hop", "n_mels", "f_min", "f_max", "mel_scale", "mel_norm", "power"),
    *("compression", "compression_constant"),
)  # constants of a Spectrogram that a vocoder must share with a recipe


@dataclass(frozen=True, kw_only=True)
class Size:
    """What decides the weights of a network, and how it is played."""

    width: int
    blocks: int
    iterations: int  # of Griffin-Lim, from the spectrum of the network


class Block(nn.Module):
    """A ConvNeXt block on frames: `(B, C, T)`, the same shape."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.along = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, EXPANSION * width)
        self.narrow = nn.Linear(EXPANSION * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.along(x).mT)  # (B, T, C)
        h = self.narrow(nn.functional.gelu(self.widen(h)))
        return x + (self.scale * h).mT


class Network(nn.Module):
    """Clips `(B, M, T)` in the recipe's unit -> complex spectra `(B, T, F)`, or their sound."""

    def __init__(self, cfg: Config, size: Size) -> None:
        super().__init__()
        sound = cfg.sound
        self.cfg, self.size = cfg, size
        bands = filter_bank(sound)  # (F, M)
        self.bank = Bank(bands, sound.power)
        self.every_bank = Bank(with_bands_above(bands), sound.power)
        self.short_time = ShortTime(sound.n_fft, sound.hop)
        self.first = nn.Conv1d(sound.n_mels + NOISE, size.width, KERNEL, padding=KERNEL // 2)
        self.first_norm = nn.LayerNorm(size.width)
        self.blocks = nn.ModuleList(Block(size.width, 1 / size.blocks) for _ in range(size.blocks))
        self.last_norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, 2 * len(bands))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def spectrum(self, mels: Tensor, noise: Tensor) -> Tensor:
        """Mel bands `(B, T, M)`, normal numbers `(B, T, NOISE)` -> complex `(B, T, F)`."""
        h = torch.cat([mels.clamp(min=FLOOR).log() / 3 + 2, noise], dim=2)
        h = self.first_norm(self.first(h.mT).mT).mT  # (B, C, T)
        for block in self.blocks:
            h = block(h)
        change, phase = self.head(self.last_norm(h.mT)).chunk(2, dim=2)  # (B, T, F) each
        base = self.bank.start(mels)  # (B, T, f): frequencies above f have no band
        above = base[..., -1:].expand(*base.shape[:2], change.shape[2] - base.shape[2])
        magnitude = torch.cat([base, above], dim=2) * change.clamp(max=MOST_CHANGE).exp()
        return torch.complex(magnitude * phase.cos(), magnitude * phase.sin())

    def forward(self, x: Tensor) -> Tensor:
        """Clips `(B, M, T + 1)` -> waveforms `(B, 1, T * hop)`, for training."""
        mels = expand(x, self.cfg).mT
        noise = torch.randn(*mels.shape[:2], NOISE, device=x.device)
        return self.short_time.inverse(self.spectrum(mels, noise))[:, None]

    def play(self, x: Tensor) -> Tensor:
        """Clips `(B, M, T)` -> waveforms `(B, T * hop)`: the same noise for every clip and call."""
        # On a CPU clip by clip: a batch of them leaves the processor's cache.
        return torch.cat([self._play(part) for part in x.split(1 if x.is_cpu else len(x))])

    def _play(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 1), mode="replicate")  # T centred frames span T - 1 hops
        mels = expand(x, self.cfg).mT.contiguous()  # (B, T + 1, M)
        draw = torch.Generator().manual_seed(0)
        noise = torch.randn(mels.shape[1], NOISE, generator=draw).to(mels.device)
        spectrum = self.spectrum(mels, noise.expand(len(mels), -1, -1))
        if not self.size.iterations:
            return self.short_time.inverse(spectrum)
        return self._refined(spectrum, mels)

    def _refined(self, spectrum: Tensor, mels: Tensor) -> Tensor:
        """A few iterations of Griffin-Lim from a spectrum `(B, T, F)`.

        Above all mel bands, what the network's own sound has there is followed in bands, too.
        """
        own = self.short_time(self.short_time.inverse(spectrum))
        above = self.every_bank.of(own)[..., mels.shape[2] :]
        toward = Mels(self.every_bank, torch.cat([mels, above], dim=2))
        return retrieve(self.short_time, toward, spectrum, self.size.iterations, MOMENTUM)


def with_bands_above(bands: Tensor) -> Tensor:
    """Mel bands `(F, M)`, and bands of WIDE frequencies above them, `(F, M + E)`: E is 0 where
    there is none."""
    top = int(bands.sum(1).gt(0).nonzero()[-1]) + 1
    groups = torch.arange(len(bands) - top) // WIDE
    above = nn.functional.one_hot(groups, int(groups[-1]) + 1) if len(groups) else bands[top:, :0]
    return torch.cat([bands, nn.functional.pad(above.float(), (0, 0, top, 0))], dim=1)


def count(sound: Spectrogram, size: Size) -> int:
    """About how many weights a network has."""
    block = size.width * (2 * EXPANSION * size.width + KERNEL + EXPANSION + 6)
    edges = KERNEL * (sound.n_mels + NOISE) + sound.n_fft + 8
    return size.blocks * block + size.width * edges + sound.n_fft + 2


# ---- a folder -----------------------------------------------------------------------------------


def about(sound: Spectrogram, size: Size) -> bytes:
    """The content of ABOUT."""
    grid = {name: getattr(sound, name) for name in GRID}
    return json.dumps({"grid": grid, **dataclasses.asdict(size)}, indent=2).encode()


def packed(weights: Mapping[str, Tensor], said: bytes) -> bytes:
    """The content of WEIGHTS, with a checksum of it and of `said`, which is what ABOUT holds."""
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    return to_safetensors(plain, {DIGEST: files.digest(to_safetensors(plain), said)})


def read_size(path: Path, sound: Spectrogram) -> Size:
    """The size that a file ABOUT states.

    Raises ValueError where it cannot be played for clips of `sound`.
    """
    content = read_json(path)
    names = {"grid", *(field.name for field in dataclasses.fields(Size))}
    if not isinstance(content, dict) or set(content) != names:
        raise ValueError(f"it must have exactly {', '.join(sorted(names))}")
    grid = content.pop("grid")
    if not isinstance(grid, dict) or set(grid) != set(GRID):
        raise ValueError(f"its grid must have exactly {', '.join(GRID)}")
    for name, (least, most) in RANGES.items():
        if not hifigan.whole(content[name], least, most):
            what = f"a whole number from {least} to {most}"
            raise ValueError(f"{name} is {shown(content[name])}, and must be {what}")
    off = [
        f"{name} = {shown(getattr(sound, name))}, not {shown(value)}"
        for name, value in grid.items()
        if isinstance(value, bool) or getattr(sound, name) != value
    ]
    if off:
        raise ValueError(f"it was trained on another spectrogram ({'; '.join(off)})")
    size = Size(**content)
    if count(sound, size) > MOST_WEIGHTS:
        raise ValueError(f"width {size.width} and blocks {size.blocks} are over 1e8 weights")
    return size


def load(folder: Path, cfg: Config, device: torch.device) -> Network:
    """The network of a folder on `device`, in evaluation mode.

    Every weight must be there, finite and of the right shape, and no other. Nothing in the folder
    is executed. Raises ValueError with what is wrong, OSError.
    """
    try:
        size = read_size(folder / ABOUT, cfg.sound)
    except ValueError as error:
        raise ValueError(f"its {ABOUT} cannot be used: {error}") from error
    network = Network(cfg, size)
    needed = 4 * sum(value.numel() for value in network.state_dict().values())  # bytes
    if (folder / WEIGHTS).stat().st_size > needed + 2**20:
        raise ValueError(f"its {WEIGHTS} is larger than its network")
    said, content = (files.read_bytes(folder / name) for name in (ABOUT, WEIGHTS))
    weights = _unpacked(content, said)
    hifigan.fill(network, weights, ABOUT)
    return network.eval().requires_grad_(False).to(device)


def _unpacked(content: bytes, said: bytes) -> dict[str, Tensor]:
    """The weights that `packed` made; raises ValueError where they are damaged."""
    try:
        weights = from_safetensors(content)
        size = int.from_bytes(content[:8], "little")
        digest = json.loads(content[8 : 8 + size])["__metadata__"][DIGEST]
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in whatever way it likes
        raise ValueError(f"its {WEIGHTS} is damaged ({type(error).__name__})") from error
    if digest != files.digest(to_safetensors(weights), said):
        raise ValueError(f"its {WEIGHTS} is damaged, or not of its {ABOUT}: a checksum differs")
    return weights
