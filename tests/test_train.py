"""Whole runs: what they leave, that they survive being stopped, that they stay the same run."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import flags, log_without_seconds, shrunk, stop_after, weights
from safetensors.torch import load_file

import config
import train
from soundgan import config_io, dataset, files
from soundgan.audio.vocoders import GriffinLim
from soundgan.config_io import change
from soundgan.dataset import demo, splitting
from soundgan.errors import Diverged, Interrupted, UserError
from soundgan.report import messages
from soundgan.report.samples import Samples
from soundgan.run_folder import read_config
from soundgan.training import objectives
from soundgan.training.checkpoints import find_checkpoint
from soundgan.training.random_state import seed_everything
from soundgan.training.run import METRICS, Run

# ---- what a run leaves ---------------------------------------------------------------------------


def test_the_folder_of_a_run(whole):
    cfg, folder = whole.cfg, whole.cfg.run_dir
    assert folder == Path(cfg.output_dir) / "sn-wgan-gp"
    sets = sorted(p.name for p in (folder / "samples").iterdir())
    assert sets == ["epoch_0001", "epoch_0002", "epoch_0004", "original", "real"]
    for name in sets:
        files = sorted(p.name for p in (folder / "samples" / name).iterdir())
        endings = ("wav",) if name == "original" else ("wav", "png")
        assert files == sorted(f"{c}.{e}" for c in ("high", "low", "mid") for e in endings)
        for path in (folder / "samples" / name).glob("*.wav"):
            info = soundfile.info(path)
            assert (info.frames, info.samplerate, info.channels) == (32 * 64, 8000, 1)
            assert info.subtype == "PCM_16"
            assert np.abs(soundfile.read(path)[0]).max() < 1
    assert (folder / "losses.png").stat().st_size > 1000
    content = json.loads((folder / "config.json").read_text())
    assert content["classes"] == ["high", "low", "mid"]
    assert content["recipe"] == "sn-wgan-gp"
    assert config_io.from_dict(content["config"], "config.json") == cfg
    assert content["versions"]["torch"] == torch.__version__
    saved = load_file(folder / "generator.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in whole.generator.state_dict().items())
    header, *rows = log_without_seconds(cfg)
    assert header == ["epoch", "step", *METRICS]
    assert [(r[0], r[1]) for r in rows] == [("1", "4"), ("2", "8"), ("3", "12"), ("4", "16")]


def test_a_real_clip_survives_the_way_through_a_run(whole):
    """The tone of a class is still its tone in samples/real."""
    for name, hz in {"low": 300, "mid": 900, "high": 2500}.items():
        wave, rate = soundfile.read(whole.cfg.run_dir / "samples" / "real" / f"{name}.wav")
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        assert abs(spectrum.argmax() * rate / len(wave) - hz) < 40 + 0.06 * hz  # bands are wide


# ---- the same run --------------------------------------------------------------------------------


def test_two_runs_with_one_seed_are_identical(whole, small):
    again = train.train(small)
    assert torch.equal(weights(again.generator), weights(whole.generator))
    assert torch.equal(weights(again.critic), weights(whole.critic))
    assert log_without_seconds(small) == log_without_seconds(whole.cfg)
    for path in (small.run_dir / "samples").rglob("*.wav"):
        twin = whole.cfg.run_dir / path.relative_to(small.run_dir)
        assert path.read_bytes() == twin.read_bytes()


@pytest.mark.slow
def test_another_seed_is_another_run(whole, small):
    other = train.train(change(small, {"seed": 7}))
    assert not torch.equal(weights(other.generator), weights(whole.generator))


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_continued_run_is_the_run_that_was_never_stopped(whole, small, epochs):
    train.train(change(small, {"epochs": epochs}))
    continued = train.train(small)
    assert torch.equal(weights(continued.generator), weights(whole.generator))
    assert torch.equal(weights(continued.critic), weights(whole.critic))
    assert log_without_seconds(small) == log_without_seconds(whole.cfg)


@pytest.mark.parametrize(("step", "number"), [(6, signal.SIGTERM), (3, signal.SIGINT), (8, 1)])
def test_a_signal_finishes_the_step_saves_and_continues_bit_for_bit(
    whole, small, step, number, monkeypatch
):
    stop_after(step, monkeypatch, number)
    with pytest.raises(Interrupted, match="the same command continues") as stopped:
        train.train(small)
    assert stopped.value.exit_code == 75
    state = find_checkpoint(small.run_dir).state
    assert state["step"] == step  # the step in which the signal came is finished, no other begun
    monkeypatch.undo()
    continued = train.train(small)
    assert torch.equal(weights(continued.generator), weights(whole.generator))
    assert torch.equal(weights(continued.critic), weights(whole.critic))
    assert log_without_seconds(small) == log_without_seconds(whole.cfg)
    assert sorted(p.name for p in (small.run_dir / "samples").iterdir()) == sorted(
        p.name for p in (whole.cfg.run_dir / "samples").iterdir()
    )


def test_samples_leave_every_random_state_as_it_was(small):
    run = Run.start(small, ["high", "low", "mid"], torch.device("cpu"))
    clips = dataset.load_clips(small, dataset.find_files(small.data_dir))
    rows = np.arange(len(clips))
    vocoder = GriffinLim(small, run.device)
    samples = Samples(small, run.classes, clips, rows, vocoder)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    samples.write_real()
    samples.write(run.generator, 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert run.generator.training


# ---- numbers that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_run_that_diverges_stops_and_keeps_what_was_good(small, poison, monkeypatch):
    train.train(change(small, {"epochs": 2}))
    last = small.run_dir / "checkpoints" / "last.pt"
    before = last.read_bytes()
    penalty = objectives.gradient_penalty
    monkeypatch.setattr(objectives, "gradient_penalty", lambda *a: penalty(*a) * poison)
    with pytest.raises(Diverged, match=r"gradient_penalty.*--optimiser.critic-lr") as stopped:
        train.train(small)
    assert stopped.value.exit_code == 3
    assert last.read_bytes() == before


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), MemoryError()])
def test_out_of_memory_names_the_constant_to_lower(small, error, monkeypatch):
    def full(*_):
        raise error

    monkeypatch.setattr(train, "full_step", full)
    with pytest.raises(
        UserError, match=r"Out of memory on .*: lower batch_size \(now 4: --batch-size 2"
    ):
        train.train(small)


def test_other_errors_keep_their_traceback(small, monkeypatch):
    def wrong(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(train, "full_step", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train.train(small)


# ---- data that a person might have ---------------------------------------------------------------


def test_fewer_clips_than_a_batch(small):
    with pytest.raises(UserError, match=r"18 usable clips .* batch_size is 32.*--batch-size 18"):
        train.train(change(small, {"batch_size": 32}))


def test_one_class_only(small, sounds):
    shutil.rmtree(sounds / "low")
    shutil.rmtree(sounds / "mid")
    assert train.train(change(small, {"epochs": 1})).classes == ["high"]


def test_a_class_without_a_usable_clip_is_no_class_and_is_said(small, sounds, capsys):
    (sounds / "broken").mkdir()
    (sounds / "broken" / "a.wav").write_bytes(b"")
    assert train.train(change(small, {"epochs": 1})).classes == ["high", "low", "mid"]
    assert "broken: no usable clip" in capsys.readouterr().out
    listed = (small.run_dir / "left_out.csv").read_text().splitlines()
    assert listed == ["file,reason", "broken/a.wav,empty file (0 bytes)"]


def test_sounds_without_class_folders(small, sounds, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(sounds / "low" / "0.wav", flat / "a.wav")
    with pytest.raises(UserError, match="Put the files of each class into a folder"):
        train.train(change(small, {"data_dir": str(flat)}))


def test_a_misspelt_folder_is_no_reason_for_a_demo(small, tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        train.train(change(small, {"data_dir": str(tmp_path / "typo")}))
    assert not (tmp_path / "typo").exists()
    assert not small.run_dir.exists()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to be in where nothing is, and a demo set of one clip a class."""
    monkeypatch.setattr(demo, "CLIPS", 1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def without_data(cfg) -> list[str]:
    """The command line of `cfg` that does not say where its sounds are."""
    usual = config.RECIPES[cfg.recipe].data_dir
    return flags(change(cfg, {"data_dir": usual, "batch_size": 4, "epochs": 1}))


def test_no_sounds_at_all_bring_the_demo_set(small, elsewhere, capsys):
    assert train.main(without_data(small)) == 0
    content = read_config(small.run_dir)
    assert content["classes"] == ["dog_bark", "drilling", "engine_idling", "siren", "street_music"]
    assert len(list((elsewhere / "data").rglob("*.wav"))) == 5
    said = capsys.readouterr().out
    assert "writing a synthetic set" in said
    assert "are synthetic, not recordings" in said


def test_the_demo_set_is_written_into_no_folder_that_was_named(small, elsewhere, capsys):
    for folder in ("data", "mount"):
        (elsewhere / folder).mkdir()
        assert train.main([*without_data(small), "--data-dir", folder]) == 2
        assert f"data_dir = '{folder}' holds no sounds" in capsys.readouterr().err
        assert list((elsewhere / folder).iterdir()) == []
    assert not small.run_dir.exists()


def test_a_run_that_goes_on_knows_where_its_sounds_are(small, elsewhere, capsys):
    """Not the demo set, and not what lies in data/ here; also unconditional ones."""
    for recipe in ("sn-wgan-gp", "lofi-wgan"):
        cfg = small if recipe == "sn-wgan-gp" else shrunk(config.RECIPES[recipe], *places(small))
        assert train.main([recipe, *flags(change(cfg, {"epochs": 1}))]) == 0
        capsys.readouterr()
        assert train.main([recipe, *without_data(cfg), "--epochs", "2"]) == 0
        said = capsys.readouterr().out
        assert f"The sounds are those of the run: {cfg.data_dir} (--data-dir names others)" in said
        assert find_checkpoint(cfg.run_dir).state["epoch"] == 2
        assert "The files are not those of the checkpoint" not in said
        assert not (elsewhere / "data").exists()


def places(cfg) -> tuple[Path, Path]:
    return Path(cfg.data_dir), Path(cfg.output_dir)


def test_relative_sounds_are_found_from_another_folder(small, sounds, elsewhere, capsys):
    """And where they lie nowhere any more, no others are taken."""
    shutil.copytree(sounds, "mine")
    cfg = change(small, {"data_dir": "mine", "epochs": 1})
    assert train.main(flags(cfg)) == 0
    (elsewhere / "further").mkdir()
    os.chdir(elsewhere / "further")
    assert train.main([*without_data(small), "--epochs", "2"]) == 0
    assert f"those of the run: {elsewhere / 'mine'}" in capsys.readouterr().out
    (elsewhere / "mine").rename(elsewhere / "moved")
    assert train.main([*without_data(small), "--epochs", "3"]) == 2
    assert "there is no such folder (--data-dir)" in capsys.readouterr().err
    assert train.main([*without_data(small), "--epochs", "3", "--data-dir", "../moved"]) == 0


def test_a_damaged_config_does_not_say_where_the_sounds_are(small, elsewhere, capsys):
    train.train(change(small, {"epochs": 1}))
    (small.run_dir / "config.json").write_text("{")
    assert train.main(without_data(small)) == 2
    assert "does not say where the sounds of the run are" in capsys.readouterr().err
    assert train.main(flags(change(small, {"epochs": 2}))) == 0
    assert read_config(small.run_dir)["data_root"] == small.data_dir
    (small.run_dir / "config.json").unlink()  # the checkpoint knows
    assert train.main([*without_data(small), "--epochs", "3"]) == 0
    assert read_config(small.run_dir)["data_root"] == small.data_dir


@pytest.mark.parametrize("name", ["狗叫", "$x_{1}$", "a b'c", "café", "<img src=x>", "\U0001f415"])
def test_class_names_that_are_hard_to_draw(small, sounds, name):
    (sounds / "mid").rename(sounds / name)
    train.train(change(small, {"epochs": 1}))
    assert (small.run_dir / "samples" / "epoch_0001" / f"{name}.png").stat().st_size > 1000


def test_a_class_name_with_a_control_character_is_refused_before_anything_is_written(small, sounds):
    """A config.json with such a name would be refused by every other command."""
    (sounds / "mid").rename(sounds / "a\nb")
    with pytest.raises(UserError, match=r"control character in its name.*'a\\nb'"):
        train.train(small)
    assert not Path(small.output_dir).exists()


def test_moments_lie_like_the_weights_they_belong_to(small):
    """A checkpoint of another device holds them in another order."""
    run = train.train(change(small, {"epochs": 2}))
    state = find_checkpoint(small.run_dir).state
    for name in ("generator_optimiser", "critic_optimiser"):
        for moments in state[name]["state"].values():
            for key in ("exp_avg", "exp_avg_sq"):
                moments[key] = moments[key].contiguous()
    again = Run.start(small, run.classes, run.device)
    again.restore(state)
    kernels = 0
    for ours, theirs in (
        (again.generator_optimiser, run.generator_optimiser),
        (again.critic_optimiser, run.critic_optimiser),
    ):
        for (weight, moments), was in zip(ours.state.items(), theirs.state.values()):
            for key in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(moments[key], was[key])
                assert moments[key].stride() == weight.stride()
                kernels += not weight.is_contiguous()
    assert kernels > 4
    x, labels = torch.randn(4, *small.shape), torch.tensor([0, 1, 2, 0])
    seed_everything(0)
    expected = train.full_step(run, x, labels)
    seed_everything(0)
    assert torch.equal(train.full_step(again, x, labels), expected)
    assert torch.equal(weights(again.critic), weights(run.critic))


# ---- the command ---------------------------------------------------------------------------------


def test_exit_codes(small, capsys, monkeypatch):
    assert train.main([*flags(small), "--epochs", "1"]) == 0
    assert train.main([*flags(small), "--batch-size", "64", "--run-name", "large"]) == 2
    assert "Error: 18 usable clips" in capsys.readouterr().err
    stop_after(2, monkeypatch)
    assert train.main([*flags(small), "--epochs", "9"]) == 75
    assert "Interrupted: SIGTERM after step 6: saved" in capsys.readouterr().err


def test_an_unwritable_folder_is_one_sentence(small, capsys, monkeypatch):
    def read_only(*_, **__):
        raise PermissionError(13, "Permission denied", "outputs/x")

    monkeypatch.setattr(files, "write_bytes", read_only)
    assert train.main(flags(small)) == 2
    said = capsys.readouterr().err
    assert "outputs/x" in said
    assert "Permission denied" in said
    assert "Traceback" not in said


def test_dry_run_says_everything_and_writes_nothing(small, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert train.main([*flags(small), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "18 clips in 3 classes" in said
    assert "Vocoder griffin-lim: loaded and tried" in said
    assert "epochs 1 to 4 of 4 steps, 3 sets of samples" in said
    assert "Nothing was written" in said
    assert re.search(r"Memory: [\d.]+ GiB used at most, [\d.]+ GiB free", said)
    assert re.search(r"Disk: the run needs about \d+ MiB, [\d.]+ GiB are free", said)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_says_how_often_at_most_where_time_decides(small, capsys):
    words = ["--dry-run", "--sample-every", "auto", "--score-every", "auto", "--epochs", "100"]
    assert train.main([*flags(small), *words]) == 0
    said = capsys.readouterr().out
    assert "epochs 1 to 100 of 4 steps, up to 11 sets of samples.\n" in said
    assert "its samples, checkpoints and up to 2 scorings.\n" in said
    assert "auto: there are sounds every 10 epochs or 10 min and scores every 50 epochs or" in said
    assert train.main([*flags(small), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "auto" not in said
    assert "and 0 scorings.\nNothing was written.\n" in said


def test_a_dry_run_that_diverges_says_so(small, capsys):
    words = ["--optimiser.critic-lr", "1e30", "--optimiser.generator-lr", "1e30", "--dry-run"]
    assert train.main([*flags(small), *words]) == 3
    assert "became NaN or Inf" in capsys.readouterr().err


def test_dry_run_standardises_where_nothing_is_decoded_yet(small, capsys, monkeypatch):
    """It holds the first clips only, and among these are some to be held out."""
    monkeypatch.setattr(splitting, "HOLD_OUT_FROM", 2)
    assert train.main([*flags(small), "--sound.standardise", "--holdout", "0.25", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "6 of 18 clips are held out" in said
    assert "Nothing was written" in said


def test_dry_run_of_a_started_run_counts_what_is_left(small, capsys):
    train.train(change(small, {"epochs": 2}))
    files = {p: p.read_bytes() for p in small.run_dir.rglob("*") if p.is_file()}
    assert train.main([*flags(small), "--dry-run"]) == 0
    assert "epochs 3 to 4 of 4 steps, 1 sets" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in small.run_dir.rglob("*") if p.is_file()} == files


def test_a_cpu_run_says_how_long_it_takes_and_what_makes_it_short(small, capsys, monkeypatch):
    monkeypatch.setattr(messages, "estimate", lambda run, steps, s: f"estimate at {run.step}")
    train.train(change(small, {"epochs": 1}))
    assert capsys.readouterr().out.count("estimate at 3") == 1
    monkeypatch.undo()
    run = Run.start(change(small, {"epochs": 300}), ["a"], torch.device("cpu"))
    text = messages.estimate(run, steps=20, seconds=1.8)
    assert "another 3.0 h" in text
    assert "--epochs 17 makes that 10.2 min" in text
