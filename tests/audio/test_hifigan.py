"""SpeechBrain's HiFi-GAN through the code that loads the published one, on random weights."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from speechbrain.lobes.models.HifiGAN import HifiganGenerator

import generate
import train
from soundgan import audio
from soundgan.audio import fetch, loading
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
    padded = vocoder.generator.inference(mel[:, 0])[:, 0]
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


# ---- a hub ---------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """A model hub on this machine. `behaviour`: what it does where a file is asked for."""

    behaviour: ClassVar[str] = ""
    folder: ClassVar[Path]
    asked: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        if self.behaviour == "silent" and "/resolve/" in self.path:
            time.sleep(30)
        path = self.folder / self.path.rpartition("/")[2]
        self.send_response(200 if path.is_file() or "README" in self.path else 404)
        if path.is_file():
            self.send_header("X-Repo-Commit", self.path.split("/")[4])
            self.send_header("ETag", f'"{path.name}"')
            self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        path = self.folder / self.path.rpartition("/")[2]
        content = path.read_bytes() if path.is_file() else b""
        weights = path.suffix == ".ckpt"
        if self.behaviour == "stalls" and weights:
            self.wfile.write(content[:100_000])
            time.sleep(30)
        slow = self.behaviour == "slow" and weights
        for piece in range(6) if slow else ():
            self.wfile.write(content[piece * 20_000 :][:20_000])
            time.sleep(0.7)
        self.wfile.write(content[120_000 if slow else 0 :])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(hifigan, tmp_path, monkeypatch):
    """The class of a hub that has the folder, to be told how it behaves."""
    from huggingface_hub import constants

    kind = type("Hub", (Hub,), {"folder": hifigan, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(fetch, "STALL_SECONDS", 2.0)
        yield kind
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["", "slow"])
def test_it_is_fetched_once_and_at_the_pinned_revision(default, hub, behaviour):
    """However slow the line is: bytes arrive."""
    hub.behaviour = behaviour
    vocoder, note = audio.load_vocoder(default, CPU)
    assert note == ""
    assert isinstance(vocoder, audio.HifiGan)
    asked = [path for path in hub.asked if "/resolve/" in path]
    assert {path.split("/")[4] for path in asked} == {VOCODER_REVISIONS[default.vocoder]}
    assert {path.rpartition("/")[2] for path in asked} == {"hyperparams.yaml", "generator.ckpt"}
    hub.asked.clear()
    assert audio.load_vocoder(default, CPU)[1] == ""
    assert hub.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["stalls", "silent"])
def test_a_hub_that_answers_and_stalls_is_given_up_in_seconds(default, hub, behaviour, tmp_path):
    hub.behaviour = behaviour
    start = time.monotonic()
    vocoder, note = audio.load_vocoder(default, CPU)
    assert time.monotonic() - start < 15  # 2 s, and a process to start on a busy machine
    assert isinstance(vocoder, audio.GriffinLim)
    assert "the hub sent nothing for 2 s" in note
    assert "\n" not in note
    assert not list(tmp_path.rglob("*.incomplete"))


@pytest.mark.slow
def test_a_model_that_the_hub_has_not_is_one_sentence(default, hub):
    hub.folder = Path("nowhere")
    vocoder, note = audio.load_vocoder(default, CPU)
    assert isinstance(vocoder, audio.GriffinLim)
    assert "fetching it failed" in note
    assert "\n" not in note


def test_a_run_has_nothing_unpinned_fetched(default, hub):
    """`fetch` false is what generate.py and evaluate.py say where only config.json names it."""
    cfg = change(default, {"vocoder": "somebody/something"})
    vocoder, note = audio.load_vocoder(cfg, CPU, fetch=audio.may_fetch(cfg.vocoder))
    assert isinstance(vocoder, audio.GriffinLim)
    assert "neither a run's config.json nor a dry run" in note
    assert "--vocoder somebody/something on the command line does" in note
    assert hub.asked == []


@pytest.mark.slow
def test_generate_fetches_only_what_is_pinned_or_typed(small, hub, tmp_path, monkeypatch, capsys):
    cfg = change(small, {"vocoder": GRIFFIN_LIM, "epochs": 1})
    train.train(cfg)
    path = cfg.run_dir / "config.json"
    content = json.loads(path.read_text())
    content["config"]["vocoder"] = "somebody/something"
    path.write_text(json.dumps(content))
    monkeypatch.setattr(loading, "_on_grid", lambda cfg: None)
    options = generate.Options(run=str(cfg.run_dir), count=1, out=str(tmp_path / "new"))
    assert generate.generate(options)
    assert "somebody/something on the command line does" in capsys.readouterr().err
    assert hub.asked == []
    generate.generate(replace(options, vocoder="somebody/something"))
    assert any("/somebody/something/resolve/main/" in path for path in hub.asked)


# ---- folders that are none -----------------------------------------------------------------------


def test_folders_that_are_none(default, hifigan, tmp_path):
    assert_falls_back(change(default, {"vocoder": "./nowhere"}), "there is no such folder")
    (tmp_path / "half").mkdir()
    shutil.copy(hifigan / "hyperparams.yaml", tmp_path / "half")
    assert_falls_back(change(default, {"vocoder": str(tmp_path / "half")}), "no generator.ckpt")
    shutil.copytree(hifigan, tmp_path / "broken")
    (tmp_path / "broken" / "generator.ckpt").write_bytes(b"rubbish")
    assert_falls_back(
        change(default, {"vocoder": str(tmp_path / "broken")}),
        "its generator.ckpt is damaged, or holds more than weights",
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
