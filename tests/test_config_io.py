"""Constants written down, read again and compared: all of them, by their full names."""

from __future__ import annotations

import json

import pytest

import config
from soundgan import config_io
from soundgan.errors import UserError
from soundgan.models.loading import load_run
from soundgan.run_folder import read_config, write_config


@pytest.mark.parametrize("name", config.RECIPES)
def test_every_recipe_survives_being_written(name):
    cfg = config.RECIPES[name]
    written = json.loads(json.dumps(config_io.to_dict(cfg)))
    assert config_io.from_dict(written, "here") == cfg
    assert written == config_io.to_dict(cfg)  # tuples as JSON knows them


@pytest.mark.parametrize("name", config.RECIPES)
def test_every_recipe_survives_in_the_folder_of_a_run(name, tmp_path):
    cfg = config_io.change(config.RECIPES[name], {"output_dir": str(tmp_path)})
    cfg.run_dir.mkdir()
    write_config(cfg, ["a", "b"])
    content = read_config(cfg.run_dir)
    assert config_io.from_dict(content["config"], "here") == cfg
    assert content["classes"] == ["a", "b"]
    kinds = {k: v["kind"] for k, v in content["config"].items() if isinstance(v, dict)}
    parts = ("sound", "generator", "critic", "objective", "optimiser")
    assert kinds == {part: type(getattr(cfg, part)).__name__ for part in parts}


def test_constants_have_full_names(default):
    values = config_io.flat(default)
    assert values["epochs"] == 300
    assert values["sound.frames"] == 352
    assert values["sound.kind"] == "Spectrogram"
    assert values["optimiser.betas"] == [0.0, 0.99]
    changed = config_io.change(default, {"epochs": 3, "sound.frames": 64, "sound.hop": 128})
    assert config_io.changes(default, changed) == {
        "epochs": 3, "sound.frames": 64, "sound.hop": 128,
    }  # fmt: skip
    assert config_io.changes(default, default) == {}


def test_a_run_of_before_the_parts_is_refused_in_one_sentence(tmp_path):
    run = tmp_path / "old"
    run.mkdir()
    old = {"recipe": "sn-wgan-gp", "representation": "mel", "objective": "wgan-gp"}
    (run / "config.json").write_text(json.dumps({"config": old, "classes": ["a"]}))
    with pytest.raises(UserError) as refused:
        load_run(run)
    said = str(refused.value)
    assert said.startswith(f"{run / 'config.json'} was written before version 0.1.0")
    assert "--run-name" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "damage",
    [
        lambda written: written.pop("epochs"),
        lambda written: written.update(colour="red"),
        lambda written: written["sound"].pop("kind"),
        lambda written: written["sound"].update(kind="Picture"),
        lambda written: written["sound"].pop("frames"),
        lambda written: written["sound"].update(style_dim=8),
        lambda written: written.update(sound="Spectrogram"),
        lambda written: written.update(sound=None),
        lambda written: written["sound"].update(frames="352"),
        lambda written: written.update(generator=dict(written["critic"])),
    ],
)
def test_what_is_damaged_is_said_with_its_place(damage, default):
    written = config_io.to_dict(default)
    damage(written)
    with pytest.raises(UserError, match=r"^here is damaged") as refused:
        config_io.from_dict(written, "here")
    assert "\n" not in str(refused.value)
