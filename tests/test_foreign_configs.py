"""A config.json from elsewhere: every edit of every field is one sentence, or can be built.

What is refused is refused before memory is asked for; what is accepted makes a generator that
plays. Nothing else comes of it: no traceback, no waiting.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import shrunk

import config
from soundgan import config_io, models
from soundgan.errors import UserError
from soundgan.settings import MOST_WEIGHTS, Config

WRONG = (  # of no field's type, or of one's at most
    *(None, True, False, "", "64", "x" * 5000, "a\0b", "a\x1b[31mb", "\ud800", "é"),
    *(-1, 0, 1, 3, 7, 10**6, 10**9, 10**12, 10**30, -(10**30), 10**400),
    *(1.5, -0.5, 0.0, 1e-300, 1e30, 1e300, float("nan"), float("inf"), -float("inf")),
    *([], {}, [[]], [1], [1, 2], [1.5], ["a", "b"], [None], [True, True], [10**9, 10**9]),
    *([0.1] * 100, [8] * 70, [float("nan"), 1.0], {"kind": "Spectrogram"}, {"a": {"b": [1]}}),
    *("../../etc", "/", ".", "~", "first ", "GROUP", "os.system", "cuda:99"),
)


def fields(written: dict) -> Iterator[tuple[str, ...]]:
    """Every place in what `to_dict` wrote."""
    for name, value in written.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, own) for own in value)


def edited(written: dict, place: tuple[str, ...], value: object) -> dict:
    content = copy.deepcopy(written)
    inner = content[place[0]] if len(place) == 2 else content
    inner[place[-1]] = value
    return content


def read(written: dict) -> Config | None:
    """What comes of it: a Config that was checked, or None after one sentence."""
    try:
        return config_io.from_dict(written, "config.json")
    except UserError as reason:
        text = str(reason)
        assert text.startswith("config.json ")
        assert "\n" not in text
        assert len(text) < 1000
        assert text.isprintable()
        return None


@pytest.mark.slow
@pytest.mark.parametrize("recipe", config.RECIPES)
def test_every_edit_of_every_field(recipe, tmp_path):
    cfg = shrunk(config.RECIPES[recipe], tmp_path, tmp_path)
    written = config_io.to_dict(cfg)
    accepted: dict[str, Config] = {}
    for place in fields(written):
        for value in WRONG:
            found = read(edited(written, place, value))
            if found is not None:
                json.dumps(config_io.to_dict(found), allow_nan=False)  # can be written again
                parts = {k: v for k, v in config_io.to_dict(found).items() if isinstance(v, dict)}
                accepted[json.dumps([parts, found.conditional])] = found
    for found in accepted.values():
        weights = max(found.generator.size(found, 3), found.critic.size(found, 3))
        if max(weights, math.prod(found.shape)) > 10**6:
            continue  # it can be built, too, but takes seconds
        generator, critic = models.build(found, 3)
        z = torch.zeros(1, found.latent_dim)
        with torch.no_grad():
            clip = generator.eval()(z, torch.tensor([0]))
            assert clip.shape == (1, *found.shape)
            critic.eval()(clip, torch.tensor([0]))


@pytest.mark.parametrize("recipe", config.RECIPES)
def test_every_field_that_is_gone_or_unknown_is_said(recipe):
    written = config_io.to_dict(config.RECIPES[recipe])
    for place in fields(written):
        content = copy.deepcopy(written)
        inner = content[place[0]] if len(place) == 2 else content
        del inner[place[-1]]
        found = read(content)
        inner["unknown"] = 1
        assert read(content) is None
        if found is not None:  # it has a default, which is not what config.py says
            json.dumps(config_io.to_dict(found))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("sn-wgan-gp", {"generator.channels": (60_000,) * 4}),
        ("sn-wgan-gp", {"critic.channels": (60_000,) * 4}),
        ("sn-wgan-gp", {"generator.kernel": 1000}),
        ("wavegan", {"generator.latent_dim": 60_000}),
        ("best", {"generator.channels": (64_000,) * 3}),
        ("best", {"generator.style_dim": 60_000}),
        ("best", {"critic.features": 65_000, "critic.channels": (64, 64, 40_000)}),
    ],
)
def test_a_network_of_a_terabyte_is_refused_before_it_is_built(recipe, changes):
    with pytest.raises(UserError, match=r"must make less than 1000000000 weights|at most"):
        config_io.change(config.RECIPES[recipe], changes).check()


def test_too_many_classes_are_refused_before_a_network_is_built(default):
    with pytest.raises(UserError, match=r"With 100000 classes the generator would have 2\.8e"):
        models.build(default, 100_000)
    assert default.critic.size(default, 30_000) < MOST_WEIGHTS


@pytest.mark.parametrize("recipe", config.RECIPES)
def test_the_size_is_about_the_number_of_weights(recipe):
    cfg = config.RECIPES[recipe]
    for part, network in zip((cfg.generator, cfg.critic), models.build(cfg, 10)):
        weights = sum(p.numel() for p in network.parameters())
        assert part.size(cfg, 10) == pytest.approx(weights, rel=0.2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": True}, "batch_size = True: must be a whole number (--batch-size, or"),
        ({"batch_size": "64"}, "batch_size = '64': must be a whole number"),
        ({"batch_size": 1.5}, "batch_size = 1.5: must be a whole number"),
        ({"tf32": 1}, "tf32 = 1: must be true or false"),
        ({"background": "yes"}, "background = 'yes': must be one of auto, on, off"),
        ({"holdout": "0.1"}, "holdout = '0.1': must be a number"),
        ({"data_dir": None}, "data_dir = None: must be a text"),
        ({"optimiser.betas": (0.5,)}, "optimiser.betas = (0.5,): must be 2 numbers"),
        ({"optimiser.betas": (0.5, "a")}, "optimiser.betas = (0.5, 'a'): each entry must be a num"),
        ({"generator.channels": (8, 4.0)}, "generator.channels = (8, 4.0): each entry must be a w"),
        (
            {"generator.norm": "layer"},
            "generator.norm = 'layer': must be one of none, batch, group",
        ),
        ({"optimiser.ema_half_life": float("inf")}, "optimiser.ema_half_life = inf: must be a num"),
        ({"sound.n_fft": 10**9}, "sound.n_fft = 1000000000: must be at most 65 536"),
        ({"sound.frames": 10**12}, "sound.frames = 1000000000000: must be at most 67 108 864"),
        ({"sound.frames": 352 * 10**4}, "sound.frames = 3520000: must make at most 67108864 samp"),
        ({"optimiser.critic_steps": 10**6}, "optimiser.critic_steps = 1000000: must be at most 1"),
    ],
)
def test_a_wrong_type_or_size_in_config_py_is_one_sentence(default, changes, said):
    with pytest.raises(UserError) as refused:
        config_io.change(default, changes).check()
    assert str(refused.value).startswith(said)


def test_attention_and_shifts_must_fit_their_map():
    default, wave = config.RECIPES["sn-wgan-gp"], config.RECIPES["wavegan"]
    config_io.change(default, {"critic.attention": 1, "generator.attention": 3}).check()
    large = {"sound.frames": 3520, "sound.n_mels": 80, "critic.attention": 1}
    with pytest.raises(UserError, match=r"critic\.attention = 1: its map has 70400 places"):
        config_io.change(default, large).check()
    config_io.change(wave, {"critic.phase_shuffle": 63}).check()
    with pytest.raises(UserError, match=r"phase_shuffle = 64: must be less than a map \(64\)"):
        config_io.change(wave, {"critic.phase_shuffle": 64}).check()


def test_lists_are_as_good_as_tuples_in_config_py(default):
    config_io.change(default, {"generator.channels": [256, 128, 64, 32]}).check()


# ---- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "it says 'c' more than once"),
        ("[" * 100_000, "it is nested too deep"),
        ('{"a":' * 100_000, "it is nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "4300 digits"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("\xff\xfe", "Expecting value"),
        ('"\xff"', "codec can't decode"),
    ],
)
def test_json_that_cannot_be_meant(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=said):
        config_io.read_json(path)


def test_json_is_read_from_regular_files_of_bounded_size(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1, 2.5, "ü", null, true]}')
    assert config_io.read_json(path) == {"a": [1, 2.5, "ü", None, True]}
    with open(path, "wb") as file:
        file.truncate(10**11)
    with pytest.raises(ValueError, match="larger than 16 MiB"):
        config_io.read_json(path)
    with pytest.raises(OSError, match="no regular file"):
        config_io.read_json(Path("/dev/null"))
