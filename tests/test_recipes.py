"""The five systems: their objectives, units, schedules and data, and what all of them can do."""

from __future__ import annotations

import csv
from dataclasses import replace

import librosa
import numpy as np
import pytest
import soundfile
import torch
from conftest import shrunk, weights
from torch import nn

import audio
import config
import dataset
import desk
import generate
import models
import train
from config import UserError

CPU = torch.device("cpu")
ALL = list(config.RECIPES)
PUBLISHED = [name for name, cfg in config.RECIPES.items() if cfg.blocks == "plain"]


@pytest.fixture(params=PUBLISHED)
def published(request, sounds, tmp_path):
    """Each published recipe in turn, with tiny numbers."""
    return shrunk(config.RECIPES[request.param], sounds, tmp_path / "outputs")


@pytest.fixture(params=ALL)
def recipe(request, sounds, tmp_path):
    """Each recipe in turn, with tiny numbers."""
    return shrunk(config.RECIPES[request.param], sounds, tmp_path / "outputs")


def small_of(name, sounds, tmp_path):
    return shrunk(config.RECIPES[name], sounds, tmp_path / "outputs")


def started(cfg):
    return train.Run.start(cfg, list("abc") if cfg.conditional else [], CPU)


def batch_of(cfg, count=4):
    torch.manual_seed(1)
    return torch.rand(count, *cfg.shape) * 0.5, torch.arange(count) % 3


# ---- objectives ----------------------------------------------------------------------------------


def test_cross_entropy_is_pytorchs():
    cfg = config.RECIPES["cgan"]
    real, fake = torch.randn(2, 4, 7)
    bce = nn.functional.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(train.critic_loss(cfg, real, fake), expected)
    torch.testing.assert_close(train.generator_loss(cfg, fake), bce(fake, torch.ones_like(fake)))


def test_wasserstein_losses():
    cfg = config.RECIPES["wavegan"]
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, -2.0])
    assert train.critic_loss(cfg, real, fake) == -3
    assert train.generator_loss(cfg, fake) == 1


def test_weights_are_clipped(sounds, tmp_path):
    cfg = small_of("wavegan", sounds, tmp_path)
    run = started(cfg)
    assert max(p.abs().max() for p in run.critic.parameters()) > 0.01
    train.critic_step(run, *batch_of(cfg))
    assert max(p.abs().max() for p in run.critic.parameters()) <= 0.01


def test_a_patch_head_is_penalised_by_the_mean_of_its_patches():
    """Every patch scores <a, x>: so does their mean, whose slope is a, not their number times a."""
    a = torch.randn(1, 4, 6)

    class Patches(nn.Module):
        def forward(self, x, labels):
            return (x * a).sum(dim=(1, 2, 3))[:, None].expand(-1, 5)

    real, fake = torch.randn(2, 3, 1, 4, 6).unbind()
    penalty = train.gradient_penalty(Patches(), real, fake, torch.zeros(3).long(), 10.0)
    assert penalty.item() == pytest.approx(10 * (a.norm().item() - 1) ** 2, rel=1e-5)


def test_optimisers():
    adam = started(config.RECIPES["cgan"]).generator_optimiser
    assert isinstance(adam, torch.optim.Adam)
    assert tuple(adam.param_groups[0]["betas"]) == (0.5, 0.999)
    rmsprop = started(config.RECIPES["wavegan"]).critic_optimiser
    assert isinstance(rmsprop, torch.optim.RMSprop)
    assert rmsprop.param_groups[0]["lr"] == 5e-5


# ---- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "critic", "generator"),
    [("sn-wgan-gp", 24, 8), ("cgan", 8, 8), ("lofi-wgan", 24, 8), ("frequency-quest", 8, 1)],
)
def test_updates_of_two_epochs(name, critic, generator, sounds, tmp_path, monkeypatch):
    """8 batches: each three critic updates and one of the generator, or one of the critic each."""
    cfg = replace(small_of(name, sounds, tmp_path), epochs=2, cut="first")
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
    if cfg.fresh_batches:  # a new real batch each
        assert not torch.equal(*counts["critic_step"][:2])
        with open(cfg.run_dir / "log.csv", newline="") as file:
            first, second = csv.DictReader(file)
        assert first["generator_loss"] == "nan"  # its first update came in the second epoch
        assert np.isfinite(float(second["generator_loss"]))


# ---- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_output_ranges(name):
    cfg = config.RECIPES[name]
    torch.manual_seed(0)
    generator, _ = models.build(cfg, 10)
    generator.rungs[-1 if not cfg.norm_output else -2].weight.data.mul_(100)
    with torch.no_grad():
        x = generator(torch.randn(2, cfg.latent_dim), torch.tensor([0, 1]))
    low, high = {"clamp": (-15, 1), "relu": (0, np.inf), "tanh": (-1, 1)}[cfg.output]
    assert low <= x.min() < x.max() <= high
    if cfg.output == "relu":
        assert x.min() == 0


def test_phase_shuffle_shifts_each_clip_and_reflects():
    torch.manual_seed(0)
    x = torch.arange(8.0).repeat(400, 2, 1)
    shuffled = models.PhaseShuffle(2)(x)
    assert torch.equal(shuffled[:, 0], shuffled[:, 1])  # channels move together
    seen = {tuple(row.int().tolist()) for row in shuffled[:, 0]}
    assert seen == {
        (2, 1, 0, 1, 2, 3, 4, 5),
        (1, 0, 1, 2, 3, 4, 5, 6),
        (0, 1, 2, 3, 4, 5, 6, 7),
        (1, 2, 3, 4, 5, 6, 7, 6),
        (2, 3, 4, 5, 6, 7, 6, 5),
    }


def test_attention_starts_as_the_identity_and_stands_at_maps_of_one_size(published):
    recipe = published
    plain = started(recipe)
    attending = started(replace(recipe, attention=1))
    for network in (attending.generator, attending.critic):
        (attention,) = [m for m in network.modules() if isinstance(m, models.SelfAttention)]
        assert attention.gamma == 0
    sizes = []
    for network in (attending.generator, attending.critic):
        (attention,) = [m for m in network.modules() if isinstance(m, models.SelfAttention)]
        attention.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[2:])))
        nn.init.normal_(attention.gamma)
    x, labels = batch_of(recipe)
    made = attending.generator(attending.latents(4), labels)
    attending.critic(x, labels)
    assert sizes[0] == sizes[1]
    made.sum().backward()
    assert attention.query.weight is not None
    assert sum(p.numel() for p in attending.generator.parameters()) > sum(
        p.numel() for p in plain.generator.parameters()
    )
    stats = train.full_step(attending, x, labels)  # through the penalty's second derivative too
    assert torch.isfinite(stats).all()


def test_attention_is_the_published_sum():
    torch.manual_seed(0)
    layer = models.SelfAttention(16, 2)
    layer.gamma.data.fill_(0.5)
    x = torch.randn(2, 16, 3, 4)
    q, k, v = (f(x).flatten(2) for f in (layer.query, layer.key, layer.value))
    expected = torch.zeros(2, 16, 12)
    for j in range(12):  # o_j = sum_i softmax_i(q_j . k_i) v_i
        weight = torch.softmax((q[:, :, j, None] * k).sum(1), dim=1)
        expected[:, :, j] = (v * weight[:, None]).sum(2)
    torch.testing.assert_close(layer(x), x + 0.5 * expected.view_as(x))


def test_labels_can_be_given_and_taken(recipe):
    """`conditional` is a constant: without, labels change nothing; with, they do."""
    labels = torch.tensor([0, 1])
    for conditional in (True, False):
        cfg = replace(recipe, conditional=conditional)
        torch.manual_seed(0)
        generator, critic = models.build(cfg, 3)
        generator.eval()
        critic.eval()
        z = torch.randn(1, 8).repeat(2, 1)
        x = torch.rand(1, *cfg.shape).expand(2, *cfg.shape)
        for out in (generator(z, labels), critic(x, labels)):
            assert torch.allclose(out[0], out[1], atol=1e-6) != conditional


# ---- units: what a clip is, and back -------------------------------------------------------------


def test_lofi_spectrogram_is_librosas():
    cfg = config.RECIPES["lofi-wgan"]
    wave = np.random.default_rng(0).standard_normal(cfg.clip_samples).astype(np.float32) * 0.1
    mel = librosa.feature.melspectrogram(
        y=wave, sr=22050, n_fft=2048, hop_length=512, n_mels=256, pad_mode="reflect"
    )
    theirs = librosa.power_to_db(mel, ref=np.max, top_db=80) / 40 + 1
    ours = audio.Transform(cfg)(torch.from_numpy(wave)[None])[0, 0].numpy()
    assert ours.shape == (256, 256)
    assert (ours.max(), ours.min()) >= (1.0, -1.0)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("name", [n for n in ALL if n != "wavegan"])
def test_expand_undoes_compress(name):
    cfg = config.RECIPES[name]
    mel = torch.rand(2, 8, 9) * 3 + 0.01
    back = audio.expand(audio.compress(mel, cfg), cfg)
    if cfg.compression == "db":  # up to the level of each clip
        mel = mel / mel.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(back, mel, rtol=1e-3, atol=1e-5)
    assert audio.compress(torch.zeros(1, 2, 2), cfg).min() >= cfg.quietest - 1e-6 or (
        cfg.compression == "db"
    )


def test_frequency_quest_hands_its_vocoder_the_mel_it_was_trained_on():
    """ln(clamp(expm1(x) / 1000, 1e-5)) is the default recipe's own log-mel."""
    cfg = config.RECIPES["frequency-quest"]
    wave = torch.randn(1, cfg.clip_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    x = audio.Transform(cfg)(wave)
    handed = audio.expand(x, cfg).clamp(min=config.HIFIGAN_FLOOR).log()
    default = replace(config.RECIPES["sn-wgan-gp"], frames=cfg.frames)
    torch.testing.assert_close(handed, audio.Transform(default)(wave), rtol=0, atol=2e-4)


# Mean |difference| between the clip and the clip of its sound, in the recipe's own unit. On 20 real
# recordings of 10 classes they were 0.075, 0.053, 0.044, 0.020 and 0.
ROUND_TRIP = {
    "sn-wgan-gp": 0.15,
    "cgan": 0.2,
    "frequency-quest": 0.2,
    "lofi-wgan": 0.06,
    "wavegan": 0.0,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_round_trip(name):
    cfg = config.RECIPES[name]
    fallback = cfg.vocoder if cfg.vocoder in ("librosa", "none") else config.GRIFFIN_LIM
    rng = np.random.default_rng(0)
    t = np.arange(cfg.clip_samples) / cfg.sample_rate
    sweep = np.sin(2 * np.pi * (200 * t + 300 * t**2)) * (0.2 + 0.2 * np.sin(9 * t))
    wave = torch.from_numpy(sweep + 0.01 * rng.standard_normal(len(t))).float()[None]
    transform = audio.Transform(cfg)
    clip = transform(wave)
    vocoder, note = audio.load_vocoder(replace(cfg, vocoder=fallback), CPU)
    state = np.random.get_state()[1].copy()
    back = vocoder(clip)
    assert note == ""
    assert (np.random.get_state()[1] == state).all()
    assert back.shape == (1, cfg.wav_samples)
    error = (transform(back[:, : cfg.clip_samples]) - clip).abs().mean()
    assert error <= ROUND_TRIP[name]
    if cfg.compression == "db":  # the level is brought up, not back
        assert back.abs().max().item() == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("name", [n for n in ALL if n != "wavegan"])
def test_no_output_of_a_generator_is_too_loud_to_play(name):
    cfg = config.RECIPES[name]
    full_scale = torch.sign(torch.randn(1, cfg.clip_samples))
    assert audio.Transform(cfg)(full_scale).max() <= cfg.loudest
    vocoder = audio.GriffinLim(cfg, CPU)
    wild = torch.full((1, 1, cfg.n_mels, 16), 200.0)
    assert torch.isfinite(vocoder(wild)).all()


# ---- long recordings and loose files -------------------------------------------------------------


@pytest.fixture
def long_file(tmp_path):
    """A minute of rising tone at 44.1 kHz in one file that lies in no class folder."""
    folder = tmp_path / "music"
    folder.mkdir()
    t = np.arange(60 * 44100) / 44100
    soundfile.write(folder / "long.flac", 0.5 * np.sin(2 * np.pi * (200 * t + 20 * t**2)), 44100)
    return folder


def test_a_long_recording_becomes_consecutive_clips(long_file, tmp_path, monkeypatch):
    cfg = replace(
        config.RECIPES["wavegan"], data_dir=str(long_file), output_dir=str(tmp_path / "out")
    )
    asked = []
    read = soundfile.SoundFile.read

    def counting(self, frames=-1, *rest, **how):
        asked.append(frames)
        return read(self, frames, *rest, **how)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    clips = dataset.load_clips(cfg, dataset.find_files(long_file, loose=True))
    assert clips.data.shape == (60, 1, 16384)
    assert max(asked) < 40 * 44100  # streamed: never the whole file
    for second in (0, 31, 32, 59):  # 32 begins a part of its own
        spectrum = np.abs(np.fft.rfft(clips.data[second, 0] * np.hanning(16384)))
        centre = (spectrum**2 * np.arange(len(spectrum))).sum() / (spectrum**2).sum()
        assert centre == pytest.approx(200 + 40 * (second + 0.5), abs=3)  # Hz, one a bin
    joined = clips.data[:, 0].reshape(-1)
    jumps = np.abs(np.diff(joined))[16383::16384]  # where one clip ends and the next begins
    assert jumps.max() < np.abs(np.diff(joined)).max() * 1.05


def test_silent_stretches_are_left_out_by_name(tmp_path):
    (tmp_path / "music").mkdir()
    wave = np.zeros(5 * 16384)
    wave[:16384] = wave[3 * 16384 : 4 * 16384] = 0.1
    soundfile.write(tmp_path / "music" / "a.wav", wave, 16384)
    cfg = replace(config.RECIPES["wavegan"], output_dir=str(tmp_path / "out"))
    clips = dataset.load_clips(cfg, dataset.find_files(tmp_path / "music", loose=True))
    assert len(clips) == 2
    assert [path for path, _ in clips.left_out] == [f"a.wav at {s}.0 s" for s in (1, 2, 4)]


def test_unconditional_recipes_take_a_flat_folder(long_file, tmp_path):
    cfg = replace(small_of("lofi-wgan", long_file, tmp_path), epochs=1)
    run = train.train(cfg)
    assert run.classes == []
    names = sorted(p.name for p in (cfg.run_dir / "samples" / "epoch_0001").glob("*.wav"))
    assert names == [f"sample_{k}.wav" for k in range(8)]


# ---- all alike -----------------------------------------------------------------------------------


def test_every_recipe_continues_bit_for_bit(recipe, tmp_path):
    whole = train.train(replace(recipe, output_dir=str(tmp_path / "whole"), epochs=3))
    train.train(replace(recipe, epochs=1))
    continued = train.train(replace(recipe, epochs=3))
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
    together = desk.generate(run.generator, z, labels)
    alone = desk.generate(run.generator, z[1:2], labels[1:2])
    torch.testing.assert_close(together[1:2], alone)
    assert torch.equal(weights(run.generator), before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_penalty_is_never_in_half_precision(precision, small):
    run = started(replace(small, precision=precision))
    seen = []
    run.critic.rungs[0].register_forward_hook(lambda _, x, out: seen.append((len(x[0]), out.dtype)))
    stats = train.critic_step(run, *batch_of(small))
    half = torch.bfloat16 if precision == "bf16" else torch.float32  # no fp16 on a CPU
    assert seen == [(4, torch.float32), (8, half)]
    assert stats.dtype == torch.float32


def test_longer_and_shorter_sounds_from_the_same_weights(recipe, tmp_path):
    run = train.train(replace(recipe, epochs=1))
    folder = run.cfg.run_dir
    for seconds in (0.1, 0.256, 1.0):
        out = tmp_path / f"{seconds}"
        words = ["--seconds", str(seconds), "--count", "2", "--out", str(out)]
        assert generate.main([str(folder), *words]) == 0
        for path in out.iterdir():
            assert soundfile.info(path).frames == round(seconds * 8000)
            assert np.isfinite(soundfile.read(path)[0]).all()


def test_what_lies_far_from_a_seam_is_what_each_latent_makes(small):
    """Joined maps are the single ones but for the frames that the kernels reach (no GroupNorm)."""
    run = started(replace(small, generator_norm="none"))
    z = run.latents(2)[None]  # (1, 2, latent_dim)
    label = torch.tensor([1])
    joined = desk.generate(run.generator, z, label)
    first, second = (desk.generate(run.generator, z[:, k], label) for k in (0, 1))
    assert joined.shape[-1] == 64
    reach = 6  # of two rungs of kernel 4, stride 2
    torch.testing.assert_close(joined[..., : 32 - reach], first[..., : 32 - reach])
    torch.testing.assert_close(joined[..., 32 + reach :], second[..., reach:])
    assert not torch.allclose(joined[..., 30:34], torch.cat([first, second], -1)[..., 30:34])


def test_wgan_gp_and_hifi_gan_for_cgan():
    words = "cgan --objective wgan-gp --gp-weight 10"
    with pytest.raises(UserError, match="critic_norm = 'batch': the gradient penalty needs"):
        config.parse(words.split())
    grid = "--n-mels 80 --f-max 8000 --mel-scale slaney --mel-norm slaney --power 1"
    voice = "--vocoder speechbrain/tts-hifigan-libritts-22050Hz"
    cfg = config.parse(f"{words} --critic-norm none {grid} {voice}".split())
    assert all(getattr(cfg, name) == value for name, value in config.HIFIGAN_GRID.items())


@pytest.mark.parametrize("wrong", [("wavegan", "griffin-lim"), ("cgan", "none")])
def test_a_vocoder_of_the_wrong_kind(wrong):
    with pytest.raises(UserError, match="vocoder"):
        config.parse([wrong[0], "--vocoder", wrong[1]])
