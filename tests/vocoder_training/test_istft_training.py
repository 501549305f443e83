"""Training a small vocoder after Vocos: it learns, goes on where it stopped, on any spectrogram."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import weights
from stopped import stopped_after
from test_vocoder_training import same
from tiny import tiny

import config
import train_vocoder
from soundgan import audio
from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.settings import Config
from soundgan.training.checkpoints import find_checkpoint
from soundgan.training.log import read_log
from soundgan.vocoder_training import training
from soundgan.vocoder_training.istft_networks import WINDOWS, Discriminator, Losses
from soundgan.vocoder_training.run import Run
from soundgan.vocoder_training.settings import IstftOptions
from soundgan.vocoder_training.steps import segments
from soundgan.vocoder_training.validation import resynthesise

CPU = torch.device("cpu")
RECIPES = {
    name: change(cfg, {"sound.frames": 41 if cfg.sound.hop == 256 else 21})
    for name, cfg in config.RECIPES.items()
    if not cfg.sound.raw
}


@pytest.fixture
def options(sounds, tmp_path) -> IstftOptions:
    return tiny("istft", sounds, tmp_path, judge_clips=3, width=16, blocks=1, iterations=0)


@pytest.fixture
def train() -> Callable[[IstftOptions], Run]:
    return partial(training.train, recipes=RECIPES)


# ---- the parts ----------------------------------------------------------------------------------


def test_the_losses_by_hand(options):
    losses = Losses(options, RECIPES["best"], CPU)
    assert losses.critic([torch.tensor([0.5, 2.0])], [torch.tensor([-2.0, 0.0])]).item() == (
        pytest.approx(0.25 + 0.5)
    )
    wave = torch.randn(2, 1, 4096, generator=torch.Generator().manual_seed(0))
    whole, adversarial, features, distance = losses.generator(wave, wave, ([], []), ([], []))
    assert [x.item() for x in (whole, adversarial, features, distance)] == [0, 0, 0, 0]
    _, _, _, distance = losses.generator(wave * torch.e, wave, ([], []), ([], []))
    assert distance.item() == pytest.approx(1 + len(WINDOWS), rel=1e-3)  # a neper in each
    losses = Losses(replace(options, adversarial_weight=3.0), RECIPES["best"], CPU)
    near, far = ([torch.tensor([0.5])], [[torch.ones(4)]]), ([], [[torch.zeros(4)]])
    whole, *_ = losses.generator(wave, wave, near, far)
    assert whole.item() == pytest.approx(3 * 0.5 + 2 * 1)


def test_silence_has_a_gradient(options):
    """The root of zero has none."""
    losses = Losses(options, RECIPES["best"], CPU)
    fake = torch.zeros(1, 1, 2048, requires_grad=True)
    losses.generator(fake, torch.ones(1, 1, 2048), ([], []), ([], []))[0].backward()
    assert fake.grad.isfinite().all()


def test_the_discriminator_judges_places(options):
    scores, features = Discriminator()(torch.randn(2, 1, 8192))
    assert [score.shape for score in scores] == [(2, 1, 61, 17), (2, 1, 13, 65)]
    assert [len(own) for own in features] == [3, 3]


def test_decibels_know_no_level(options):
    """The same clip at another level: the same segment of sound, at that of its own decibels."""
    run = Run.start(replace(options, recipe="lofi-wgan", segment=4096), RECIPES["lofi-wgan"], CPU)
    x = torch.randn(2, 1, 20 * 512, generator=torch.Generator().manual_seed(0))
    taken = []
    for level in (1.0, 0.1):
        torch.manual_seed(0)
        taken.append(segments(run, level * x))
    (real, mel), (quiet, other) = taken
    assert mel.shape == (2, 256, 9)
    torch.testing.assert_close(real, quiet, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mel, other, rtol=1e-3, atol=1e-3)
    inner = slice(2, -2)  # whose windows lie within the segment
    own = audio.expand(mel, run.transform.cfg)[..., inner]
    torch.testing.assert_close(run.transform.mel(real[:, 0])[..., inner], own, rtol=1e-2, atol=1e-4)


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["best", "cgan", "lofi-wgan"])
def test_it_learns_and_its_runs_can_play_through_it(options, train, recipe):
    run = train(replace(options, recipe=recipe, steps=60, save_every=10, sample_every=60))
    rows = read_log(run.run_dir / "log.csv", 60, by="step")
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert rows[-1]["mel"] < 0.75 * rows[0]["mel"]
    assert rows[-1]["held_out_mel"] < rows[0]["held_out_mel"]
    assert run.critic is None

    cfg = change(RECIPES[recipe], {"vocoder": str(run.run_dir)})
    vocoder, note = audio.load_vocoder(cfg, CPU)
    assert isinstance(vocoder, audio.Istft)
    assert note == ""
    waves = 0.1 * torch.randn(2, cfg.sound.clip_samples)
    played = vocoder(audio.Transform(cfg)(waves))
    assert played.shape == (2, cfg.sound.wav_samples)
    torch.testing.assert_close(played, resynthesise(run, waves), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("adversarial", [0.0, 1.0])
def test_a_stopped_run_is_the_same_run(options, train, monkeypatch, adversarial):
    options = replace(options, adversarial_weight=adversarial)
    whole = train(replace(options, run_name="whole"))
    with stopped_after(3, monkeypatch):
        train(options)
    parts = train(options)
    states = [find_checkpoint(run.run_dir).state for run in (whole, parts)]
    assert ("critic" in states[0]) == (adversarial > 0)
    for state in states:
        del state["seconds"], state["log"], state["options"]["run_name"]
    assert same(*states)
    name = "istft.safetensors"
    assert (whole.run_dir / name).read_bytes() == (parts.run_dir / name).read_bytes()


@pytest.mark.slow
def test_it_begins_with_another_and_may_be_played_otherwise(options, train):
    first = train(replace(options, run_name="first", steps=1))
    further = train(
        replace(options, source=str(first.run_dir), steps=1, learning_rate=1e-30, weight_decay=0.0)
    )
    torch.testing.assert_close(weights(further.generator), weights(first.generator))
    train(replace(options, run_name="first", steps=1, iterations=3))
    cfg = change(RECIPES[options.recipe], {"vocoder": str(first.run_dir)})
    assert audio.open_vocoder(cfg, CPU).network.size.iterations == 3


# ---- what can go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "wavegan"}, r"^recipe = 'wavegan': must be one of spectrograms: sn-wgan-gp"),
        ({"width": 4}, r"^width = 4: must be at least 8 \(--width\)"),
        ({"blocks": 65}, r"^blocks = 65: must be at most 64"),
        ({"iterations": -1}, r"^iterations = -1: must be at least 0"),
        ({"adversarial_weight": -1.0}, r"^adversarial_weight = -1.0: must be zero or a positive"),
        ({"segment": 1000}, r"^segment = 1000: must be a multiple of the hop \(256\)"),
        ({"kind": "hifigan"}, r"^kind = 'hifigan': its constants are those of istft"),
        ({"source": "./nowhere"}, r"^--from ./nowhere cannot be used: there is no such folder\. N"),
    ],
)
def test_constants_that_cannot_work(options, train, changes, said):
    with pytest.raises(UserError, match=said):
        train(replace(options, **changes))


def test_another_kind_is_refused(options, train, capsys):
    run = train(replace(options, steps=1))
    words = ["--output-dir", options.output_dir, "--data-dir", options.data_dir, "--segment"]
    assert train_vocoder.main([*words, "2048"]) == 2
    assert "kind istft -> hifigan" in " ".join(capsys.readouterr().err.split())
    assert train_vocoder.main([*words, "2048", "--kind", "hifi"]) == 2
    assert "There is no kind 'hifi' (--kind): did you mean hifigan?" in capsys.readouterr().err
    assert train_vocoder.kind_asked(["--kind=istft"]) == "istft"
    assert train_vocoder.kind_asked(["--from", "x"]) == "hifigan"
    assert find_checkpoint(run.run_dir).state["step"] == 1


@pytest.fixture(autouse=True)
def _recipes(monkeypatch):
    """The command line's recipes have short clips, too."""
    for name, cfg in RECIPES.items():
        monkeypatch.setitem(config.RECIPES, name, cfg)


def test_every_recipe_of_spectrograms_has_one(options):
    cfg: Config
    for name, cfg in RECIPES.items():
        run = Run.start(replace(options, recipe=name, segment=4 * cfg.sound.n_fft), cfg, CPU)
        assert run.generator(torch.zeros(1, cfg.sound.n_mels, 9)).shape == (1, 1, 8 * cfg.sound.hop)
