"""The constants of a vocoder's training: their types, their ranges, and what can be played."""

from __future__ import annotations

from dataclasses import replace

import pytest

import config
import train_vocoder
from soundgan.errors import UserError
from soundgan.vocoder_training.networks import build
from soundgan.vocoder_training.settings import check


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": True}, r"^batch_size = True: must be a whole number \(--batch-size\)\.$"),
        ({"steps": "10"}, r"^steps = '10': must be a whole number"),
        ({"steps": 10**15}, r"^steps = 10+: must be at most 1 000 000 000 000"),
        ({"learning_rate": float("nan")}, r"^learning_rate = nan: must be a number"),
        ({"betas": (0.8,)}, r"^betas = \(0\.8,\): must be 2 numbers"),
        (
            {"upsample_factors": (8, 8, 2, "2")},
            r"^upsample_factors = .*: each entry must be a whole",
        ),
        (
            {"periods": (2, 10**9)},
            r"^periods = .*: must be 1 to the segment's samples \(8192\) each",
        ),
        ({"source": "a\x1bb"}, r"^source = 'a\\x1bb': must hold no control characters"),
        ({"decode_threads": 10**9}, r"^decode_threads = 10+: must be at most 1 024"),
    ],
)
def test_types_and_ranges(changes, said):
    with pytest.raises(UserError, match=said):
        check(replace(train_vocoder.usual(), **changes), config.RECIPES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": 10**6 * 16}, "its upsample_initial_channel is 16000000"),
        ({"channels": 2**14}, "less: over 1e8 weights"),
        ({"resblock_kernels": (1025,)}, "its resblock_kernel_sizes"),
        ({"resblock_dilations": (1, 3, 5000)}, "its resblock_dilation_sizes"),
    ],
)
def test_what_nobody_could_play_is_not_trained(changes, said):
    options = replace(train_vocoder.usual(), **changes)
    check(options, config.RECIPES)
    with pytest.raises(UserError, match=rf"^These constants make no HiFi-GAN: {said}|{said}"):
        build(options)
