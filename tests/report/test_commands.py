"""What the page says to type does what it says."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import make_run

import config
from soundgan import command_line, config_io
from soundgan.report import commands
from soundgan.report.run_contents import describe

CHANGES = [
    {},
    {
        "batch_size": 8,
        "tf32": False,
        "generator.output_range": (-12.5, 2.0),
        "data_dir": "my 'sounds'",
        "optimiser.fresh_batches": True,
    },
    {
        "critic.dropout": (),
        "generator.channels": (64, 32),
        "sound.frames": 64,
        "run_name": "a b",
        "critic.spectral_norm": False,
    },
    {
        "generator.attention": 2,
        "critic.attention": 2,
        "device": "cuda:1",
        "seed": 7,
        "output_dir": "/tmp/o",
    },
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("recipe", ["sn-wgan-gp", "lofi-wgan"])
def test_the_command_continues_the_very_run(recipe, changes):
    if recipe == "lofi-wgan":
        changes = {
            k: v for k, v in changes.items() if k in ("batch_size", "critic.dropout", "seed")
        }
    usual = config.RECIPES[recipe]
    cfg = config_io.change(usual, changes)
    about = (config_io.to_dict(cfg), config_io.changes(usual, cfg))
    command = commands.train_command(cfg.run_dir, *json.loads(json.dumps(about)), 999)
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    again = command_line.parse(words[2:], config.RECIPES, config.SUMMARIES, config.RECIPE)
    assert again.run_dir == cfg.run_dir
    assert replace(again, run_name=cfg.run_name) == replace(cfg, epochs=999)


def test_it_names_a_place_that_is_not_the_usual_one(tmp_path):
    """The run may have been moved since it was trained; a part may be of another kind."""
    constants = {"recipe": "best", "output_dir": "outputs"}
    changed = {"objective.kind": "WassersteinGP"}
    assert commands.train_command(Path("outputs/best"), constants, changed, 9) == (
        "python train.py best --epochs 9 --objective WassersteinGP"
    )
    assert commands.train_command(Path("there/best"), constants, changed, 9) == (
        "python train.py best --output-dir there --epochs 9 --objective WassersteinGP"
    )


def test_a_run_says_how_it_goes_on(tmp_path):
    run_dir = make_run(tmp_path / "run")
    path = run_dir / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"changed": {"optimiser.critic_lr": 1e-4}}))
    train = describe(run_dir, [])["commands"]["train"]
    place = f"--run-name run --output-dir {shlex.quote(str(tmp_path))}"
    assert train == (f"python train.py sn-wgan-gp {place} --epochs 9 --optimiser.critic-lr 0.0001")


def test_labels_are_quoted():
    labels = commands.commands(Path("r"), {}, {}, 1, ["a", "it's", "-x y"])["labels"]
    assert shlex.split(labels["it's"]) == ["--label", "it's"]
    assert shlex.split(labels["-x y"]) == ["--label=-x y"]


def test_paths_are_quoted():
    for name in ("Tom's runs/a b", "-x/run", "$HOME/`x`"):
        said = commands.commands(Path(name), {"recipe": "best"}, {}, 1, [])
        assert Path(shlex.split(said["generate"])[-1]) == Path(name)
        assert not shlex.split(said["generate"])[-1].startswith("-")
        words = shlex.split(said["train"])
        again = command_line.parse(words[2:], config.RECIPES, config.SUMMARIES, config.RECIPE)
        assert again.run_dir == Path(name)
