"""A run that starts from the networks of another: what it takes over, and what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shrunk, weights
from safetensors.torch import load_file
from torch import Tensor

import config
import train
from soundgan import files
from soundgan.config_io import change
from soundgan.dataset import Recording, Split
from soundgan.errors import UserError
from soundgan.settings import Config
from soundgan.training.checkpoints import find_checkpoint, save_checkpoint
from soundgan.training.initialise import Source, class_axes, initialise, read_source, with_doubts
from soundgan.training.run import Run

CPU = torch.device("cpu")
CLASSES = ["high", "low", "mid"]


def small_of(recipe: str, folder: Path) -> Config:
    cfg = shrunk(config.RECIPES[recipe], folder / "data", folder / "outputs")
    return change(cfg, {"sound.jitter": 0.0}) if "sound.jitter" in vars(cfg.sound) else cfg


def trained(cfg: Config, classes: list[str]) -> Run:
    """A run whose every weight and buffer is another than a new one's, with its checkpoint."""
    run = Run.start(cfg, classes if cfg.conditional else [], CPU)
    torch.manual_seed(7)
    with torch.no_grad():
        for network in run.networks:
            for value in network.state_dict().values():
                if value.is_floating_point():
                    value.add_(0.1 * torch.rand_like(value))
    run.epoch = 5
    save_checkpoint(cfg.run_dir, run.state())
    return run


def made(network: torch.nn.Module, cfg: Config, classes: list[str], name: str) -> Tensor:
    """What a generator makes of one latent for the class `name`, in evaluation mode."""
    z = torch.randn(2, cfg.latent_dim, generator=torch.Generator().manual_seed(3))
    label = classes.index(name) if cfg.conditional else 0
    with torch.no_grad():
        return network.eval()(z, torch.full((2,), label))


def started(cfg: Config, classes: list[str], source: Config) -> Run:
    run = Run.start(change(cfg, {"run_name": "new"}), classes if cfg.conditional else [], CPU)
    initialise(run, read_source(str(source.run_dir)))
    return run


# ---- what is taken over --------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", sorted(config.RECIPES))
def test_all_networks_of_every_recipe_are_those_of_the_other_run(recipe, tmp_path, capsys):
    cfg = small_of(recipe, tmp_path)
    other, before = trained(cfg, CLASSES), torch.get_rng_state()
    run = started(cfg, CLASSES, cfg)
    for ours, theirs in zip(run.networks, other.networks, strict=True):
        assert torch.equal(weights(ours), weights(theirs))
    for name in CLASSES:
        ours, theirs = (made(r.shown, cfg, CLASSES, name) for r in (run, other))
        assert torch.equal(ours, theirs)
    assert (run.epoch, run.step) == (0, 0)
    for optimiser in (run.generator_optimiser, run.critic_optimiser):
        assert optimiser.state_dict()["state"] == {}
        assert optimiser.param_groups[0]["params"][0].requires_grad
    said = capsys.readouterr().out
    assert "epoch 5" in said
    assert ("Classes known from there: high, low, mid; new: none" in said) == cfg.conditional
    seeded = Run.start(cfg, CLASSES if cfg.conditional else [], CPU)
    after = torch.get_rng_state()
    initialise(seeded, read_source(str(cfg.run_dir)))
    assert torch.equal(torch.get_rng_state(), after)  # it draws nothing
    assert not torch.equal(before, after)


@pytest.mark.parametrize("recipe", ["sn-wgan-gp", "cgan", "best"])
def test_classes_are_taken_over_by_their_names(recipe, tmp_path, capsys):
    cfg = small_of(recipe, tmp_path)
    other = trained(cfg, CLASSES)
    now = ["alarm", "high", "mid", "zebra"]
    fresh = Run.start(cfg, now, CPU)
    run = started(cfg, now, cfg)
    for name in ("high", "mid"):
        ours, theirs = (made(r.generator, cfg, c, name) for r, c in ((run, now), (other, CLASSES)))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        x = torch.randn(2, *cfg.shape, generator=torch.Generator().manual_seed(1))
        scores = [
            r.critic.eval()(x, torch.full((2,), c.index(name)))
            for r, c in ((run, now), (other, CLASSES))
        ]
        torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)
    generator, _ = class_axes(cfg)
    assert len(generator) == (2 if recipe == "best" else 1)  # that of the denoiser, too
    for weight, (axis, first) in generator.items():
        own, new = (r.generator.state_dict()[weight] for r in (run, fresh))
        for number in (0, 3):  # alarm and zebra: as in any new run
            assert torch.equal(own.select(axis, first + number), new.select(axis, first + number))
    said = capsys.readouterr().out
    assert "Classes known from there: high, mid; new: alarm, zebra; left behind: low." in said


def test_standardisation_is_that_of_the_other_run(sounds, tmp_path):
    cfg = change(small_of("best", tmp_path), {"epochs": 1})
    other = train.train(cfg)
    shutil.rmtree(sounds / "mid")
    cfg = change(cfg, {"run_name": "new", "init_from": str(other.cfg.run_dir)})
    run = train.train(cfg)
    for ours, theirs in zip(run.networks, other.networks, strict=True):
        assert torch.equal(ours.standardise.mean, theirs.standardise.mean)
        assert torch.equal(ours.standardise.deviation, theirs.standardise.deviation)
    assert run.classes == ["high", "low"]


@pytest.mark.parametrize("name", ["generator.safetensors", "best.safetensors"])
def test_weights_alone_are_enough_for_the_generator(sounds, tmp_path, name, capsys):
    cfg = change(small_of("best", tmp_path), {"epochs": 1})
    other = train.train(cfg)
    shutil.rmtree(cfg.run_dir / "checkpoints")
    (cfg.run_dir / "generator.safetensors").rename(cfg.run_dir / name)
    saved = load_file(cfg.run_dir / name)
    run = started(cfg, CLASSES, cfg)
    for network in (run.generator, run.average):
        assert all(torch.equal(saved[k], v) for k, v in network.state_dict().items())
    assert torch.equal(run.critic.standardise.mean, run.generator.standardise.mean)
    assert not torch.equal(weights(run.critic), weights(other.critic))
    said = capsys.readouterr().out
    assert f"({name}): generator, average." in said
    assert "The critic starts anew" in said


def test_the_best_checkpoint_serves_where_there_is_no_other(small, capsys):
    other = trained(small, CLASSES)
    folder = small.run_dir / "checkpoints"
    (folder / "last.pt").rename(folder / "best.pt")
    assert torch.equal(weights(started(small, CLASSES, small).critic), weights(other.critic))


def test_a_run_that_goes_on_has_networks_of_its_own(small, sounds, tmp_path):
    first = train.train(change(small, {"epochs": 1}))
    files_of_first = {p: p.read_bytes() for p in first.cfg.run_dir.rglob("*") if p.is_file()}
    new = change(small, {"run_name": "new", "init_from": str(first.cfg.run_dir), "epochs": 1})
    before = train.train(new)
    assert not torch.equal(weights(before.generator), weights(first.generator))
    state = find_checkpoint(new.run_dir).state
    assert {p: p.read_bytes() for p in first.cfg.run_dir.rglob("*") if p.is_file()} == (
        files_of_first  # only read
    )
    shutil.rmtree(first.cfg.run_dir)
    run = train.train(new)  # the very command again
    for name, value in state["generator"].items():
        assert torch.equal(run.generator.state_dict()[name], value)


# ---- what is refused -----------------------------------------------------------------------------


def test_other_shapes_are_refused_by_the_constants_that_make_them(small):
    trained(small, CLASSES)
    other = change(small, {"generator.channels": (24, 8), "critic.spectral_norm": False})
    with pytest.raises(UserError, match=r"do not fit .*generator\.channels \[16, 8\] -> \[24, 8\]"):
        started(other, CLASSES, small)
    other = change(small, {"critic.spectral_norm": False})
    with pytest.raises(UserError, match=r"in one of them only\).*critic\.spectral_norm True -> F"):
        started(other, CLASSES, small)


def test_a_source_that_is_none_is_refused_before_anything_is_written(small, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, reason in (
        ("nowhere", "there is no such folder"),
        ("empty", "it holds no checkpoint and no weights"),
    ):
        with pytest.raises(UserError, match=f"--init-from .*{folder}: {reason}"):
            train.train(change(small, {"init_from": str(tmp_path / folder)}))
    assert not (Path(small.output_dir) / ".cache").exists()
    assert [p.name for p in small.run_dir.iterdir()] == [".lock"]
    train.train(change(small, {"epochs": 1}))  # which is no obstacle


def test_a_damaged_source_is_one_sentence(small, capsys):
    trained(small, CLASSES)
    state = find_checkpoint(small.run_dir).state
    new = change(small, {"run_name": "new"})
    for damage, reason in (
        ({"generator": {"a": 1}}, "do not fit"),
        ({"config": {"recipe": 7}}, "is damaged"),
        ({"classes": 3}, "its checkpoint is none of a run"),
        ({"critic": None}, "its checkpoint is none of a run"),
    ):
        save_checkpoint(small.run_dir, state | damage)
        with pytest.raises(UserError, match=f"--init-from .*{reason}") as error:
            started(new, CLASSES, small)
        assert "\n" not in str(error.value)
    files.write_bytes(small.run_dir / "checkpoints" / "last.pt", b"rubbish")
    files.write_bytes(small.run_dir / "checkpoints" / "previous.pt", b"rubbish")
    with pytest.raises(UserError, match="holds no checkpoint and no weights"):
        started(new, CLASSES, small)


# ---- what may have been trained on ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "rows", "folders", "seen"),
    [
        ("same", [("a/1.wav", 0, ""), ("a/2.wav", 0, "")], ("", ""), 0),
        ("same", [("a/1.wav", 0, "")], ("", ""), 1),
        ("other", [("a/1.wav", 0, ""), ("a/2.wav", 0, "")], ("", ""), 2),
        ("same", [], ("", ""), 2),
        ("other", [], ("h", "h"), 0),
        ("other", [], ("h", ""), 2),
    ],
)
def test_what_the_other_run_may_have_heard_is_said(small, capsys, data, rows, folders, seen):
    """What is held out here has to be new to the networks, or the scores flatter."""
    there, here = (change(small, {"holdout_dir": folder}) for folder in folders[::-1])
    source = Source("other", "", there, CLASSES, {}, None, None, data, rows)
    record = [] if here.holdout_dir else [("a/1.wav", 0, ""), ("a/2.wav", 0, "")]
    recordings = [Recording(Path(f"a/{n}.wav"), 0, 0, "") for n in (1, 2)]
    split = Split(np.arange(3), recordings, "2 clips are held out.", record)
    after = with_doubts(source, here, split, "same")
    said = capsys.readouterr().out
    assert (f"{seen} of the 2 clips" in after.said) == (seen > 0)
    assert after.said.startswith(split.said)
    assert bool(said) == (seen > 0)
    assert (after.record, after.held_out) == (split.record, split.held_out)
