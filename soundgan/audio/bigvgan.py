"""BigVGAN's generator (Lee, Ping, Ginsburg, Catanzaro & Yoon 2022, arXiv 2206.04658).

HiFi-GAN's stages of transposed convolutions and residual blocks, with two changes that let it play
sounds it was not trained on: activations that are periodic (`Snake`), and each of them applied at
twice the rate between two low-pass filters, so that the overtones it makes do not fold back.

Written from the paper; modules bear the names of the published weights, so that a folder with
`config.json` and `bigvgan_generator.pt` loads as it is. For playing only: nothing here trains it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv_transpose1d, pad
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from soundgan import files
from soundgan.audio import hifigan
from soundgan.config_io import read_json
from soundgan.parts import shown

CONFIG, WEIGHTS = "config.json", "bigvgan_generator.pt"
MOST_WEIGHTS = 10**9  # the largest published one has 112 million
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
        about = read_json(folder / CONFIG)
    except ValueError as error:
        raise ValueError(f"its {CONFIG} is damaged: {error}") from error
    if not isinstance(about, dict) or (lacking := [n for n in NEEDED if n not in about]):
        said = ", ".join(lacking) if isinstance(about, dict) else "everything"
        raise ValueError(f"its {CONFIG} is none of BigVGAN: it lacks {said}")
    if about["fmax"] is None and hifigan.whole(about["sampling_rate"], 1, 10**6):
        about["fmax"] = about["sampling_rate"] / 2
    off = [
        f"{n} = {shown(about[n])}, where {grid[g]} is needed"
        for n, g in MEANT.items()
        if isinstance(about[n], bool) or about[n] != grid[g]
    ]
    if off:
        raise ValueError(f"it was trained on another spectrogram ({'; '.join(off)})")
    if str(about.get("resblock", "1")) != "1":
        raise ValueError(
            f"its residual blocks are of kind {shown(about['resblock'])}, and only 1 is known"
        )
    _check(about)
    return about


def _check(about: dict) -> None:
    """Raise ValueError for the first value that makes no generator."""

    def need(ok: bool, name: str, what: str) -> None:
        if not ok:
            raise ValueError(f"its {name} is {shown(about[name])}, and must be {what}")

    kinds = ("snake", "snakebeta")
    need(about["activation"] in kinds, "activation", " or ".join(kinds))
    for name in ("snake_logscale", "use_bias_at_final", "use_tanh_at_final"):
        need(isinstance(about.get(name, True), bool), name, "true or false")
    rates, kernels = about["upsample_rates"], about["resblock_kernel_sizes"]
    for name in ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes"):
        need(hifigan.all_whole(about[name], 1, 16), name, "1 to 16 whole numbers up to 1024")
    if math.prod(rates) != about["hop_size"]:
        raise ValueError(f"its upsample_rates {rates} do not make hop_size ({about['hop_size']})")
    ups, dilations = about["upsample_kernel_sizes"], about["resblock_dilation_sizes"]
    even = len(ups) == len(rates) and all(
        k >= rate and (k - rate) % 2 == 0 for k, rate in zip(ups, rates)
    )
    need(even, "upsample_kernel_sizes", "one a stage, each its rate plus an even number")
    odd = all(kernel % 2 for kernel in kernels)
    need(odd, "resblock_kernel_sizes", "odd numbers")
    rows = isinstance(dilations, list) and len(dilations) == len(kernels)
    rows = rows and all(hifigan.all_whole(row, 1, 16) for row in dilations)
    need(rows, "resblock_dilation_sizes", "a list of whole numbers for each residual block")
    channels, least = about["upsample_initial_channel"], 2 ** len(rates)
    need(hifigan.whole(channels, least, 2**14), "upsample_initial_channel", f"{least} to 16384")
    weights = hifigan.count(about["num_mels"], channels, ups, kernels, dilations)
    need(weights <= MOST_WEIGHTS, "upsample_initial_channel", f"less: over {MOST_WEIGHTS} weights")


def load(folder: Path, grid: dict, device: torch.device) -> Generator:
    """The generator of a folder, ready to play on `device`.

    Every weight must be there and of the right shape, and no other. Nothing in the folder is
    executed. Raises ValueError with what is wrong, OSError.
    """
    generator = Generator(read_about(folder, grid))
    needed = 4 * sum(value.numel() for value in generator.state_dict().values())  # bytes
    if (folder / WEIGHTS).stat().st_size > 2 * needed + 2**24:
        raise ValueError(f"its {WEIGHTS} is larger than its network")
    content = hifigan.read_state(files.read_bytes(folder / WEIGHTS), WEIGHTS)
    if not isinstance(content.get("generator"), Mapping):
        raise ValueError(f"its {WEIGHTS} holds no weights named generator")
    hifigan.fill(generator, content["generator"], CONFIG)
    generator.fold()
    return generator.eval().requires_grad_(False).to(device)
