"""Checkpoints and continued runs: what is damaged, changed, missing or written by others."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import log_without_seconds, stop_after, weights
from safetensors.torch import load_file

import train
from soundgan import dataset, files
from soundgan.config_io import change
from soundgan.console import ProgressLines
from soundgan.errors import Interrupted, UserError
from soundgan.training.checkpoints import load_checkpoint

# ---- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "one bit", "empty", "gone"])
def test_a_damaged_checkpoint_costs_one_epoch_and_nothing_else(
    whole, small, damage, monkeypatch, capsys
):
    train.train(change(small, {"epochs": 2}))
    last = small.run_dir / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":  # a crash between the two renames
        last.unlink()
    else:
        last.write_bytes({"cut": content[:1000], "one bit": content, "empty": b""}[damage])
    continued = train.train(small)
    said = capsys.readouterr().out
    assert "after epoch 1" in said
    assert ("is damaged" in said) == (damage != "gone")
    assert torch.equal(weights(continued.generator), weights(whole.generator))
    assert log_without_seconds(small) == log_without_seconds(whole.cfg)


def test_no_whole_checkpoint_is_said(small):
    train.train(change(small, {"epochs": 2}))
    for name in ("last.pt", "previous.pt"):
        (small.run_dir / "checkpoints" / name).write_bytes(b"rubbish")
    for _ in range(2):  # a restart loop must not begin anew over the run
        with pytest.raises(UserError, match="No whole checkpoint"):
            train.train(small)
    assert len((small.run_dir / "log.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_beginning_anew_keeps_nothing_of_the_run_before_but_its_samples(small, tmp_path):
    train.train(change(small, {"epochs": 2}))
    old = (small.run_dir / "samples" / "epoch_0002" / "low.wav").read_bytes()
    shutil.rmtree(small.run_dir / "checkpoints")
    anew = train.train(change(small, {"epochs": 2, "generator.latent_dim": 9}))
    fresh = train.train(
        change(small, {"epochs": 2, "generator.latent_dim": 9, "output_dir": str(tmp_path / "b")})
    )
    assert log_without_seconds(anew.cfg) == log_without_seconds(fresh.cfg)
    for path in (fresh.cfg.run_dir / "samples").rglob("*.wav"):
        twin = anew.cfg.run_dir / path.relative_to(fresh.cfg.run_dir)
        assert path.read_bytes() == twin.read_bytes()
    saved = load_file(anew.cfg.run_dir / "generator.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in anew.generator.state_dict().items())
    assert (small.run_dir / "samples.old1" / "epoch_0002" / "low.wav").read_bytes() == old


@pytest.mark.slow
def test_other_files_are_said_and_heard(small, sounds, capsys):
    train.train(change(small, {"epochs": 1}))
    real = (small.run_dir / "samples" / "real" / "low.wav").read_bytes()
    (sounds / "low" / "0.wav").unlink()
    run = train.train(change(small, {"epochs": 2}))
    assert "The files are not those of the checkpoint" in capsys.readouterr().out
    assert (small.run_dir / "samples" / "real" / "low.wav").read_bytes() != real
    assert run.epoch == 2


def test_a_closed_terminal_does_not_keep_a_run_from_saving(small, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    dataset.load(small, dataset.find_clips(small))  # decoded before the terminal goes
    for name in ("update", "set_postfix", "write"):
        monkeypatch.setattr(ProgressLines, name, closed)
    stop_after(3, monkeypatch)
    with pytest.raises(Interrupted):
        train.train(small)
    assert load_checkpoint(small.run_dir)["step"] == 3


def test_samples_that_lack_are_made_on_continuing(small):
    train.train(change(small, {"epochs": 2}))
    folder = small.run_dir / "samples" / "epoch_0002"
    before = {p.name: p.read_bytes() for p in folder.glob("*.wav")}
    shutil.rmtree(folder)
    train.train(change(small, {"epochs": 2}))
    assert {p.name: p.read_bytes() for p in folder.glob("*.wav")} == before


def test_changed_constants_and_classes_are_refused_by_name(small, sounds):
    train.train(change(small, {"epochs": 1}))
    before = (small.run_dir / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"seed 42 -> 1; objective\.gp_weight 4\.0 -> 5\.0"):
        train.train(change(small, {"objective.gp_weight": 5.0, "seed": 1}))
    (sounds / "mid").rename(sounds / "middle")
    with pytest.raises(UserError, match=r"gone: \['mid'\], new: \['middle'\]"):
        train.train(small)
    assert (small.run_dir / "config.json").read_bytes() == before


def test_what_may_change_may_change(small):
    train.train(change(small, {"epochs": 1}))
    run = train.train(change(small, {"epochs": 2, "sample_every": 1, "checkpoint_every": 2}))
    assert run.epoch == 2


def test_a_finished_run_says_so_and_how_to_extend_it(small, capsys):
    cfg = change(small, {"epochs": 2})
    train.train(cfg)
    capsys.readouterr()
    train.train(cfg)
    said = capsys.readouterr().out
    assert "is finished after epoch 2" in said
    assert "--epochs 4" in said


def test_one_process_a_run(small):
    with files.locked(small.run_dir), pytest.raises(UserError, match="Another process"):
        train.train(small)
