"""A folder that holds SpeechBrain's HiFi-GAN, read as data: nothing in it is executed.

SpeechBrain builds whatever `hyperparams.yaml` names (`!new:`, `!apply:`): any function of any
module. Here the few values of the generator are taken from it, checked, and handed to the one class
that they are for; its weights come from `generator.ckpt` as tensors and nothing else.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from soundgan import files, packages, tensor_files
from soundgan.parts import shown

if TYPE_CHECKING:
    from speechbrain.lobes.models.HifiGAN import HifiganGenerator

ABOUT, WEIGHTS = "hyperparams.yaml", "generator.ckpt"
MODULE = "speechbrain.lobes.models.HifiGAN"
KIND = f"{MODULE}.HifiganGenerator"
MOST_ABOUT = 2**16  # bytes; the published ones have two thousand
MOST_WEIGHTS = 10**8  # the published ones have 14 million
MOST_WEIGHT = 1e6


# ---- the YAML ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tagged:
    """What stood behind a tag of the YAML, which is not obeyed: `!new:KIND {...}`."""

    tag: str
    value: object


def arguments(content: bytes) -> dict[str, object]:
    """Arguments of SpeechBrain's HifiganGenerator from a `hyperparams.yaml`, checked.

    Raises ValueError with the reason, Missing where PyYAML is not installed.
    """
    if len(content) > MOST_ABOUT:
        raise ValueError(f"it has more than {MOST_ABOUT} bytes")
    packages.needed("yaml", f"Reading {ABOUT}")
    from soundgan.audio.plain_yaml import read

    about = read(content)
    made = about.get("generator") if isinstance(about, dict) else None
    if not isinstance(made, Tagged) or made.tag != f"!new:{KIND}":
        tag = made.tag if isinstance(made, Tagged) else "none"
        raise ValueError(f"its generator is {shown(tag)}, and only !new:{KIND} is known")
    if not isinstance(made.value, dict):
        raise ValueError("its generator has no table of values")
    own = {name: _resolved(value, about) for name, value in made.value.items()}
    check(own)
    return own


def _resolved(value: object, about: Mapping) -> object:
    """A value, or the one that stands in the first rank under the name of a `!ref <name>`."""
    if not isinstance(value, Tagged):
        return value
    name = re.fullmatch(r"<(\w+)>", value.value) if isinstance(value.value, str) else None
    if value.tag != "!ref" or not name or isinstance(about.get(name[1]), Tagged):
        raise ValueError(f"it says {shown(value.tag)}, where a plain value is needed")
    return about.get(name[1])


NEEDED = (
    *("in_channels", "out_channels", "resblock_type", "resblock_dilation_sizes"),
    *("resblock_kernel_sizes", "upsample_kernel_sizes", "upsample_initial_channel"),
    "upsample_factors",
)
USUAL = {"inference_padding": 5, "cond_channels": 0, "conv_post_bias": True}


def check(own: Mapping) -> None:
    """Raise ValueError for the first argument of a HifiganGenerator that cannot be meant."""
    names = [*NEEDED, *USUAL]
    if odd := [n for n in NEEDED if n not in own] or [n for n in own if n not in names]:
        raise ValueError(f"{shown(odd[0])} is missing, or not known")
    all_of = USUAL | own

    def need(ok: bool, name: str, what: str) -> None:
        if not ok:
            raise ValueError(f"{name} is {shown(all_of[name])}, and must be {what}")

    for name, least, most in (
        ("in_channels", 1, 4096),
        ("out_channels", 1, 1),
        ("upsample_initial_channel", 2, 2**14),
        ("inference_padding", 0, 1000),
        ("cond_channels", 0, 0),  # it is given nothing but mels
    ):
        need(whole(all_of[name], least, most), name, f"a whole number from {least} to {most}")
    need(all_of["resblock_type"] in ("1", "2"), "resblock_type", "'1' or '2'")
    need(isinstance(all_of["conv_post_bias"], bool), "conv_post_bias", "true or false")
    for name in ("resblock_kernel_sizes", "upsample_kernel_sizes", "upsample_factors"):
        need(all_whole(all_of[name], 1, 16), name, "1 to 16 whole numbers up to 1024")
    stages, kernels = len(own["upsample_factors"]), len(own["resblock_kernel_sizes"])
    for name in ("upsample_kernel_sizes", "upsample_factors"):
        need(len(own[name]) == stages, "upsample_kernel_sizes", "one a stage")
    narrow = own["upsample_initial_channel"] >= 2**stages
    need(narrow, "upsample_initial_channel", f"at least {2**stages} (halved in each stage)")
    hop = math.prod(own["upsample_factors"])
    need(hop <= 2**16, "upsample_factors", f"factors of at most {2**16}")
    pairs = zip(own["upsample_factors"], own["upsample_kernel_sizes"])
    need(all(k >= f for f, k in pairs), "upsample_kernel_sizes", "at least their factors")
    dilations, each = own["resblock_dilation_sizes"], 3 if own["resblock_type"] == "1" else 2
    fits = isinstance(dilations, list) and len(dilations) == kernels
    fits = fits and all(all_whole(row, each, each) for row in dilations)
    need(fits, "resblock_dilation_sizes", f"{each} whole numbers for each residual block")
    need(_count(own) <= MOST_WEIGHTS, "upsample_initial_channel", "less: over 1e8 weights")


def whole(value: object, least: int, most: int) -> bool:
    """Whether it is a whole number within these."""
    return type(value) is int and least <= value <= most


def all_whole(value: object, least: int, most: int, up_to: int = 1024) -> bool:
    """Whether it is a list of `least` to `most` whole numbers from 1 to `up_to`."""
    right = isinstance(value, list) and least <= len(value) <= most
    return right and all(whole(one, 1, up_to) for one in value)


def count(
    mels: int, channels: int, ups: Sequence[int], kernels: Sequence[int], dilations: Sequence
) -> int:
    """About how many weights a generator of this form has.

    `ups`, `kernels`: kernels of the stages and of the residual blocks that are in each of them.
    """
    widths = [channels // 2**stage for stage in range(len(ups) + 1)]
    stages = sum(a * b * kernel for (a, b), kernel in zip(pairwise(widths), ups))
    blocks = sum(2 * kernel * len(row) for kernel, row in zip(kernels, dilations))
    return 7 * mels * channels + stages + blocks * sum(width**2 for width in widths[1:])


def _count(own: Mapping) -> int:
    names = ("in_channels", "upsample_initial_channel", "upsample_kernel_sizes")
    names += ("resblock_kernel_sizes", "resblock_dilation_sizes")
    return count(*(own[name] for name in names))


# ---- the weights ---------------------------------------------------------------------------------


def load(about: Path, weights: Path, device: torch.device) -> HifiganGenerator:
    """The generator of the two files on `device`, in evaluation mode, its weights normalised still.

    Log-mels `(B, M, T)` -> `generator.inference` -> `(B, 1, (T + 2 * inference_padding) * hop)`.
    Raises ValueError with what is wrong, OSError where a file cannot be read, Missing.
    """
    hifigan = packages.needed(MODULE, "Playing a HiFi-GAN")  # a second to import: when wanted
    try:
        own = arguments(files.read_bytes(about))
    except ValueError as error:
        raise ValueError(f"its {ABOUT} cannot be used: {error}") from error
    if weights.stat().st_size > 8 * _count(own) + 2**24:
        raise ValueError(f"its {WEIGHTS} is larger than its network")
    state = read_state(files.read_bytes(weights), WEIGHTS)
    generator = hifigan.HifiganGenerator(**own)
    fill(generator, state, ABOUT)
    return generator.eval().requires_grad_(False).to(device)


def read_state(content: bytes, name: str) -> Mapping:
    """What a checkpoint holds, tensors and plain values only; raises ValueError with the reason.

    Its checksums are looked at: a bit that has changed would play as another sound.
    """
    try:
        with warnings.catch_warnings():  # of pickles that it does not know
            warnings.simplefilter("ignore")
            state = tensor_files.unpacked(content)
    except tensor_files.Damaged as error:
        kind = str(error).partition(":")[0]
        raise ValueError(f"its {name} is damaged, or holds more than weights ({kind})") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"its {name} holds no weights")
    return state


def fill(network: nn.Module, state: Mapping, described: str) -> None:
    """Put weights into a network; raises ValueError unless all of them are there and usable.

    `described`: the file that says what the network is like.
    """
    largest = max(value.numel() for value in network.state_dict().values())
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"its weights hold a {type(value).__name__}")
        if not value.is_floating_point() or value.layout is not torch.strided:
            raise ValueError(f"its weights {shown(name)} are no plain numbers")
        fits = 0 < value.numel() <= largest  # a view of one number can have any size
        if fits and not value.abs().amax() <= MOST_WEIGHT:  # nor NaN
            raise ValueError(f"its weights are damaged: {name} holds NaN, Inf or over 1e6")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        raise ValueError(
            f"its weights do not fit its {described} ({reasons[0][:150]}{more})"
        ) from error
