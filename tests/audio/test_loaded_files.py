"""A vocoder's folder is data: what it asks to be executed is not, and what is damaged is said."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from speechbrain.inference.vocoders import HIFIGAN
from speechbrain.lobes.models.HifiGAN import HifiganGenerator

from soundgan import audio
from soundgan.audio import hifigan
from soundgan.config_io import change

CPU = torch.device("cpu")
SHAPE = {
    "in_channels": 80,
    "out_channels": 1,
    "resblock_type": "1",
    "resblock_dilation_sizes": [[1, 3, 5], [1, 2, 4]],
    "resblock_kernel_sizes": [3, 7],
    "upsample_kernel_sizes": [16, 16, 4, 4],
    "upsample_initial_channel": 64,
    "upsample_factors": [8, 8, 2, 2],
    "inference_padding": 5,
    "cond_channels": 0,
    "conv_post_bias": True,
}
KIND = "!new:speechbrain.lobes.models.HifiGAN.HifiganGenerator"


def written(generator: str) -> str:
    """A `hyperparams.yaml` as SpeechBrain reads it, with this for its generator."""
    lines = [f"generator: {generator}", "modules:", "    generator: !ref <generator>"]
    lines += ["pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer"]
    return "\n".join([*lines, "    loadables:", "        generator: !ref <generator>", ""])


def arguments(**edits: object) -> str:
    values = SHAPE | edits
    return KIND + "".join(f"\n    {name}: {value!r}" for name, value in values.items())


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small HiFi-GAN with random weights."""
    folder = tmp_path / "vocoder"
    folder.mkdir()
    torch.manual_seed(0)
    torch.save(HifiganGenerator(**SHAPE).state_dict(), folder / "generator.ckpt")
    (folder / "hyperparams.yaml").write_text(written(arguments()))
    return folder


def refused(default, folder: Path, *parts: str) -> None:
    cfg = change(default, {"vocoder": str(folder)})
    with pytest.raises(audio.BadVocoder) as error:
        audio.open_vocoder(cfg, CPU)
    vocoder, note = audio.load_vocoder(cfg, CPU)
    assert isinstance(vocoder, audio.GriffinLim)
    assert "\n" not in note
    for part in (*parts, "--vocoder"):
        assert part in note
    assert all(part in str(error.value) for part in parts)


# ---- the same as SpeechBrain's loader ------------------------------------------------------------


def test_it_plays_what_speechbrains_own_loader_plays(default, folder):
    mel = torch.randn(2, 80, 24, generator=torch.Generator().manual_seed(1)) - 5
    torch.manual_seed(3)
    theirs = HIFIGAN.from_hparams(source=str(folder), savedir=None)
    drawn = torch.get_rng_state()
    torch.manual_seed(3)
    ours = audio.load_hifigan(change(default, {"vocoder": str(folder)}), CPU)
    assert torch.equal(torch.get_rng_state(), drawn)  # a vocoder's training goes on from here
    state = theirs.hparams.generator.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in ours.generator.state_dict().items())
    given = mel.clamp(min=default.sound.quietest).exp().clamp(min=1e-5).log()
    expected = theirs.decode_batch(given)[:, 0, 5 * 256 : -5 * 256]
    assert torch.equal(ours(mel[:, None]), expected)
    assert torch.equal(ours(mel[:, None]), expected)  # without norms now


def test_values_may_stand_in_the_first_rank_and_weights_have_their_older_names(default, folder):
    """As in the published folders."""
    plain = audio.open_vocoder(change(default, {"vocoder": str(folder)}), CPU)
    above = "".join(f"{name}: {value!r}\n" for name, value in SHAPE.items())
    refs = KIND + "".join(f"\n    {name}: !ref <{name}>" for name in SHAPE)
    (folder / "hyperparams.yaml").write_text("# constants\n" + above + written(refs))
    state = torch.load(folder / "generator.ckpt")
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in state.items()
    }
    assert "conv_pre.conv.weight_g" in older
    torch.save(older, folder / "generator.ckpt")
    vocoder = audio.open_vocoder(change(default, {"vocoder": str(folder)}), CPU)
    mel = torch.randn(1, 1, 80, 16) - 5
    assert torch.equal(vocoder(mel), plain(mel))


# ---- what is not executed ------------------------------------------------------------------------


class Trap:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def trap(tmp_path):
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


CALLS = (
    "!apply:os.system [touch {trap}]",
    "!new:subprocess.Popen [[touch, {trap}]]",
    "!name:os.system [touch {trap}]",
    "!!python/object/apply:os.system [touch {trap}]",
    "!!python/object/new:os.system [touch {trap}]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!include:{trap}",
    "!copy <x>",
    "!tuple (1, 2)",
    "!ref <__import__('os').system('touch {trap}')>",
)


@pytest.mark.parametrize("call", CALLS)
def test_a_generator_of_another_kind_is_refused(default, folder, trap, call):
    (folder / "hyperparams.yaml").write_text(written(call.format(trap=trap)))
    refused(default, folder, "its hyperparams.yaml cannot be used: its generator is", "is known")


@pytest.mark.parametrize("call", CALLS)
def test_a_value_that_asks_for_a_call_is_refused(default, folder, trap, call):
    text = arguments().replace("in_channels: 80", f"in_channels: {call.format(trap=trap)}")
    (folder / "hyperparams.yaml").write_text(written(text))
    refused(default, folder, "where a plain value is needed")


@pytest.mark.parametrize("call", CALLS)
def test_what_else_stands_there_is_not_looked_at(default, folder, trap, call):
    text = f"__set_seed: {call.format(trap=trap)}\n" + written(arguments())
    (folder / "hyperparams.yaml").write_text(text)
    assert isinstance(
        audio.open_vocoder(change(default, {"vocoder": str(folder)}), CPU), audio.HifiGan
    )


def test_speechbrain_would_have_executed_it(folder, tmp_path):
    """That these folders are traps at all."""
    path = tmp_path / "by-speechbrain"
    (folder / "hyperparams.yaml").write_text(f"x: !apply:os.system ['touch {path}']\n")
    with pytest.raises(KeyError):
        HIFIGAN.from_hparams(source=str(folder), savedir=None)
    assert path.exists()


@pytest.mark.parametrize("where", ["whole", "beside the weights", "named as a weight"])
def test_a_checkpoint_that_runs_code_is_refused(default, folder, trap, where):
    state = torch.load(folder / "generator.ckpt")
    content = {
        "whole": Trap(trap),
        "beside the weights": state | {"more": Trap(trap)},
        "named as a weight": state | {"conv_pre.conv.bias": Trap(trap)},
    }[where]
    torch.save(content, folder / "generator.ckpt")
    refused(default, folder, "its generator.ckpt is damaged, or holds more than weights")
    (folder / "generator.ckpt").write_bytes(pickle.dumps(Trap(trap)))
    refused(default, folder, "its generator.ckpt is damaged, or holds more than weights")


# ---- traps and damage ----------------------------------------------------------------------------

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghijkl", "bcdefghijklm")
)
NESTED = "[" * 1500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "it uses aliases"),
        ("a: &a {x: 1}\nb: {<<: [*a, *a]}\n", "it uses aliases"),
        (f"a: {NESTED}", "cannot be used"),
        ("#" * 2**16 + "\n", "more than 65536 bytes"),
        ("", "its generator is 'none'"),
        ("- 1\n- 2\n", "its generator is 'none'"),
        ("generator: 3\n", "its generator is 'none'"),
        ("a: [1\n", "cannot be used"),
        ("\x00\x01", "cannot be used"),
        ("a: 1e400\ngenerator: !new:x {}\n", "is known"),
        ("a: " + "9" * 6000, "cannot be used"),
        ("a: 2001-99-99\n", "cannot be used"),
        (f"generator: {KIND}\n", "has no table"),
        (f"generator: {KIND} [80, 1]\n", "has no table"),
        (f"generator: {KIND} {{}}\n", "'in_channels' is missing"),
    ],
)
def test_yaml_that_is_none_of_a_hifigan(default, folder, text, said):
    (folder / "hyperparams.yaml").write_text(text)
    refused(default, folder, said)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"in_channels": "80"}, "in_channels is '80', and must be a whole number"),
        ({"in_channels": True}, "in_channels is True"),
        ({"in_channels": 10**9}, "in_channels is 1000000000"),
        ({"out_channels": 2}, "out_channels is 2"),
        ({"resblock_type": 1}, "resblock_type is 1, and must be '1' or '2'"),
        ({"resblock_type": "3"}, "resblock_type"),
        ({"resblock_dilation_sizes": [[1, 3, 5]]}, "resblock_dilation_sizes"),
        ({"resblock_dilation_sizes": [[1, 3], [1, 2]]}, "resblock_dilation_sizes"),
        ({"resblock_kernel_sizes": []}, "resblock_kernel_sizes"),
        ({"resblock_kernel_sizes": [3, -7]}, "resblock_kernel_sizes"),
        ({"upsample_kernel_sizes": [16, 16, 4]}, "upsample_kernel_sizes"),
        ({"upsample_kernel_sizes": [4, 16, 4, 4]}, "at least their factors"),
        ({"upsample_factors": [1000, 1000, 2, 2]}, "upsample_factors"),
        ({"upsample_factors": "8822"}, "upsample_factors"),
        ({"upsample_initial_channel": 8}, "upsample_initial_channel is 8"),
        ({"upsample_initial_channel": 10**9}, "upsample_initial_channel is 1000000000"),
        ({"upsample_initial_channel": 16384}, "less: over 1e8 weights"),
        ({"inference_padding": -1}, "inference_padding"),
        ({"cond_channels": 3}, "cond_channels"),
        ({"conv_post_bias": 1}, "conv_post_bias"),
        ({"colour": 1}, "'colour' is missing, or not known"),
        ({"conv_post_bias": False}, "do not fit its hyperparams.yaml"),
        ({"upsample_initial_channel": 128}, "do not fit its hyperparams.yaml"),
    ],
)
def test_values_that_cannot_be_meant_are_named(default, folder, edit, said):
    (folder / "hyperparams.yaml").write_text(written(arguments(**edit)))
    refused(default, folder, said)


def test_weights_that_cannot_be_played_are_named(default, folder):
    path = folder / "generator.ckpt"
    whole = torch.load(path)

    def save(**edits: object) -> None:
        torch.save(copy.deepcopy(whole) | {"conv_post.conv.bias": torch.zeros(1)} | edits, path)

    save(**{"conv_pre.conv.bias": torch.full((64,), float("nan"))})
    refused(default, folder, "conv_pre.conv.bias holds NaN, Inf or over 1e6")
    save(**{"conv_pre.conv.bias": torch.full((64,), 1e20)})
    refused(default, folder, "conv_pre.conv.bias holds NaN, Inf or over 1e6")
    save(**{"conv_pre.conv.bias": torch.zeros(64, dtype=torch.long)})
    refused(default, folder, "no plain numbers")
    save(**{"conv_pre.conv.bias": "abc"})
    refused(default, folder, "its weights hold a str")
    save(**{"conv_pre.conv.bias": torch.zeros(1).expand(10**13)})  # of a few bytes
    refused(default, folder, "do not fit")
    save(more=torch.zeros(3))
    refused(default, folder, "do not fit")
    torch.save([1, 2], path)
    refused(default, folder, "holds no weights")
    torch.save({}, path)
    refused(default, folder, "do not fit")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    refused(default, folder, "damaged")
    with open(path, "wb") as file:
        file.truncate(10**12)  # takes no room on the disk
    refused(default, folder, "is larger than its network")


def test_only_regular_files_are_opened(default, folder):
    (folder / "generator.ckpt").unlink()
    os.mkfifo(folder / "generator.ckpt")
    refused(default, folder, "the folder holds no generator.ckpt")


def test_flipped_bits_of_a_checkpoint_are_said_or_change_no_weight(default, folder):
    """The archive that torch.save makes has checksums, though torch.load looks at none."""
    content = (folder / "generator.ckpt").read_bytes()
    cfg = change(default, {"vocoder": str(folder)})
    whole = audio.load_vocoder(cfg, CPU)[0].generator.state_dict()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(len(content), (20,), generator=generator).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        (folder / "generator.ckpt").write_bytes(flipped)
        vocoder, note = audio.load_vocoder(cfg, CPU)
        assert "\n" not in note
        assert isinstance(vocoder, audio.HifiGan) == (note == "")
        if not note:  # between the entries of the archive
            state = vocoder.generator.state_dict()
            assert all(torch.equal(value, whole[name]) for name, value in state.items())


def test_the_size_is_about_that_of_the_network():
    weights = sum(p.numel() for p in HifiganGenerator(**SHAPE).parameters())
    assert hifigan._count(SHAPE) == pytest.approx(weights, rel=0.05)


def test_a_published_name_may_be_fetched_for_a_run_and_no_other():
    assert audio.may_fetch("speechbrain/tts-hifigan-ljspeech")
    assert not audio.may_fetch("somebody/tts-hifigan-ljspeech")


def test_a_copy_of_the_folder_is_the_same_vocoder(default, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    mel = torch.randn(1, 1, 80, 8)
    waves = [
        audio.open_vocoder(change(default, {"vocoder": str(where)}), CPU)(mel)
        for where in (folder, tmp_path / "copy")
    ]
    assert torch.equal(*waves)
