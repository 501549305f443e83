"""Constants: one place each, all on the command line, checked before anything is done."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from dataclasses import replace
from itertools import pairwise

import pytest

import config
from config import Config, UserError


def test_the_command_line_overrides_the_recipe(default):
    assert config.parse([]) == default
    cfg = config.parse(["sn-wgan-gp", "--epochs", "7", "--data-dir", "x", "--betas", "0.5", "0.9"])
    assert cfg == replace(default, epochs=7, data_dir="x", betas=(0.5, 0.9))


def test_help_names_every_constant_and_recipe(capsys):
    with pytest.raises(SystemExit) as end:
        config.parse(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert field.name == "recipe" or "--" + field.name.replace("_", "-") in text, field.name
    assert all(name in text for name in config.RECIPES)
    assert set(config.SUMMARIES) == set(config.RECIPES)


def test_every_constant_says_what_it_is():
    body = ast.parse(inspect.getsource(Config)).body[0].body
    for field, after in pairwise(body):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), f"{field.target.id} lacks its line"
            assert isinstance(after.value.value, str)


def test_an_unknown_recipe_gets_the_nearest_name():
    with pytest.raises(UserError, match=r"no recipe 'sn-wgan': did you mean sn-wgan-gp or"):
        config.parse(["sn-wgan"])
    with pytest.raises(UserError, match="known: "):
        config.parse(["xyzzy"])


def test_an_unknown_flag_ends_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as end:
        config.parse(["--epoch", "3"])
    assert end.value.code == 2
    assert "--epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--epochs 0", r"epochs = 0: must be at least 1 \(--epochs, or config.py\)"),
        ("--batch-size -1", "batch_size = -1"),
        ("--seed -1", "seed = -1"),
        ("--n-mels 81", r"n_mels \(81\)"),
        ("--frames 350", r"frames \(350\) to be multiples of 16"),
        ("--norm-groups 7", r"multiples of norm_groups \(7\)"),
        ("--f-max 12000", "f_max = 12000.0: must not exceed half the sample rate"),
        ("--hop 2000", "hop = 2000: must not exceed n_fft"),
        ("--critic-lr nan", "critic_lr = nan"),
        ("--betas 0 1", "betas"),
        ("--run-name a/b", "run_name = 'a/b'"),
        ("--run-name ..", "run_name = '..'"),
        ("--output-range 1 0", "output_range"),
    ],
)
def test_values_that_cannot_work_are_named(words, said):
    with pytest.raises(UserError, match=said):
        config.parse(words.split())


def test_constants_survive_being_written(default):
    assert config.from_dict(config.to_dict(default), "here") == default


def test_what_makes_another_training(default):
    """The recipe and the seed; not where, how often and how long."""
    names = {f.name for f in dataclasses.fields(Config)}
    free = {
        *("data_dir", "output_dir", "run_name", "sample_every", "checkpoint_every", "device"),
        *("deterministic", "tf32", "decode_threads", "dry_run", *config.FREE),
        *("score_every", "score_clips", "tensorboard", "background", "compile", "graph"),
    }
    a = config.to_dict(default)
    changed = {n for n in names if config.must_match(a, a | {n: "changed"})}
    assert changed == names - free
