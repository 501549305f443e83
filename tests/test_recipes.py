"""The six recipes: their schedules, and what all of them can do."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import soundfile
import torch
from conftest import shrunk, weights

import config
import generate
import train
from soundgan import command_line, models
from soundgan.audio.vocoders import HIFIGAN_GRID
from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.models.sampling import generate_clips
from soundgan.training.objectives import Relativistic, WassersteinGP
from soundgan.training.run import Run

CPU = torch.device("cpu")
ALL = list(config.RECIPES)


@pytest.fixture(params=ALL)
def recipe(request, sounds, tmp_path):
    """Each recipe in turn, with tiny numbers."""
    return shrunk(config.RECIPES[request.param], sounds, tmp_path / "outputs")


def small_of(name, sounds, tmp_path):
    return shrunk(config.RECIPES[name], sounds, tmp_path / "outputs")


def started(cfg):
    return Run.start(cfg, list("abc") if cfg.conditional else [], CPU)


def batch_of(cfg, count=4):
    torch.manual_seed(1)
    return torch.rand(count, *cfg.shape) * 0.5, torch.arange(count) % 3


# ---- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "critic", "generator"),
    [
        pytest.param("sn-wgan-gp", 24, 8, marks=pytest.mark.slow),
        ("cgan", 8, 8),
        pytest.param("lofi-wgan", 24, 8, marks=pytest.mark.slow),
        ("frequency-quest", 8, 1),
    ],
)
def test_updates_of_two_epochs(name, critic, generator, sounds, tmp_path, monkeypatch):
    """8 batches: each three critic updates and one of the generator, or one of the critic each."""
    changed = {"epochs": 2, "sound.cut": "first"}
    cfg = change(small_of(name, sounds, tmp_path), changed)
    counts = {"critic_step": [], "generator_step": []}
    for step, seen in counts.items():
        original = getattr(train, step)

        def counting(run, real, labels, original=original, seen=seen):
            seen.append(real.clone())
            return original(run, real, labels)

        monkeypatch.setattr(train, step, counting)
    run = train.train(cfg)
    assert run.step == 8
    assert (len(counts["critic_step"]), len(counts["generator_step"])) == (critic, generator)
    if cfg.optimiser.fresh_batches:  # a new real batch each
        assert not torch.equal(*counts["critic_step"][:2])
        with open(cfg.run_dir / "log.csv", newline="") as file:
            first, second = csv.DictReader(file)
        assert first["generator_loss"] == "nan"  # its first update came in the second epoch
        assert np.isfinite(float(second["generator_loss"]))


# ---- all alike -----------------------------------------------------------------------------------


def test_labels_can_be_given_and_taken(recipe):
    """`conditional` is a constant: without, labels change nothing; with, they do."""
    labels = torch.tensor([0, 1])
    for conditional in (True, False):
        cfg = change(recipe, {"conditional": conditional})
        torch.manual_seed(0)
        generator, critic = models.build(cfg, 3)
        generator.eval()
        critic.eval()
        z = torch.randn(1, 8).repeat(2, 1)
        x = torch.rand(1, *cfg.shape).expand(2, *cfg.shape)
        for out in (generator(z, labels), critic(x, labels)):
            assert torch.allclose(out[0], out[1], atol=1e-6) != conditional


@pytest.mark.slow
def test_unconditional_recipes_take_a_flat_folder(long_file, tmp_path):
    cfg = change(small_of("lofi-wgan", long_file, tmp_path), {"epochs": 1})
    run = train.train(cfg)
    assert run.classes == []
    names = sorted(p.name for p in (cfg.run_dir / "samples" / "epoch_0001").glob("*.wav"))
    assert names == [f"sample_{k}.wav" for k in range(8)]


@pytest.mark.slow
def test_every_recipe_continues_bit_for_bit(recipe, tmp_path):
    whole = train.train(change(recipe, {"output_dir": str(tmp_path / "whole"), "epochs": 3}))
    train.train(change(recipe, {"epochs": 1}))
    continued = train.train(change(recipe, {"epochs": 3}))
    assert torch.equal(weights(continued.generator), weights(whole.generator))
    assert torch.equal(weights(continued.critic), weights(whole.critic))
    logs = [
        [line.split(",")[:2] + line.split(",")[3:] for line in (r.cfg.run_dir / "log.csv").open()]
        for r in (whole, continued)
    ]
    assert logs[0] == logs[1]
    for path in (whole.cfg.run_dir / "samples").rglob("*.wav"):
        twin = continued.cfg.run_dir / path.relative_to(whole.cfg.run_dir)
        assert path.read_bytes() == twin.read_bytes()
        assert soundfile.info(path).frames == 32 * 64


def test_samples_are_drawn_in_evaluation_mode(sounds, tmp_path):
    """With BatchNorm: a clip does not depend on its neighbours, and no statistic moves."""
    cfg = small_of("cgan", sounds, tmp_path)
    run = started(cfg)
    train.full_step(run, *batch_of(cfg))
    before = weights(run.generator)
    z, labels = run.latents(3), torch.tensor([0, 1, 2])
    together = generate_clips(run.generator, z, labels)
    alone = generate_clips(run.generator, z[1:2], labels[1:2])
    torch.testing.assert_close(together[1:2], alone)
    assert torch.equal(weights(run.generator), before)


def test_longer_and_shorter_sounds_from_the_same_weights(recipe, tmp_path):
    run = train.train(change(recipe, {"epochs": 1}))
    folder = run.cfg.run_dir
    for seconds in (0.1, 0.256, 1.0):
        out = tmp_path / f"{seconds}"
        words = ["--seconds", str(seconds), "--count", "2", "--out", str(out)]
        assert generate.main([str(folder), *words]) == 0
        for path in out.glob("*.wav"):
            assert soundfile.info(path).frames == round(seconds * 8000)
            assert np.isfinite(soundfile.read(path)[0]).all()


def test_what_lies_far_from_a_seam_is_what_each_latent_makes(small):
    """Joined maps are the single ones but for the frames that the kernels reach (no GroupNorm)."""
    run = started(change(small, {"generator.norm": "none"}))
    z = run.latents(2)[None]  # (1, 2, latent_dim)
    label = torch.tensor([1])
    joined = generate_clips(run.generator, z, label)
    first, second = (generate_clips(run.generator, z[:, k], label) for k in (0, 1))
    assert joined.shape[-1] == 64
    reach = 6  # of two stages of kernel 4, stride 2
    torch.testing.assert_close(joined[..., : 32 - reach], first[..., : 32 - reach])
    torch.testing.assert_close(joined[..., 32 + reach :], second[..., reach:])
    assert not torch.allclose(joined[..., 30:34], torch.cat([first, second], -1)[..., 30:34])


# ---- combinations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"sound.standardise": True},
        {"objective": Relativistic(l1_weight=1.0, r1_r2_weight=1.0)},
        {"critic.augment": 0.5},
        {"sound.jitter": 1.0},
        {"optimiser.ema_half_life": 5.0},
    ],
)
def test_a_part_added_to_the_default_trains(changed, small):
    run = train.train(change(small, {"epochs": 1} | changed))
    assert all(torch.isfinite(p).all() for p in run.generator.parameters())


def parsed(words):
    return command_line.parse(words, config.RECIPES, config.SUMMARIES, config.RECIPE)


def test_wgan_gp_and_hifi_gan_for_cgan():
    penalised = {"objective": WassersteinGP(gp_weight=10.0)}
    with pytest.raises(UserError, match=r"gp_weight = 10.0: needs a critic .* \(critic.norm\)"):
        change(parsed(["cgan"]), penalised).check()
    grid = "--sound.n-mels 80 --sound.f-max 8000 --sound.mel-scale slaney --sound.mel-norm slaney"
    vocoder = "--vocoder speechbrain/tts-hifigan-libritts-22050Hz"
    words = f"cgan --critic.norm none {grid} --sound.power 1 {vocoder}"
    cfg = change(parsed(words.split()), penalised)
    cfg.check()
    assert all(getattr(cfg.sound, name) == value for name, value in HIFIGAN_GRID.items())


@pytest.mark.parametrize("wrong", [("wavegan", "griffin-lim"), ("cgan", "none")])
def test_a_vocoder_of_the_wrong_kind(wrong):
    with pytest.raises(UserError, match="vocoder"):
        parsed([wrong[0], "--vocoder", wrong[1]])
