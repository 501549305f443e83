"""The kinds of vocoder that can be trained, and all that the rest of the training asks of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from soundgan.audio import hifigan, istft, load_hifigan, load_istft
from soundgan.audio.vocoders import VOCODER_REVISIONS
from soundgan.config_io import change
from soundgan.settings import Config
from soundgan.vocoder_training import istft_networks, networks
from soundgan.vocoder_training.losses import Losses
from soundgan.vocoder_training.settings import Common, IstftOptions, Options, spectrograms_of


class Kind(Protocol):
    """What a kind of vocoder is made of, learns from, and is written as."""

    options: Any
    spectrograms: Config  # what it is given
    more_frames: int  # it is given so many frames more than it makes hops
    constant: str  # the name of the file that never changes
    weights: str  # and of that of the weights
    advice: str  # what --from may name
    sizes: str  # the flags that decide the shapes of its weights
    smaller: str  # those that make a step quicker

    def build(self) -> tuple[nn.Module, nn.Module | None]:
        """Generator `(B, M, T) -> (B, 1, L)` and discriminators; raises UserError."""

    def losses(self, device: torch.device) -> Any:
        """Its losses: `critic` and `generator`, as of `losses.Losses`."""

    def play(self, generator: nn.Module, clips: Tensor) -> Tensor:
        """Clips `(B, M, T)` -> waveforms `(B, T * hop)`."""

    def about(self) -> bytes:
        """The content of the file that never changes."""

    def packed(self, weights: Mapping[str, Tensor]) -> bytes:
        """The content of the file of the weights."""

    def load(self, source: str) -> nn.Module:
        """The generator that `--from` names; raises BadVocoder."""


class HifiGanKind:
    """SpeechBrain's HiFi-GAN."""

    more_frames = 0
    constant, weights = hifigan.ABOUT, hifigan.WEIGHTS
    advice = (
        "Name a folder that holds hyperparams.yaml and generator.ckpt, or one of "
        f"{', '.join(VOCODER_REVISIONS)} where there is a network"
    )
    sizes = (
        "--channels, --upsample-factors, --upsample-kernels, --resblock-kernels, "
        "--resblock-dilations"
    )
    smaller = "--channels, --periods and --scales"

    def __init__(self, options: Options, recipe: Config) -> None:
        self.options, self.spectrograms = options, spectrograms_of(recipe)

    def build(self) -> tuple[nn.Module, nn.Module]:
        return networks.build(self.options)

    def losses(self, device: torch.device) -> Losses:
        return Losses(self.options, self.spectrograms, device)

    def play(self, generator: nn.Module, clips: Tensor) -> Tensor:
        """The vocoder's own padding of the mels is cut off again."""
        hop = self.spectrograms.sound.hop
        edge = generator.inference_padding * hop
        return generator.inference(clips)[:, 0, edge : edge + clips.shape[2] * hop]

    def about(self) -> bytes:
        return networks.hyperparams(self.options).encode()

    def packed(self, weights: Mapping[str, Tensor]) -> bytes:
        buffer = io.BytesIO()
        torch.save(dict(weights), buffer)
        return buffer.getvalue()

    def load(self, source: str) -> nn.Module:
        cfg = change(self.spectrograms, {"vocoder": source})
        return load_hifigan(cfg, torch.device("cpu")).generator


class IstftKind:
    """The small vocoder after Vocos, for the clips of the recipe as they are."""

    more_frames = 1
    constant, weights = istft.ABOUT, istft.WEIGHTS
    advice = f"Name a folder that holds {istft.ABOUT} and {istft.WEIGHTS}"
    sizes = "--width, --blocks"
    smaller = "--width and --blocks"

    def __init__(self, options: IstftOptions, recipe: Config) -> None:
        self.options, self.spectrograms = options, recipe
        self.size = istft.Size(**{name: getattr(options, name) for name in istft.RANGES})

    def build(self) -> tuple[nn.Module, nn.Module | None]:
        judged = self.options.adversarial_weight > 0
        network = istft.Network(self.spectrograms, self.size)
        return network, istft_networks.Discriminator() if judged else None

    def losses(self, device: torch.device) -> istft_networks.Losses:
        return istft_networks.Losses(self.options, self.spectrograms, device)

    def play(self, generator: nn.Module, clips: Tensor) -> Tensor:
        return generator.play(clips)

    def about(self) -> bytes:
        return istft.about(self.spectrograms.sound, self.size)

    def packed(self, weights: Mapping[str, Tensor]) -> bytes:
        return istft.packed(weights, self.about())

    def load(self, source: str) -> nn.Module:
        cfg = change(self.spectrograms, {"vocoder": source})
        return load_istft(cfg, torch.device("cpu")).network


def kind_of(options: Common, recipe: Config) -> Kind:
    """The kind that the constants are of, for the clips of `recipe`."""
    kinds = {"hifigan": HifiGanKind, "istft": IstftKind}
    return kinds[options.kind](options, recipe)
