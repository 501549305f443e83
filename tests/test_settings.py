"""Constants: one place each, all on the command line, checked before anything is done."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from itertools import pairwise

import pytest

import config
from soundgan import config_io
from soundgan.command_line import parse
from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.parts import Part, concrete, names_of
from soundgan.settings import Config, parts_of
from soundgan.training.objectives import WassersteinGP


def parsed(*words: str) -> Config:
    return parse(words, config.RECIPES, config.SUMMARIES, config.RECIPE)


def own_constants(cfg: Config) -> list[str]:
    """Full names of the constants of a recipe."""
    return [name for name in config_io.flat(cfg) if not name.endswith(".kind")]


def test_the_command_line_overrides_the_recipe(default):
    assert parsed() == default
    words = ("--epochs", "7", "--data-dir", "x", "--optimiser.betas", "0.5", "0.9")
    cfg = parsed("sn-wgan-gp", *words)
    changes = {"epochs": 7, "data_dir": "x", "optimiser.betas": (0.5, 0.9)}
    assert cfg == change(default, changes)


@pytest.mark.parametrize("recipe", list(config.RECIPES))
def test_help_names_every_constant_by_its_part_and_every_recipe(recipe, capsys):
    with pytest.raises(SystemExit) as end:
        parsed(recipe, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in own_constants(config.RECIPES[recipe]):
        assert name == "recipe" or "--" + name.replace("_", "-") in text, name
    assert all(f"{part} options" in text for part in parts_of(config.RECIPES[recipe]))
    assert all(name in text for name in config.RECIPES)
    assert set(config.SUMMARIES) == set(config.RECIPES)


def test_every_constant_says_what_it_is():
    kinds = {k for kind in concrete(Part).values() for k in kind.__mro__ if issubclass(k, Part)}
    for owner in (Config, *kinds):
        body = ast.parse(inspect.getsource(owner)).body[0].body
        for field, after in pairwise(body):
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                assert isinstance(after, ast.Expr), f"{field.target.id} lacks its line"
                assert isinstance(after.value.value, str)


def test_a_run_states_all_of_its_constants_in_config_py():
    """The rest of Config is the recipe's; --dry-run has its place on the command line alone."""
    recipe = {"recipe", "epochs", "batch_size", "balance", "conditional", "vocoder"}
    recipe |= set(parts_of(config.RECIPES["best"]))
    assert set(config.RUN) == set(config_io.OF_A_RUN) - {"dry_run", "init_from"}
    assert set(names_of(Config)) == recipe | set(config_io.OF_A_RUN)


def test_an_unknown_recipe_gets_the_nearest_name():
    with pytest.raises(UserError, match=r"no recipe 'sn-wgan': did you mean sn-wgan-gp or"):
        parsed("sn-wgan")
    with pytest.raises(UserError, match="known: "):
        parsed("xyzzy")


def test_an_unknown_flag_ends_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as end:
        parsed("--epoch", "3")
    assert end.value.code == 2
    assert "--epochs" in capsys.readouterr().err


def test_a_part_of_another_kind_keeps_what_both_know():
    words = "best --objective WassersteinGP --objective.gp-weight 10 --objective.r1-r2-weight 0"
    cfg = parsed(*words.split())
    weights = {"class_weight": 0.1, "latent_weight": 1.0, "r1_r2_every": 4}
    assert cfg == change(config.BEST, {"objective": WassersteinGP(gp_weight=10.0, **weights)})
    assert type(parsed("--objective=CrossEntropy").objective).__name__ == "CrossEntropy"
    with pytest.raises(UserError, match=r"no objective 'wgan' \(--objective\): known: Wasserst"):
        parsed("--objective", "wgan")


def test_what_only_the_other_kind_has_is_asked_for(capsys):
    with pytest.raises(SystemExit):
        parsed("best", "--objective", "WassersteinGP")
    assert "--objective.gp-weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--epochs 0", r"epochs = 0: must be at least 1 \(--epochs, or config.py\)"),
        ("--batch-size -1", "batch_size = -1"),
        ("--seed -1", "seed = -1"),
        ("--sample-every 0", r"sample_every = 0: must be auto, or a number of epochs from 1 up"),
        ("--sample-every never", r"^sample_every = 'never': must be a whole number or auto \("),
        ("--sample-every 1.5", r"sample_every = '1.5': must be a whole number or auto \("),
        ("--score-every=-1", "score_every = -1: must be auto, or a number of epochs from 0 up"),
        ("--score-every True", "score_every = 'True': must be a whole number or auto"),
        ("--sound.n-mels 81", r"n_mels \(81\)"),
        ("--sound.frames 350", r"frames \(350\) to be multiples of 16"),
        ("--critic.norm-groups 7", r"multiples of norm_groups \(7\)"),
        ("--generator.norm-groups 7", r"multiples of norm_groups \(7\)"),
        ("--sound.f-max 12000", "sound.f_max = 12000.0: must not exceed half the sample rate"),
        ("--sound.hop 2000", "sound.hop = 2000: must not exceed n_fft"),
        ("--optimiser.critic-lr nan", r"optimiser.critic_lr = nan.*\(--optimiser.critic-lr, or"),
        ("--optimiser.betas 0 1", "optimiser.betas"),
        ("--run-name a/b", "run_name = 'a/b'"),
        ("--run-name ..", "run_name = '..'"),
        ("--generator.output-range 1 0", "generator.output_range"),
        ("best --sound.compression log1p", "sound.jitter = 1.0: is for natural logarithms"),
        ("cgan --objective.class-weight 1", "objective.class_weight.*projection critic"),
    ],
)
def test_values_that_cannot_work_are_named(words, said):
    with pytest.raises(UserError, match=said):
        parsed(*words.split())


def test_a_constant_of_another_type_is_one_sentence(default):
    wrong = {"sn-wgan-gp": change(default, {"seed": "abc"})}
    said = r"^seed = 'abc': must be a whole number \(--seed, or config\.py\)\.$"
    with pytest.raises(UserError, match=said):
        parse([], wrong, config.SUMMARIES, "sn-wgan-gp")


def test_samples_and_scores_come_by_number_or_by_time(default):
    """And constants that were written when there were only numbers can be read."""
    for cfg in config.RECIPES.values():
        assert (cfg.sample_every, cfg.score_every) == ("auto", "auto")
    asked = parsed("cgan", "--sample-every", "10", "--score-every", "0")
    assert (asked.sample_every, asked.score_every) == (10, 0)
    assert config_io.from_dict(config_io.to_dict(asked), "here") == asked
    assert parsed("--sample-every=auto", "--score-every", "auto") == default
    numbers = config_io.to_dict(default) | {"sample_every": 10, "score_every": 50}
    assert config_io.from_dict(numbers, "x.json").score_every == 50
    for wrong in (True, 1.5, "10", None, ["auto"]):
        with pytest.raises(UserError, match=r"sample_every = .*: must be a whole number or auto"):
            config_io.from_dict(numbers | {"sample_every": wrong}, "x.json")


@pytest.mark.parametrize("recipe", list(config.RECIPES))
def test_constants_survive_being_written(recipe):
    cfg = config.RECIPES[recipe]
    assert config_io.from_dict(config_io.to_dict(cfg), "here") == cfg


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"representation": "mel"}, "x.json was written before version 0.1.0"),
        ({"colour": 1}, "x.json is damaged, or of another version .*colour"),
        ({"critic": {"kind": "os.system"}}, "x.json is damaged, or of another version"),
        ({"sound": {"kind": "Spectrogram", "colour": 1}}, "x.json is damaged, .* 'colour'"),
        (
            {"epochs": "64"},
            r"^x.json is damaged, or was edited: epochs = '64': must be a whole num",
        ),
        ({"epochs": 0}, r"^x.json is damaged, or was edited: epochs = 0: must be at least 1\.$"),
    ],
)
def test_written_constants_that_do_not_fit_are_one_sentence(default, changes, said):
    with pytest.raises(UserError, match=said):
        config_io.from_dict(config_io.to_dict(default) | changes, "x.json")


def test_what_makes_another_training(default):
    """The recipe and the seed; not where, how often and how long."""
    free = {
        *("data_dir", "output_dir", "run_name", "sample_every", "checkpoint_every", "device"),
        *("deterministic", "tf32", "decode_threads", "dry_run", "init_from", *config_io.FREE),
        *("score_every", "score_clips", "tensorboard", "background", "compile", "graph"),
    }
    a = config_io.flat(default)
    changed = {name for name in a if config_io.must_match(a, a | {name: "changed"})}
    assert changed == set(a) - free


def test_a_constant_that_was_not_written_down_has_its_default(default):
    """A checkpoint of before it existed goes on, but not with another value than the default."""
    new = config_io.flat(default)
    old = {name: value for name, value in new.items() if name not in ADDED}
    assert config_io.must_match(old, new) == config_io.must_match(new, old) == []
    for name, value in ADDED.items():
        assert config_io.must_match(old, new | {name: value}) == [name]
        assert config_io.must_match(new | {name: value}, old) == [name]
    for needed in ("sound.frames", "epochs", "objective.gp_weight", "critic.kind"):
        assert config_io.value_of({n: v for n, v in new.items() if n != needed}, needed) is None
    assert config_io.value_of({"objective.kind": ["damaged"]}, "objective.l1_weight") is None
    assert config_io.value_of({"critic.kind": "ConvolutionalCritic"}, "critic.dropout") == []
    other = old | {"objective.kind": "Relativistic"}
    assert config_io.must_match(other, new) == ["objective.kind"]


ADDED = {
    "objective.r1_r2_by": "difference",
    "objective.r1_r2_step": 0.25,
    "balance": True,
    "critic.dropout": [0.5],
}


def test_changing_by_full_names(default):
    cfg = change(default, {"sound.frames": 64, "critic": config.BEST.critic, "epochs": 2})
    assert (cfg.sound.frames, cfg.critic, cfg.epochs) == (64, config.BEST.critic, 2)
    assert config_io.changes(default, change(default, {"sound.frames": 64, "epochs": 2})) == {
        "epochs": 2,
        "sound.frames": 64,
    }
    with pytest.raises(UserError, match=r"no constant 'epoch': did you mean epochs"):
        change(default, {"epoch": 2})
    with pytest.raises(UserError, match=r"no part 'sond': did you mean sound"):
        change(default, {"sond.frames": 64})
    with pytest.raises(UserError, match=r"'gp_wight': did you mean gp_weight"):
        change(default, {"objective.gp_wight": 2.0})


def test_every_number_of_a_recipe_has_one_field():
    for cfg in config.RECIPES.values():
        for part in parts_of(cfg).values():
            assert dataclasses.is_dataclass(part)
            assert not set(names_of(type(part))) & set(names_of(Config))
