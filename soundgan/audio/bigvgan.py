"""BigVGAN's generator (Lee, Ping, Ginsburg, Catanzaro & Yoon 2022, arXiv 2206.04658).

HiFi-GAN's stages of transposed convolutions and residual blocks, with two changes that let it play
sounds it was not trained on: activations that are periodic (`Snake`), and each of them applied at
twice the rate between two low-pass filters, so that the overtones it makes do not fold back.

Written from the paper; modules bear the names of the published weights, so that a folder with
`config.json` and `bigvgan_generator.pt` loads as it is. For playing only: nothing here trains it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv_transpose1d, pad
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

CONFIG, WEIGHTS = "config.json", "bigvgan_generator.pt"
TAPS = 12  # of the low-pass filters, whose ratio is always 2


def low_pass() -> Tensor:
    """Sinc in a Kaiser window, `(1, 1, TAPS)`, of unit sum: what lies above half the band goes.

    The window's shape follows from the width of the slope, 0.6 of the band (Kaiser's formulas:
    Oppenheim & Schafer, Discrete-Time Signal Processing, section 7.5).
    """
    attenuation = 2.285 * (TAPS - 2) * 0.6 * math.pi + 7.95  # dB; 51, so the next formula is that
    beta = 0.1102 * (attenuation - 8.7)  # for more than 50
    window = torch.kaiser_window(TAPS, periodic=False, beta=beta)
    at = torch.arange(TAPS) - (TAPS - 1) / 2  # samples from the middle, which lies between two
    taps = window * torch.sinc(at / 2)
    return (taps / taps.sum())[None, None]


class Up(nn.Module):
    """Twice the rate: zeros between the samples, low-pass filtered."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", low_pass())

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, C, 2 T)
        channels, edge = x.shape[1], TAPS // 2 - 1
        x = pad(x, (edge, edge), mode="replicate")
        taps = 2 * self.filter.expand(channels, -1, -1)  # the zeros take half of the level
        x = conv_transpose1d(x, taps, stride=2, groups=channels)
        cut = 2 * edge + (TAPS - 2) // 2
        return x[..., cut:-cut]


class LowPass(nn.Module):
    """Half the rate: low-pass filtered, every other sample."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", low_pass())

    def forward(self, x: Tensor) -> Tensor:  # (B, C, 2 T) -> (B, C, T)
        channels = x.shape[1]
        x = pad(x, (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return conv1d(x, self.filter.expand(channels, -1, -1), stride=2, groups=channels)


class Down(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowpass = LowPass()

    def forward(self, x: Tensor) -> Tensor:
        return self.lowpass(x)


class Snake(nn.Module):
    """`x + sin^2(alpha x) / beta`, alpha and beta for each channel (equation 1; Ziyin et al. 2020).

    With `own_beta` (called snakebeta) both are learnt, else beta is alpha. `logscale`: the weights
    are their logarithms.
    """

    def __init__(self, channels: int, own_beta: bool, logscale: bool) -> None:
        super().__init__()
        self.logscale = logscale
        start = torch.zeros if logscale else torch.ones
        self.alpha = nn.Parameter(start(channels))
        self.beta = nn.Parameter(start(channels)) if own_beta else None

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T), the same shape
        alpha = self.alpha[:, None]
        beta = alpha if self.beta is None else self.beta[:, None]
        if self.logscale:
            alpha, beta = alpha.exp(), beta.exp()
        return x + (alpha * x).sin().square() / (beta + 1e-9)


class Filtered(nn.Module):
    """A snake at twice the rate, between two low-pass filters (section 3.2)."""

    def __init__(self, channels: int, own_beta: bool, logscale: bool) -> None:
        super().__init__()
        self.act = Snake(channels, own_beta, logscale)
        self.upsample, self.downsample = Up(), Down()

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T), the same shape
        return self.downsample(self.act(self.upsample(x)))


class Block(nn.Module):
    """The anti-aliased multi-periodicity block: for each dilation two convolutions, added to x."""

    def __init__(
        self, channels: int, kernel: int, dilations: Sequence[int], snake: tuple[bool, bool]
    ) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            edge = dilation * (kernel - 1) // 2
            return weight_norm(
                nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=edge)
            )

        self.convs1 = nn.ModuleList(conv(d) for d in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations = nn.ModuleList(Filtered(channels, *snake) for _ in 2 * list(dilations))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T), the same shape
        steps = zip(self.activations[::2], self.convs1, self.activations[1::2], self.convs2)
        for first, wide, second, narrow in steps:
            x = x + narrow(second(wide(first(x))))
        return x


class Generator(nn.Module):
    """Log-mels `(B, num_mels, T)` -> waveforms `(B, 1, T * hop)` within [-1, 1].

    `about` is the content of `config.json`.
    """

    def __init__(self, about: dict) -> None:
        super().__init__()
        snake = about["activation"] == "snakebeta", bool(about["snake_logscale"])
        channels = about["upsample_initial_channel"]
        self.conv_pre = weight_norm(nn.Conv1d(about["num_mels"], channels, 7, padding=3))
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        kinds = list(zip(about["resblock_kernel_sizes"], about["resblock_dilation_sizes"]))
        for rate, kernel in zip(about["upsample_rates"], about["upsample_kernel_sizes"]):
            edge = (kernel - rate) // 2
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=edge)
            self.ups.append(nn.ModuleList([weight_norm(up)]))
            channels //= 2
            self.resblocks.extend(Block(channels, *kind, snake) for kind in kinds)
        self.activation_post = Filtered(channels, *snake)
        # Folders of the first version say nothing of these two, and mean them.
        bias = about.get("use_bias_at_final", True)
        self.conv_post = weight_norm(nn.Conv1d(channels, 1, 7, padding=3, bias=bias))
        self.tanh = about.get("use_tanh_at_final", True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        parallel = len(self.resblocks) // len(self.ups)
        for stage, (up,) in enumerate(self.ups):
            x = up(x)
            blocks = self.resblocks[stage * parallel : (stage + 1) * parallel]
            x = sum(block(x) for block in blocks) / parallel
        x = self.conv_post(self.activation_post(x))
        return x.tanh() if self.tanh else x.clamp(-1, 1)

    def fold(self) -> None:
        """Put the norms into the weights: the same numbers, sooner."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")


# ---- a folder -----------------------------------------------------------------------------------

MEANT = {  # what config.json calls the constants of a spectrogram
    "sampling_rate": "sample_rate",
    "n_fft": "n_fft",
    "win_size": "n_fft",
    "hop_size": "hop",
    "num_mels": "n_mels",
    "fmin": "f_min",
    "fmax": "f_max",
}
NEEDED = (
    *("activation", "snake_logscale", "upsample_initial_channel", "upsample_rates"),
    *("upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes", *MEANT),
)


def read_about(folder: Path, grid: dict) -> dict:
    """The content of `config.json`; raises ValueError unless it can be built, and is on `grid`."""
    try:
        about = json.loads((folder / CONFIG).read_bytes())
    except ValueError as error:
        raise ValueError(f"its {CONFIG} is damaged: {error}") from error
    if not isinstance(about, dict) or (lacking := [n for n in NEEDED if n not in about]):
        said = ", ".join(lacking) if isinstance(about, dict) else "everything"
        raise ValueError(f"its {CONFIG} is none of BigVGAN: it lacks {said}")
    if about["fmax"] is None:
        about["fmax"] = about["sampling_rate"] / 2
    off = [
        f"{n} = {about[n]}, where {grid[g]} is needed"
        for n, g in MEANT.items()
        if about[n] != grid[g]
    ]
    if off:
        raise ValueError(f"it was trained on another spectrogram ({'; '.join(off)})")
    if str(about.get("resblock", "1")) != "1":
        raise ValueError(
            f"its residual blocks are of kind {about['resblock']}, and only 1 is known"
        )
    if about["activation"] not in ("snake", "snakebeta"):
        raise ValueError(f"its activation {about['activation']!r} is neither snake nor snakebeta")
    if math.prod(about["upsample_rates"]) != about["hop_size"]:
        raise ValueError(
            f"its upsample_rates {about['upsample_rates']} do not make hop_size "
            f"({about['hop_size']})"
        )
    return about


def load(folder: Path, grid: dict, device: torch.device) -> Generator:
    """The generator of a folder, ready to play on `device`.

    Every weight must be there and of the right shape, and no other. Raises ValueError with what is
    wrong, OSError; a damaged file of weights fails in whatever way `torch.load` likes.
    """
    generator = Generator(read_about(folder, grid))
    content = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "generator" not in content:
        raise ValueError(f"its {WEIGHTS} holds no weights named generator")
    try:
        generator.load_state_dict(content["generator"])
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        raise ValueError(
            f"its weights do not fit its {CONFIG} ({reasons[0][:150]}{more})"
        ) from error
    generator.fold()
    return generator.eval().requires_grad_(False).to(device)
