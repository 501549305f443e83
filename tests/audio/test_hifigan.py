"""SpeechBrain's HiFi-GAN through the code that loads the published one, on random weights."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest
import torch
from speechbrain.lobes.models.HifiGAN import HifiganGenerator

import train
from soundgan import audio
from soundgan.audio import loading
from soundgan.audio.vocoders import VOCODER_REVISIONS
from soundgan.config_io import change
from soundgan.evaluation import classifier
from soundgan.settings import GRIFFIN_LIM

CPU = torch.device("cpu")
SHAPE = {
    "in_channels": 80,
    "out_channels": 1,
    "resblock_type": "1",
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "resblock_kernel_sizes": [3, 7, 11],
    "upsample_kernel_sizes": [16, 16, 4, 4],
    "upsample_initial_channel": 512,
    "upsample_factors": [8, 8, 2, 2],
    "inference_padding": 5,
    "cond_channels": 0,
    "conv_post_bias": True,
}


@pytest.fixture(scope="session")
def hifigan(tmp_path_factory) -> Path:
    """A folder of the published form and size, with random weights."""
    folder = tmp_path_factory.mktemp("vocoder") / "hifigan"
    folder.mkdir()
    torch.manual_seed(0)
    generator = HifiganGenerator(**SHAPE)
    assert sum(p.numel() for p in generator.parameters()) == 13_936_130
    torch.save(generator.state_dict(), folder / "generator.ckpt")
    lines = ["generator: !new:speechbrain.lobes.models.HifiGAN.HifiganGenerator"]
    lines += [f"    {name}: {value!r}" for name, value in SHAPE.items()]
    lines += ["modules:", "    generator: !ref <generator>"]
    lines += ["pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer"]
    lines += ["    loadables:", "        generator: !ref <generator>"]
    (folder / "hyperparams.yaml").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def test_a_folder_is_loaded_and_plays(default, hifigan):
    vocoder, note = audio.load_vocoder(change(default, {"vocoder": str(hifigan)}), CPU)
    assert isinstance(vocoder, audio.HifiGan)
    assert note == ""
    mel = torch.randn(3, 1, 80, 24) - 5
    together = vocoder(mel)
    assert together.shape == (3, 24 * 256)
    assert 0 < together.abs().max() <= 1
    alone = torch.cat([vocoder(one[None]) for one in mel])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


def test_the_vocoders_own_padding_is_cut_evenly(default, hifigan):
    vocoder, _ = audio.load_vocoder(change(default, {"vocoder": str(hifigan)}), CPU)
    mel = torch.randn(1, 1, 80, 24) - 5
    padded = vocoder.model.decode_batch(mel[:, 0])[:, 0]
    assert padded.shape == (1, 34 * 256)
    torch.testing.assert_close(vocoder(mel), padded[:, 1280:-1280])


def test_loading_and_vocoding_leave_the_random_state(default, hifigan):
    """A continued run loads its vocoder after its random state."""
    for name in (str(hifigan), GRIFFIN_LIM):
        before = torch.get_rng_state()
        vocoder, note = audio.load_vocoder(change(default, {"vocoder": name}), CPU)
        assert note == ""
        vocoder(torch.randn(1, 1, 80, 8, generator=torch.Generator().manual_seed(0)))
        assert torch.equal(torch.get_rng_state(), before)


def test_the_hubs_local_cache_is_enough(default, hifigan, tmp_path, monkeypatch):
    """As the hub's client lays out the pinned revision; nothing is fetched."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revision = VOCODER_REVISIONS[default.vocoder]
    folder = tmp_path / f"models--{default.vocoder.replace('/', '--')}" / "snapshots" / revision
    shutil.copytree(hifigan, folder)
    vocoder, note = audio.load_vocoder(default, CPU)
    assert isinstance(vocoder, audio.HifiGan)
    assert note == ""
    assert vocoder(torch.randn(1, 1, 80, 8)).shape == (1, 8 * 256)


def assert_falls_back(cfg, reason: str, **how) -> None:
    start = time.monotonic()
    vocoder, note = audio.load_vocoder(cfg, CPU, **how)
    assert time.monotonic() - start < 5
    assert isinstance(vocoder, audio.GriffinLim)
    for part in (cfg.vocoder, reason, "Griffin-Lim", "--vocoder"):
        assert part in note
    assert vocoder(torch.zeros(2, 1, cfg.sound.n_mels, 8)).shape == (2, 8 * cfg.sound.hop)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


@pytest.mark.usefixtures("empty_cache")
def test_out_of_reach(default, monkeypatch):
    assert_falls_back(default, "the hub cannot be reached")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_falls_back(default, "HF_HUB_OFFLINE is set")


@pytest.mark.slow
@pytest.mark.usefixtures("empty_cache")
def test_a_hub_that_never_answers(default, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert_falls_back(default, "the hub cannot be reached")


@pytest.mark.usefixtures("empty_cache")
def test_a_dry_run_fetches_nothing(default, monkeypatch):
    monkeypatch.setattr(loading, "_hub_answers", lambda name: True)
    assert_falls_back(default, "a real run fetches it", fetch=False)


def test_folders_that_are_none(default, hifigan, tmp_path):
    assert_falls_back(change(default, {"vocoder": "./nowhere"}), "there is no such folder")
    (tmp_path / "half").mkdir()
    shutil.copy(hifigan / "hyperparams.yaml", tmp_path / "half")
    assert_falls_back(change(default, {"vocoder": str(tmp_path / "half")}), "no generator.ckpt")
    shutil.copytree(hifigan, tmp_path / "broken")
    (tmp_path / "broken" / "generator.ckpt").write_bytes(b"rubbish")
    assert_falls_back(
        change(default, {"vocoder": str(tmp_path / "broken")}), "cannot load the folder"
    )


def test_weights_of_another_form_fall_back(default, hifigan, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    torch.save(
        HifiganGenerator(**(SHAPE | {"in_channels": 100})).state_dict(), folder / "generator.ckpt"
    )
    text = (hifigan / "hyperparams.yaml").read_text().replace("in_channels: 80", "in_channels: 100")
    (folder / "hyperparams.yaml").write_text(text)
    assert_falls_back(change(default, {"vocoder": str(folder)}), "it loads but does not play")


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("address", ["hub.invalid", "http://hub.invalid", "nonsense://"])
def test_addresses_that_are_none(default, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert_falls_back(default, "the hub cannot be reached")


def test_another_grid_names_the_constants(default, hifigan):
    cfg = change(default, {"vocoder": str(hifigan), "sound.n_mels": 64, "sound.f_max": 11025.0})
    assert_falls_back(cfg, "n_mels = 64, not 80; f_max = 11025.0, not 8000.0")


@pytest.mark.slow
def test_a_run_plays_through_the_vocoder_it_names(default, hifigan, sounds, tmp_path, monkeypatch):
    """The whole way once on the vocoder's own grid, with short clips and small networks."""
    monkeypatch.setattr(classifier, "STEPS", 20)
    cfg = change(
        default,
        {
            "data_dir": str(sounds),
            "output_dir": str(tmp_path / "outputs"),
            "device": "cpu",
            "vocoder": str(hifigan),
            "sound.frames": 16,
            "generator.channels": (16, 8),
            "critic.channels": (8, 16),
            "epochs": 1,
        },
    )
    run = train.train(cfg)
    assert run.epoch == 1
    for folder in ("real", "epoch_0001"):
        path = cfg.run_dir / "samples" / folder / "low.wav"
        assert path.stat().st_size == 44 + 2 * 16 * 256
