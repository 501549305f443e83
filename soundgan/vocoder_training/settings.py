"""The constants of a vocoder's training, their checks, and the clips that follow from it.

The published HiFi-GANs that can be trained further all have one spectrogram, `HIFIGAN_GRID`: one is
trained for the clips of a recipe that shares it. An iSTFT vocoder is trained for those of any.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from soundgan.audio.istft import RANGES
from soundgan.audio.vocoders import HIFIGAN_FLOOR, HIFIGAN_GRID
from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.parts import Need, misfit, shown, types_of, within
from soundgan.settings import MOST_TIMES, NO_VOCODER, Config, Waveform


@dataclass(frozen=True, kw_only=True)
class Common:
    """What the training of every kind of vocoder can be told."""

    # ---- the run: may change whenever it is continued -------------------------------------------

    data_dir: str
    """Folder of your sounds, as for train.py."""
    output_dir: str
    """Folder that holds the runs, and the cache of decoded sounds."""
    run_name: str = "vocoder"
    """Folder below OUTPUT_DIR: what --vocoder of train.py is to name then."""
    steps: int
    """Steps of the whole run; raise it to extend a finished one."""
    save_every: int = 500
    """Steps between two writings of the folder, a row of log.csv and a checkpoint (a HiFi-GAN's
    takes 1 GB at the published sizes; two are kept)."""
    sample_every: int = 2500
    """Steps between two sets of sounds: a real clip of each class through the vocoder."""
    judge_clips: int = 32
    """Held-out clips of which log.csv's held_out_mel is the mean."""
    device: str
    """auto (CUDA where there is one), cuda, cuda:1, cpu."""
    deterministic: bool
    """On CUDA: two runs with one seed are identical, and slower (the CPU always is identical)."""
    tf32: bool
    """On CUDA: let matrix units round float32 factors to TF32 (10-bit mantissa)."""
    decode_threads: int
    """Threads that decode files the first time; 0: one a processor core."""

    # ---- what a checkpoint must agree on --------------------------------------------------------

    kind: Literal["hifigan", "istft"]
    """hifigan: HiFi-GAN, needs a GPU; istft: a small one after Vocos, minutes on a CPU. Each has
    constants of its own (--kind istft --help)."""
    source: Annotated[str, tyro.conf.arg(name="from")] = ""
    """Folder of a vocoder of this kind to begin with (a HiFi-GAN: hub name or folder); empty: from
    scratch."""
    recipe: str
    """Recipe whose clips these are (their length, and what of a long file is used)."""
    seed: int
    """Decides initial weights, order of clips and segments."""
    holdout: float
    """Share of each class (of 20 clips or more) to validate on and not train on: that of your runs.
    """
    holdout_dir: str
    """Folder of class folders to validate on; then all of DATA_DIR is trained on."""
    batch_size: int = 16
    """Clips a step, one segment of each."""
    segment: int = 8192
    """Samples of a segment; a multiple of the recipe's hop."""
    learning_rate: float
    """AdamW's rate at the start, of all networks."""
    betas: tuple[float, float] = (0.8, 0.99)
    """AdamW's decay rates."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    decay: float
    """Factor on the rate every DECAY_EVERY steps."""
    decay_every: int
    """Steps between two of these."""
    mel_weight: float
    """Weight of the distance of spectra."""
    feature_weight: float
    """Weight of the distances of the discriminators' features, summed over their layers."""


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Train a HiFi-GAN on your sounds, or continue where it stopped."""

    kind: Literal["hifigan", "istft"] = "hifigan"
    """hifigan: HiFi-GAN, needs a GPU; istft: a small one after Vocos, minutes on a CPU. Each has
    constants of its own (--kind istft --help)."""
    steps: int = 100_000
    """Steps of the whole run (the paper took 100 000 for fine-tuning, and 2 500 000 from
    scratch); raise it to extend a finished one."""
    learning_rate: float = 2e-4
    """AdamW's rate at the start, of both networks."""
    decay: float = 0.999
    """Factor on the rate every DECAY_EVERY steps."""
    decay_every: int = 1000
    """Steps between two of these (the paper's epochs had about 800, whatever yours have)."""
    mel_weight: float = 45.0
    """Weight of the L1 distance of log-mels (the paper's lambda_mel)."""
    feature_weight: float = 2.0
    """Weight of the distances of the discriminators' features, summed over their layers (the
    paper's lambda_fm)."""
    loss_f_max: float = 11025.0
    """Upper edge (Hz) of the mels that are compared; the vocoder is given those up to 8000 Hz."""
    channels: int = 512
    """Channels of the generator before its first stage; each stage halves them."""
    upsample_factors: tuple[int, ...] = (8, 8, 2, 2)
    """Upsampling of each stage; their product must be the hop (256)."""
    upsample_kernels: tuple[int, ...] = (16, 16, 4, 4)
    """Kernel of each stage's transposed convolution: its factor plus an even number."""
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    """Kernels of the residual blocks that work side by side in each stage."""
    resblock_dilations: tuple[int, int, int] = (1, 3, 5)
    """Dilations of each residual block's convolutions."""
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Periods of the multi-period discriminator."""
    scales: int = 3
    """Scales of the multi-scale discriminator, 0 to 3."""


@dataclass(frozen=True, kw_only=True)
class IstftOptions(Common):
    """Train an iSTFT vocoder (after Vocos) on your sounds, or continue where it stopped."""

    kind: Literal["hifigan", "istft"] = "istft"
    """hifigan: HiFi-GAN, needs a GPU; istft: a small one after Vocos, minutes on a CPU. Each has
    constants of its own (--kind istft --help)."""
    steps: int = 4000
    """Steps of the whole run; raise it to extend a finished one."""
    learning_rate: float = 1e-3
    """AdamW's rate at the start."""
    decay: float = 0.8
    """Factor on the rate every DECAY_EVERY steps."""
    decay_every: int = 400
    """Steps between two of these."""
    mel_weight: float = 5.0
    """Weight of the distance of clips and of log magnitudes at three resolutions."""
    adversarial_weight: float = 0.0
    """Weight of the discriminator's scores; 0: none is trained, which takes a third of the time."""
    feature_weight: float = 2.0
    """Weight of the distances of the discriminator's features; counts only with a discriminator."""
    width: int = 192
    """Channels of the network."""
    blocks: int = 6
    """ConvNeXt blocks of the network."""
    iterations: int = 64
    """Iterations of Griffin-Lim from the network's spectrum, whenever it is played."""


MAY_CHANGE = (
    *("data_dir", "output_dir", "run_name", "steps", "save_every", "sample_every", "judge_clips"),
    *("device", "deterministic", "tf32", "decode_threads", "batch_size", "iterations"),
)


def to_dict(options: Common) -> dict[str, object]:
    """The options as JSON and `torch.load(weights_only=True)` know them."""
    values = dataclasses.asdict(options).items()
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values}


# ---- the clips ----------------------------------------------------------------------------------


def spectrograms_of(recipe: Config) -> Config:
    """The recipe with the logarithm that HiFi-GAN was made for."""
    natural = {"sound.compression": "ln", "sound.compression_constant": HIFIGAN_FLOOR}
    return change(recipe, natural)


def waveforms_of(options: Common, recipe: Config) -> Config:
    """The very waveforms of which the recipe's spectrograms are made, and where this run is.

    A spectrogram's T centred frames span T - 1 hops.
    """
    names = ("data_dir", "output_dir", "run_name", "seed", "device", "deterministic", "tf32")
    names += ("holdout", "holdout_dir", "decode_threads", "batch_size")
    sound = recipe.sound
    raw = Waveform(sample_rate=sound.sample_rate, samples=sound.clip_samples, cut=sound.cut)
    own = {name: getattr(options, name) for name in names}
    return change(recipe, own | {"sound": raw, "vocoder": NO_VOCODER})


# ---- checks -------------------------------------------------------------------------------------


def check(options: Common, recipes: Mapping[str, Config]) -> None:
    """Raise UserError naming the first constant whose value cannot work, and why."""

    def need(ok: bool, name: str, why: str) -> None:
        if not ok:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{name} = {shown(getattr(options, name))}: {why} ({flag}).")

    for name, kind in types_of(type(options)).items():
        why = misfit(kind, getattr(options, name))
        need(not why, name, why)
    _check_run(options, need, recipes)
    _check_losses(options, need)
    if isinstance(options, Options):
        need(options.kind == "hifigan", "kind", "its constants are those of hifigan")
        _check_networks(options, need)
    else:
        need(options.kind == "istft", "kind", "its constants are those of istft")
        _check_istft(options, need)


def _check_run(o: Common, need: Need, recipes: Mapping[str, Config]) -> None:
    grid = HIFIGAN_GRID if o.kind == "hifigan" else {}
    fit = [
        name
        for name, cfg in recipes.items()
        if not cfg.sound.raw and all(getattr(cfg.sound, k) == v for k, v in grid.items())
    ]
    which = "on HiFi-GAN's grid" if grid else "of spectrograms"
    need(o.recipe in fit, "recipe", f"must be one {which}: {', '.join(fit)}")
    bad_name = not o.run_name or Path(o.run_name).name != o.run_name or o.run_name[0] == "."
    need(not bad_name, "run_name", "must be a plain folder name that starts with no dot")
    within(o, need, 1, MOST_TIMES, ("steps", "save_every", "sample_every", "decay_every"))
    within(o, need, 1, 10**6, ("judge_clips", "batch_size"))
    within(o, need, 0, 1024, ["decode_threads"])
    need(0 <= o.seed < 2**63, "seed", "must be a whole number from 0 to 2**63 - 1")
    need(0 <= o.holdout <= 0.5, "holdout", "must be a share from 0 (none) to 0.5")
    sound = recipes[o.recipe].sound
    hop, least, most = sound.hop, sound.n_fft, sound.clip_samples
    need(o.segment % hop == 0, "segment", f"must be a multiple of the hop ({hop})")
    need(least <= o.segment <= most, "segment", f"must be {least} to {most}")


def _check_losses(o: Common, need: Need) -> None:
    for name in ("learning_rate", "decay"):
        value = getattr(o, name)
        need(math.isfinite(value) and value > 0, name, "must be a positive number")
    for name in ("weight_decay", "mel_weight", "feature_weight"):
        value = getattr(o, name)
        need(math.isfinite(value) and value >= 0, name, "must be zero or a positive number")
    need(all(0 <= b < 1 for b in o.betas), "betas", "must lie in [0, 1)")


def _check_istft(o: IstftOptions, need: Need) -> None:
    good = math.isfinite(o.adversarial_weight) and o.adversarial_weight >= 0
    need(good, "adversarial_weight", "must be zero or a positive number")
    for name, (least, most) in RANGES.items():
        within(o, need, least, most, [name])


def _check_networks(o: Options, need: Need) -> None:
    top = HIFIGAN_GRID["sample_rate"] / 2
    need(0 < o.loss_f_max <= top, "loss_f_max", f"must be above 0 and at most {top} Hz")
    factors, kernels, hop = o.upsample_factors, o.upsample_kernels, HIFIGAN_GRID["hop"]
    whole = bool(factors) and min(factors) >= 1 and math.prod(factors) == hop
    need(whole, "upsample_factors", f"must multiply to {hop}")
    fit = len(kernels) == len(factors) and all(
        k >= f and (k - f) % 2 == 0 for k, f in zip(kernels, factors)
    )
    need(fit, "upsample_kernels", "needs one a stage, each its factor plus an even number")
    scale = 2 ** len(factors)
    fits = o.channels >= scale and o.channels % scale == 0
    why = f"must be a multiple of {scale} (halved in each of {len(factors)} stages)"
    need(fits, "channels", why)
    odd = bool(o.resblock_kernels) and all(k >= 1 and k % 2 for k in o.resblock_kernels)
    need(odd, "resblock_kernels", "must be odd numbers, at least one")
    need(min(o.resblock_dilations) >= 1, "resblock_dilations", "must be at least 1")
    whole = all(1 <= period <= o.segment for period in o.periods)
    need(whole, "periods", f"must be 1 to the segment's samples ({o.segment}) each")
    need(0 <= o.scales <= 3, "scales", "must be 0 to 3")
    need(bool(o.periods) or o.scales > 0, "periods", "at least one period or one scale is needed")
