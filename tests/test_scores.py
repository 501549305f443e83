"""The scorer on sounds whose quality is known, and its formulas against known values."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import audio
import config
import dataset
import desk
import distances
import evaluate
import generate
import scores
import train
from config import Config, UserError
from scores import GENERATED, REAL, SEEN, Yardstick

CLASSES = ("low", "mid", "high")
CLIPS = 30  # of a class: three are held out


# ---- formulas -----------------------------------------------------------------------------------


@pytest.fixture
def clouds() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(120, 5, generator=generator)
    return real, 0.7 * torch.randn(80, 5, generator=generator) + 0.4


@pytest.mark.parametrize("rate", [16_000, 16_384, 44_100])
def test_a_sound_is_heard_alike_at_any_rate(rate: int) -> None:
    """Tones under 8 kHz: the same log-mels, and silence behind a sound that is too short."""

    def heard(rate: int) -> Tensor:
        at = torch.arange(rate) / rate
        tones = sum(torch.sin(2 * math.pi * hz * at) for hz in (110, 900, 3000, 7000))
        return scores.log_mels(0.2 * tones[None], rate, 1.5)

    ours, own = heard(rate), heard(config.SCORE_GRID["sample_rate"])
    assert ours.shape == own.shape
    middle = slice(2, -2 - own.shape[3] // 3)  # apart from where the tones begin and break off
    loud = own > own.max() - math.log(100)
    assert (ours - own)[loud].view(-1).abs().median() < 1e-3
    assert (ours - own)[..., middle][loud[..., middle]].abs().max() < 0.02
    assert torch.equal(ours[..., -8:], torch.full_like(ours[..., -8:], math.log(1e-4)))


def test_frechet_of_gaussians_is_the_closed_form() -> None:
    """Between N(0, 1) and N(m, s^2) in each of D directions: D (m^2 + (1 - s)^2)."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(20_000, 3, generator=generator)
    fake = 1.5 * torch.randn(20_000, 3, generator=generator) + 2
    assert distances.frechet(real, fake) == pytest.approx(3 * (4 + 0.25), rel=0.02)
    assert distances.frechet(real, real) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_the_unbiased_sum(clouds: tuple[Tensor, Tensor]) -> None:
    real, fake = (x[:7].double() for x in clouds)

    def k(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * 1.3**2))

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    within = sum(k(real[i], real[j]) + k(fake[i], fake[j]) for i, j in pairs) / (7 * 6)
    across = sum(k(a, b) for a in real for b in fake) / 49
    value, boot = distances.kernel_distance(real, fake, 1.3)
    assert value == pytest.approx(100 * (within - 2 * across), rel=1e-9)
    assert len(boot) == 0


def test_kernel_distance_is_zero_on_average_for_equal_sets(clouds: tuple[Tensor, Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    values = []
    for _ in range(200):
        x = torch.randn(60, 5, generator=generator)
        values.append(distances.kernel_distance(x[:20], x[20:], 3.0)[0])
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error  # 20 and 40 clips: a biased one would show 3.6
    assert error < 0.2


def test_the_interval_of_the_kernel_distance_covers_it(clouds: tuple[Tensor, Tensor]) -> None:
    value, boot = distances.kernel_distance(*clouds, 3.0, draws=400)
    low, high = np.percentile(boot, [2.5, 97.5])
    assert low < value < high
    assert np.mean(boot) == pytest.approx(value, abs=0.5 * np.std(boot))


def test_density_and_coverage_are_those_of_their_authors(clouds: tuple[Tensor, Tensor]) -> None:
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        theirs = compute_prdc(*(x.numpy() for x in clouds), nearest_k=5)
    density, coverage = distances.density_coverage(*clouds, 5)
    assert density == pytest.approx(theirs["density"], abs=1e-6)
    assert coverage == pytest.approx(theirs["coverage"], abs=1e-6)


def test_inception_score_counts_certain_and_even_opinions() -> None:
    certain = 50 * torch.eye(4).repeat(5, 1)
    assert distances.inception_score(certain) == pytest.approx(4, rel=1e-6)
    assert distances.inception_score(torch.zeros(20, 4)) == pytest.approx(1, rel=1e-6)
    assert distances.inception_score(certain[:1].repeat(9, 1)) == pytest.approx(1, rel=1e-6)


def test_inception_score_is_torchmetrics(clouds: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.image.inception import InceptionScore

    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(clouds[0])
    assert distances.inception_score(clouds[0]) == pytest.approx(float(theirs.compute()[0]), 1e-4)


def test_copies_have_a_low_rank(clouds: tuple[Tensor, Tensor]) -> None:
    real = torch.randn(300, 5, generator=torch.Generator().manual_seed(2))
    training, unseen, other = real[:100], real[100:200], real[200:]
    ratio, z = distances.copying(training, unseen, other)
    assert ratio == pytest.approx(1, abs=0.15)
    assert abs(z) < 2.5
    ratio, z = distances.copying(training, unseen, training + 0.01)
    assert ratio < 0.05
    assert z < -10
    assert distances.copying(training, unseen, other + 5)[1] > 10


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection() -> None:
    """Shifted by d along one axis of D, the mean over directions is d E|theta_1|."""
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    x = (x - x.mean(0)) / x.std(0)
    shift = torch.tensor([2.0, 0, 0, 0])
    expected = 2 * math.gamma(2) / (math.sqrt(math.pi) * math.gamma(2.5))  # of a unit 4-vector
    assert distances.sliced_wasserstein(x, x + shift) == pytest.approx(expected, rel=0.05)
    assert distances.sliced_wasserstein(x, x) == 0


# ---- the scorer judges sounds whose quality is known --------------------------------------------


def tones(count: int, seed: int) -> dict[str, list[np.ndarray]]:
    """`count` clips a class: tones and their overtones, each of its own pitch, level and beat."""
    rng = np.random.default_rng(seed)
    t = np.arange(4000) / 8000
    made: dict[str, list[np.ndarray]] = {}
    for name, hz in zip(CLASSES, (300, 900, 2500)):
        made[name] = []
        for _ in range(count):
            pitch = hz * rng.uniform(0.8, 1.25)
            wave = np.sin(2 * np.pi * pitch * t) + 0.3 * np.sin(4 * np.pi * pitch * t)
            wave *= 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(2, 12) * t + rng.uniform(0, 6))
            wave = rng.uniform(0.1, 0.4) * wave + 0.01 * rng.standard_normal(len(t))
            made[name].append(wave.astype(np.float32))
    return made


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> tuple[Yardstick, Config]:
    """A yardstick of three classes of tones, with classifiers that learn them in seconds."""
    from conftest import shrunk

    folder = tmp_path_factory.mktemp("listener")
    for name, waves in tones(CLIPS, 0).items():
        (folder / "data" / name).mkdir(parents=True)
        for number, wave in enumerate(waves):
            soundfile.write(folder / "data" / name / f"take{number}x.wav", wave, 8000)
    cfg = shrunk(config.RECIPES["sn-wgan-gp"], folder / "data", folder / "outputs")
    cfg = replace(cfg, score_clips=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "EAR_STEPS", 80)
        patch.setattr(config, "SCORE_SEEDS", (0, 1))
        clips = dataset.load(cfg, dataset.find_clips(cfg))
        split = dataset.split(cfg, clips, known=False)
        vocoder = audio.GriffinLim(cfg, torch.device("cpu"))
        yard = scores.make_yardstick(cfg, clips, split, vocoder, torch.device("cpu"))
    return yard, cfg


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "EAR_STEPS", 80)
    monkeypatch.setattr(config, "SCORE_SEEDS", (0, 1))


def fresh(yard: Yardstick, seed: int = 1) -> Tensor:
    """Real sounds nobody has heard, as many a class as the yardstick asks for: `(N, L)`."""
    waves = [wave for made in tones(yard.counts[0], seed).values() for wave in made]
    order = [n for c in range(3) for n in range(c * yard.counts[0], (c + 1) * yard.counts[0])]
    names = sorted(CLASSES)  # the order of the classes of a run
    blocks = torch.from_numpy(np.stack(waves))[order].split(yard.counts[0])
    return torch.cat([blocks[CLASSES.index(name)] for name in names])


def test_real_sounds_score_as_real_ones(listener: tuple[Yardstick, Config], quick: None) -> None:
    yard, _ = listener
    card = yard.card(fresh(yard))
    made, real = card["rows"][GENERATED], card["rows"][REAL]
    assert made["accuracy"] > 0.95
    assert real["accuracy"] > 0.95
    assert made["kernel_low"] < 1  # near zero: a hundredth of the largest possible distance
    assert abs(made["kernel"]) < 3
    assert made["coverage"] > 0.7 * real["coverage"]
    assert made["cas"] > 0.9
    assert 0.5 < made["copy_ratio"] < 2
    assert 0.6 < made["diversity"] < 1.6
    assert made["silent"] == made["clipped"] == 0
    assert not any("Collapse" in note or "Copying" in note for note in card["notes"])
    assert card["held_out"] == {"clips": 9, "training_clips": 81, "by": yard.split.said}
    assert REAL in card["few"]
    assert [row["clips"] for row in card["rows"].values()] == [36, 9, 9]


def test_noise_is_far_from_everything(listener: tuple[Yardstick, Config]) -> None:
    yard, cfg = listener
    noise = 0.2 * torch.randn(36, cfg.wav_samples, generator=torch.Generator().manual_seed(0))
    bad = yard.row(scores.listen(cfg, noise, yard.labels))
    good = yard.row(scores.listen(cfg, fresh(yard), yard.labels))
    assert bad["accuracy"] < 0.5
    assert bad["kernel_low"] > 10
    assert bad["frechet"] > 5 * good["frechet"]
    assert bad["coverage"] < 0.2 * good["coverage"]
    assert bad["sliced"] > 3 * good["sliced"]


def test_silence_is_counted(listener: tuple[Yardstick, Config]) -> None:
    yard, cfg = listener
    waves = fresh(yard)
    waves[:9] = 0
    row = yard.row(scores.listen(cfg, waves, yard.labels))
    assert row["silent"] == 0.25


def test_clipping_is_counted(listener: tuple[Yardstick, Config]) -> None:
    yard, cfg = listener
    waves = fresh(yard)
    waves[:18] *= 20
    assert yard.row(scores.listen(cfg, waves, yard.labels))["clipped"] == 0.5


def test_one_clip_repeated_is_a_collapse(listener: tuple[Yardstick, Config], quick: None) -> None:
    yard, cfg = listener

    def repeated(seed: int) -> Tensor:
        waves = fresh(yard, seed)
        for k in range(3):
            waves[12 * k : 12 * (k + 1)] = waves[12 * k].clone()
        return waves

    card = yard.card(repeated(1))
    made = card["rows"][GENERATED]
    assert made["accuracy"] > 0.9  # which is why accuracy alone is not enough
    assert made["diversity"] < 0.01
    # Of three sets, since one alone covers 0.36 to 0.57 times what real ones do (five measured).
    heard = [scores.listen(cfg, repeated(seed), yard.labels) for seed in (1, 2, 3)]
    covered = np.mean([yard.row(sounds)["coverage"] for sounds in heard])
    assert covered < 0.5 * card["rows"][REAL]["coverage"]
    assert any(note.startswith("Collapse: the sounds of high, low, mid") for note in card["notes"])


def test_copied_training_clips_are_named(listener: tuple[Yardstick, Config], quick: None) -> None:
    yard, cfg = listener
    copies = [
        audio.read_clip(cfg, Path(cfg.data_dir) / name / f"take{n}x.wav", 0)
        for name in sorted(CLASSES)
        for n in range(CLIPS)
    ]
    training = scores.listen(cfg, torch.stack(copies), torch.arange(3).repeat_interleave(CLIPS))
    seen = [
        i
        for i, x in enumerate(training.x)
        if (x - yard.training.x).abs().amax((1, 2, 3)).min() < 1e-4
    ]
    rows = [i for k in range(3) for i in [j for j in seen if j // CLIPS == k][:12]]
    card = yard.card(torch.stack(copies)[rows])
    made = card["rows"][GENERATED]
    assert made["copy_ratio"] < 0.05
    assert made["copy_z"] < config.SCORE_COPY_Z
    assert made["kernel"] < 3  # by distance alone a copy is the best there is
    assert any(note.startswith("Copying") for note in card["notes"])


def test_swapped_classes_are_told_by_accuracy_alone(
    listener: tuple[Yardstick, Config], quick: None
) -> None:
    yard, _ = listener
    card = yard.card(fresh(yard).roll(12, dims=0))
    made = card["rows"][GENERATED]
    assert made["accuracy"] < 0.05
    assert made["cas"] < 0.1
    assert abs(made["kernel"]) < 3
    assert {c["taken for"] for c in card["per_class"].values()} == set(CLASSES)
    assert all(c["taken for"] != name for name, c in card["per_class"].items())


def test_one_bad_class_is_found(listener: tuple[Yardstick, Config], quick: None) -> None:
    yard, _ = listener
    waves = fresh(yard)
    noise = torch.randn(12, waves.shape[1], generator=torch.Generator().manual_seed(0))
    waves[yard.labels == yard.classes.index("mid")] = 0.2 * noise
    table = yard.card(waves)["per_class"]
    assert max(table, key=lambda name: table[name]["kernel"]) == "mid"
    assert table["mid"]["kernel"] > 10 * max(table[n]["kernel"] for n in ("low", "high"))


def test_the_yardstick_is_kept_and_scores_repeat_exactly(
    listener: tuple[Yardstick, Config], quick: None, capsys: pytest.CaptureFixture
) -> None:
    yard, cfg = listener
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    split = dataset.split(cfg, clips, known=True)
    vocoder = audio.GriffinLim(cfg, torch.device("cpu"))
    capsys.readouterr()
    before = torch.get_rng_state()
    again = scores.make_yardstick(cfg, clips, split, vocoder, torch.device("cpu"))
    assert "listening to the real sounds" not in capsys.readouterr().out
    assert again.card(fresh(yard)) == yard.card(fresh(yard))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_row_is_of_equally_many_sounds(
    listener: tuple[Yardstick, Config], quick: None, tmp_path: Path
) -> None:
    """Also where more unseen clips than generated ones, or than training clips, are there."""
    _, cfg = listener
    for folder, count in (("data", 2), ("apart", 20)):
        for name, waves in tones(count, len(folder)).items():
            (tmp_path / folder / name).mkdir(parents=True)
            for number, wave in enumerate(waves):
                soundfile.write(tmp_path / folder / name / f"{number}.wav", wave, 8000)
    cfg = replace(cfg, data_dir=str(tmp_path / "data"), holdout_dir=str(tmp_path / "apart"))
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    split = dataset.split(cfg, clips, known=False)
    vocoder, cpu = audio.GriffinLim(cfg, torch.device("cpu")), torch.device("cpu")
    yard = scores.make_yardstick(cfg, clips, split, vocoder, cpu)
    assert yard.counts == [12, 12, 12]
    assert yard.at_a_time.tolist() == [12, 12, 12]
    draws = yard._draws(yard.unseen, intended=True)
    assert len(draws) == config.SCORE_DRAWS
    assert all(np.bincount(yard.unseen.labels[rows]).tolist() == [12, 12, 12] for rows in draws)
    assert [len(rows) for rows in yard._draws(yard.unseen, intended=False)] == [36] * len(draws)
    card = yard.card(fresh(yard))
    assert "of 36 sounds at a time" in card["notes"][0]
    assert [row["clips"] for row in card["rows"].values()] == [36, 60, 60]
    # Another file under the same name is another yardstick.
    assert len(list(cfg.cache_dir.glob("yardstick-*"))) == 2
    soundfile.write(tmp_path / "apart" / "low" / "0.wav", np.ones(4000) / 9, 8000)
    scores.make_yardstick(cfg, clips, dataset.split(cfg, clips, False), vocoder, cpu)
    assert len(list(cfg.cache_dir.glob("yardstick-*"))) == 3


# ---- a run is scored ----------------------------------------------------------------------------


@pytest.fixture
def scored(small: Config, quick: None) -> Config:
    """Every second of four epochs is scored; six clips a class, so that none is held out."""
    return replace(small, score_every=2, score_clips=4)


def rows_of(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().split()]


def test_scores_of_a_run(scored: Config, capsys: pytest.CaptureFixture) -> None:
    train.train(scored)
    header, *rows = rows_of(scored.run_dir / "scores.csv")
    assert header == ["epoch", *scores.SCORES]
    assert [row[0] for row in rows] == ["2", "4"]
    kernel = [float(row[header.index("kernel")]) for row in rows]
    card = json.loads((scored.run_dir / "scores.json").read_text())
    assert card["epoch"] == 4
    assert card["rows"][GENERATED]["kernel"] == pytest.approx(kernel[1], rel=1e-5)
    assert card["on"] == "sound, by griffin-lim"
    best = kernel.index(min(kernel))
    assert card["best"]["epoch"] == [2, 4][best]
    assert generate.trained(scored.run_dir, "best")["epoch"] == [2, 4][best]
    saved = torch.load(scored.run_dir / "checkpoints" / "best.pt", weights_only=True)
    assert saved["epoch"] == [2, 4][best]
    # Nothing was held out, and the scores say so.
    assert list(card["rows"])[1] == SEEN
    assert card["rows"][SEEN]["copy_ratio"] is None
    assert "No clip is held out" in card["notes"][1]
    assert "Scores after epoch 2" in capsys.readouterr().out


def test_scoring_changes_nothing_in_training(scored: Config) -> None:
    train.train(scored)
    apart = replace(scored, score_every=0, run_name="without")
    train.train(apart)
    for name in ("log.csv", "generator.safetensors"):
        with_scores = (scored.run_dir / name).read_bytes()
        if name == "log.csv":  # but for the seconds
            lines = [
                [c for i, c in enumerate(row) if i != 2] for row in rows_of(scored.run_dir / name)
            ]
            assert lines == [
                [c for i, c in enumerate(row) if i != 2] for row in rows_of(apart.run_dir / name)
            ]
        else:
            assert with_scores == (apart.run_dir / name).read_bytes()
    assert (
        not (apart.run_dir / "scores.csv").exists()
        or len(rows_of(apart.run_dir / "scores.csv")) == 1
    )


def test_scores_that_lack_are_made_on_continuing(scored: Config) -> None:
    train.train(scored)
    whole = (scored.run_dir / "scores.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    (scored.run_dir / "scores.csv").write_bytes(b"".join(lines[:2]))  # killed in the last scoring
    train.train(scored)
    assert (scored.run_dir / "scores.csv").read_bytes() == whole


def test_a_signal_does_not_wait_for_the_end_of_a_scoring(
    scored: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    def slow(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal had to wait")

    monkeypatch.setattr(scores, "make_yardstick", slow)
    with pytest.raises(desk.Interrupted, match="SIGTERM"):
        train.train(scored)
    monkeypatch.undo()
    assert (scored.run_dir / "log.csv").read_text().count("\n") == 3


def test_evaluate_scores_a_finished_run(
    scored: Config, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(scored, score_every=0)
    train.train(cfg)
    assert evaluate.main([str(cfg.run_dir), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    card = json.loads((cfg.run_dir / "scores.json").read_text())
    assert (card["epoch"], card["weights"]) == (4, "last")
    assert f"{card['rows'][GENERATED]['frechet']:.3g}" in said
    (cfg.run_dir / "scores.json").unlink()
    monkeypatch.chdir(cfg.run_dir)
    assert evaluate.main([".", "--data-dir", cfg.data_dir, "--device", "cpu"]) == 0
    assert (cfg.run_dir / "scores.json").exists()
    assert not (cfg.run_dir / cfg.recipe).exists()
    assert evaluate.main([str(cfg.run_dir), "--weights", "best"]) == 2
    assert "holds no best.safetensors yet" in capsys.readouterr().err
    assert evaluate.main([str(cfg.run_dir), "--data-dir", str(cfg.run_dir)]) == 2


def test_unlabelled_sounds_get_what_has_a_meaning(
    small: Config, quick: None, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for name, waves in tones(8, 0).items():
        for number, wave in enumerate(waves):
            soundfile.write(flat / f"{name}{number}x.wav", wave, 8000)
    cfg = replace(small, data_dir=str(flat), conditional=False, epochs=1, score_every=1)
    train.train(cfg)
    card = json.loads((cfg.run_dir / "scores.json").read_text())
    made = card["rows"][GENERATED]
    assert made["accuracy"] is made["cas"] is made["inception"] is None
    assert made["kernel"] > 1
    assert made["copy_ratio"] > 0
    assert card["held_out"]["clips"] == 3  # a tenth of 24, in one class
    assert card["per_class"] == {}
    assert any("one class" in note for note in card["notes"])


def test_a_sound_that_has_gone_is_named(small: Config, sounds: Path) -> None:
    with pytest.raises(UserError, match=r"0\.wav can no longer be read"):
        audio.read_clip(small, sounds / "none" / "0.wav", 0)
