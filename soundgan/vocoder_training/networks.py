"""SpeechBrain's HiFi-GAN: the generator, and the discriminators it is trained against."""

from __future__ import annotations

import json
from types import ModuleType

from torch import nn

from soundgan import packages
from soundgan.audio.hifigan import MODULE, check
from soundgan.audio.vocoders import HIFIGAN_GRID
from soundgan.errors import UserError
from soundgan.vocoder_training.settings import Options


def build(options: Options) -> tuple[nn.Module, nn.Module]:
    """Generator `(B, M, T) -> (B, 1, T * hop)` and discriminators, from SpeechBrain.

    The discriminators' scores and features are lists, one entry a period or scale. Raises UserError
    where nobody could play through such a generator.
    """
    arguments = generator_arguments(options)
    try:
        check(arguments)  # as whoever plays through it will
    except ValueError as reason:
        raise UserError(f"These constants make no HiFi-GAN: its {reason}.") from reason
    hifigan = speechbrain()
    generator = hifigan.HifiganGenerator(**arguments)
    critic = hifigan.HifiganDiscriminator()
    if options.periods != Options.periods:
        some = [hifigan.DiscriminatorP(period) for period in options.periods]
        critic.mpd.discriminators = nn.ModuleList(some)
    critic.msd.discriminators = critic.msd.discriminators[: options.scales]
    return generator, critic


def speechbrain() -> ModuleType:
    """SpeechBrain's networks and losses of HiFi-GAN, which take a second to import: when wanted.

    Raises UserError where they cannot be imported.
    """
    return packages.needed(MODULE, "Training a vocoder")


def generator_arguments(options: Options) -> dict[str, object]:
    """Arguments of SpeechBrain's HifiganGenerator."""
    kernels = list(options.resblock_kernels)
    return {
        "in_channels": HIFIGAN_GRID["n_mels"],
        "out_channels": 1,
        "resblock_type": "1",
        "resblock_dilation_sizes": [list(options.resblock_dilations) for _ in kernels],
        "resblock_kernel_sizes": kernels,
        "upsample_kernel_sizes": list(options.upsample_kernels),
        "upsample_initial_channel": options.channels,
        "upsample_factors": list(options.upsample_factors),
        "inference_padding": 5,
        "cond_channels": 0,
        "conv_post_bias": True,
    }


def hyperparams(options: Options) -> str:
    """The `hyperparams.yaml` from which SpeechBrain builds the generator and fills it."""
    lines = ["generator: !new:speechbrain.lobes.models.HifiGAN.HifiganGenerator"]
    arguments = generator_arguments(options)
    lines += [f"    {name}: {json.dumps(value)}" for name, value in arguments.items()]
    lines += ["modules:", "    generator: !ref <generator>"]
    lines += ["pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer"]
    lines += ["    loadables:", "        generator: !ref <generator>"]
    return "\n".join(lines) + "\n"
