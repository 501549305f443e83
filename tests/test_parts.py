"""A recipe's parts: each has only its own constants, and says which of them cannot work."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import config
from soundgan import command_line, settings
from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.models.residual import ProjectionCritic, ResidualGenerator
from soundgan.parts import concrete
from soundgan.settings import Config, Waveform
from soundgan.training.objectives import (
    CrossEntropy,
    Wasserstein,
    WassersteinClip,
    WassersteinGP,
)
from soundgan.training.optimisers import Adam


def parsed(*words):
    return command_line.parse(words, config.RECIPES, config.SUMMARIES, config.RECIPE)


# ---- constants of another part -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("generator.style_dim", "ResidualGenerator"),
        ("generator.patch", "ResidualGenerator and ProjectionCritic"),
        ("critic.patch", "ResidualGenerator and ProjectionCritic"),
        ("critic.features", "ProjectionCritic"),
        ("critic.upsampling", "ConvolutionalGenerator"),
        ("generator.phase_shuffle", "ConvolutionalCritic"),
        ("objective.weight_clip", "WassersteinClip"),
        ("optimiser.alpha", "RMSprop"),
        ("sound.samples", "Waveform"),
    ],
)
def test_a_constant_of_another_part_is_refused_by_the_name_of_that_part(changed, said, small):
    part, _, name = changed.partition(".")
    kind = type(getattr(small, part)).__name__
    sentence = f"^{kind} has no constant '{name}': it belongs to {said}\\.$"
    with pytest.raises(UserError, match=sentence):
        change(small, {changed: 1})
    with pytest.raises(UserError, match=sentence):
        replace(getattr(small, part), **{name: 1})


def test_each_kind_of_part_has_only_what_means_something_to_it():
    residual = {"latent_dim": 8, "channels": (8, 4), "patch": 4, "style_dim": 8}
    residual |= {"output_range": (-1.0, 1.0)}
    ResidualGenerator(**residual)
    for name in ("stride", "output", "attention", "norm", "upsampling"):
        with pytest.raises(UserError, match=f"'{name}': it belongs to Convolutional"):
            ResidualGenerator(**residual, **{name: 1})
    for name in ("spectral_norm", "dropout", "head", "norm"):
        with pytest.raises(UserError, match=f"'{name}': it belongs to Convolutional"):
            ProjectionCritic(channels=(4, 8), patch=4, features=8, **{name: 1})
    for kind in (CrossEntropy, WassersteinClip):
        with pytest.raises(UserError, match=r"'gp_weight': it belongs to WassersteinGP\."):
            kind(gp_weight=10.0)
    for name in ("hop", "n_mels", "standardise", "jitter"):
        with pytest.raises(UserError, match=rf"'{name}': it belongs to Spectrogram\."):
            Waveform(sample_rate=8000, samples=64, **{name: 1})


def test_a_misspelt_constant_gets_the_nearest_name():
    with pytest.raises(UserError, match="Adam has no constant 'beta': did you mean betas"):
        Adam(generator_lr=1e-4, critic_lr=1e-4, beta=(0.0, 0.9))
    with pytest.raises(UserError, match="no constant 'epoch': did you mean epochs"):
        change(config.RECIPES["best"], {"epoch": 3})
    with pytest.raises(UserError, match="no part 'optimizer': did you mean optimiser"):
        change(config.RECIPES["best"], {"optimizer.critic_lr": 1e-3})


def test_what_a_part_cannot_do_without_must_be_stated():
    with pytest.raises(UserError, match="WassersteinGP needs gp_weight"):
        WassersteinGP()
    with pytest.raises(UserError, match="ProjectionCritic needs patch, features"):
        ProjectionCritic(channels=(8, 16))
    with pytest.raises(UserError, match="ResidualGenerator needs patch, style_dim, output_range"):
        ResidualGenerator(latent_dim=8, channels=(8, 16))
    with pytest.raises(UserError, match=r"Config needs data_dir, .*, sound, generator, critic"):
        Config()
    with pytest.raises(UserError, match="Config has no constant 'sed': did you mean seed"):
        Config(**config.RUN, sed=42)
    with pytest.raises(UserError, match="Config has no constant 'frames': it belongs to Spectro"):
        Config(**config.RUN, frames=3)


def test_each_part_stands_in_its_place():
    best = config.RECIPES["best"]
    wrong = change(best, {"objective": best.optimiser})
    with pytest.raises(UserError, match=r"objective of best must be one of WassersteinGP, W.*Rel"):
        wrong.check()
    abstract = change(best, {"objective": Wasserstein()})
    with pytest.raises(UserError, match="objective of best must be one of WassersteinGP"):
        abstract.check()


def test_parts_survive_being_copied_and_sent():
    for cfg in config.RECIPES.values():
        assert pickle.loads(pickle.dumps(cfg)) == cfg
        assert copy.deepcopy(cfg) == cfg


def test_a_kind_that_another_one_derives_from_can_still_be_chosen():
    @dataclass(frozen=True, kw_only=True)
    class Gentler(WassersteinGP):
        pass

    assert {"WassersteinGP", "Gentler"} <= set(concrete(settings.Objective))
    del Gentler
    gc.collect()
    assert "Gentler" not in concrete(settings.Objective)  # for the tests after this one


def test_a_kind_is_made_of_what_the_old_one_can_give():
    """What it has to have, and the old one has none of, is asked for."""
    words = ("cgan", "--generator", "ResidualGenerator", "--generator.patch", "4")
    with pytest.raises(SystemExit):
        parsed(*words, "--generator.style-dim", "64")
    cfg = parsed(*words, "--generator.style-dim", "64", "--generator.output-range", "0", "8")
    assert cfg.generator.output_range == (0.0, 8.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--n-mels 64", "--n-mels is not known: sn-wgan-gp has --sound.n-mels."),
        ("--betas 0 0.9", "--betas is not known: sn-wgan-gp has --optimiser.betas."),
        (
            "--channels 8 4",
            "--channels is not known: sn-wgan-gp has --generator.channels or --critic.channels.",
        ),
        ("--sound.gp-weight 5", "sn-wgan-gp has --objective.gp-weight."),
        ("--no-spectral-norm", "sn-wgan-gp has --critic.spectral-norm."),
        (
            "cgan --objective.gp-weight 5",
            "the objective of cgan is CrossEntropy, and gp_weight belongs to "
            "WassersteinGP (--objective WassersteinGP).",
        ),
        (
            "best --critic.spectral-norm",
            "the critic of best is ProjectionCritic, and spectral_norm belongs to "
            "ConvolutionalCritic (--critic ConvolutionalCritic).",
        ),
        (
            "--generator.style-dim=8",
            "the generator of sn-wgan-gp is ConvolutionalGenerator, and style_dim belongs to "
            "ResidualGenerator (--generator ResidualGenerator).",
        ),
        (
            "wavegan --sound.hop 128",
            "the sound of wavegan is Waveform, and hop belongs to "
            "Spectrogram (--sound Spectrogram).",
        ),
        (
            "lofi-wgan --optimiser.alpha 0.9",
            "the optimiser of lofi-wgan is Adam, and alpha belongs to "
            "RMSprop (--optimiser RMSprop).",
        ),
    ],
)
def test_the_command_line_names_the_right_part(words, said):
    with pytest.raises(UserError) as refused:
        parsed(*words.split())
    assert str(refused.value).endswith(said)


# ---- values that cannot work ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"objective.class_weight": 0.1}, "objective.class_weight"),
        ({"critic.augment": 1.5}, "critic.augment"),
        ({"objective.latent_weight": 0.1}, "objective.latent_weight"),
        ({"sound.jitter": -1.0}, "sound.jitter"),
        (
            {"objective": CrossEntropy(r1_r2_weight=1.0), "critic.norm": "batch"},
            "objective.r1_r2_weight",
        ),
        ({"sound.jitter": 1.0, "sound.compression": "log1p"}, "sound.jitter"),
        ({"objective.r1_r2_every": 0}, "objective.r1_r2_every"),
        ({"objective.r1_r2_by": "slope"}, "objective.r1_r2_by"),
        ({"objective.r1_r2_step": 0.0}, "objective.r1_r2_step"),
        (
            {"objective.r1_r2_by": "difference", "critic.dropout": (0.0, 0.3)},
            "objective.r1_r2_by",
        ),
        ({"optimiser.ema_half_life": -1.0}, "optimiser.ema_half_life"),
        ({"objective": WassersteinClip(weight_clip=float("inf"))}, "objective.weight_clip"),
        ({"objective": WassersteinClip(weight_clip=0.0)}, "objective.weight_clip"),
        ({"objective.gp_weight": 0.0}, "objective.gp_weight"),
        ({"generator.attention": 2}, "generator.attention"),
        ({"critic.attention": 3}, "critic.attention"),
        ({"vocoder": "none"}, "vocoder"),
    ],
)
def test_what_does_not_fit_is_named(changed, name, small):
    with pytest.raises(UserError, match=f"^{name} = "):
        change(small, changed).check()


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"generator.patch": 0}, "generator.patch"),
        ({"critic.patch": 3}, "critic.patch"),
        ({"generator.style_dim": 0}, "generator.style_dim"),
        ({"critic.features": 0}, "critic.features"),
        ({"generator.patch": 12}, "generator.channels"),
        ({"generator.norm_groups": 3}, "generator.channels"),
        ({"conditional": False}, "objective.class_weight"),
        ({"sound": Waveform(sample_rate=8000, samples=2048), "vocoder": "none"}, "generator"),
    ],
)
def test_what_does_not_fit_residual_networks_is_named(changed, name):
    with pytest.raises(UserError, match=f"^{name}\\b.* = "):
        change(config.RECIPES["best"], changed).check()


@pytest.mark.parametrize("name", config.RECIPES)
def test_every_recipe_can_work(name):
    config.RECIPES[name].check()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("train.py",),
        ("generate.py", "outputs/x"),
        ("evaluate.py", "outputs/x"),
        ("train_vocoder.py",),
    ],
)
def test_a_mistake_in_config_py_is_one_sentence(command, tmp_path):
    root = Path(config.__file__).parent
    for name in ("train.py", "generate.py", "evaluate.py", "train_vocoder.py", "soundgan"):
        (tmp_path / name).symlink_to(root / name)
    text = (root / "config.py").read_text()
    (tmp_path / "config.py").write_text(text.replace("Relativistic(", "Relativistic(gp_weight=1,"))
    program = f"""
import runpy, sys
sys.path.insert(0, {str(tmp_path)!r})
sys.argv = {list(command)!r}
runpy.run_path({str(tmp_path / command[0])!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 2
    said = "Error: Relativistic has no constant 'gp_weight': it belongs to WassersteinGP."
    assert done.stderr.strip() == said
