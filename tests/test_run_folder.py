"""What a run's folder says about it, and what a continued run clears away."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess

import pytest
import torch

from soundgan import config_io, run_folder
from soundgan.errors import UserError


def test_config_json_holds_constants_classes_versions_and_facts(small):
    run_folder.write_config(small, ["high", "low"], vocoder_used="griffin-lim", device="cpu")
    content = run_folder.read_config(small.run_dir)
    assert content == json.loads((small.run_dir / "config.json").read_text())
    assert content["recipe"] == "sn-wgan-gp"
    assert content["classes"] == ["high", "low"]
    assert content["config"] == json.loads(json.dumps(config_io.to_dict(small)))
    assert config_io.from_dict(content["config"], "config.json") == small
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert (content["vocoder_used"], content["device"]) == ("griffin-lim", "cpu")


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(run_folder, "PACKAGES", ("numpy", "no-such-package"))
    assert list(run_folder.program()["versions"]) == ["python", "torch", "numpy"]


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="is no run: it holds no config"):
        run_folder.read_config(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is no run"):
        run_folder.read_config(tmp_path / "file")


@pytest.mark.parametrize("classes", [["../a"], [""], [7], ["a", "/b"]])
def test_classes_that_would_lead_elsewhere_are_refused(tmp_path, classes):
    content = {"classes": classes, "config": {"recipe": "best"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="its classes are no plain names"):
        run_folder.read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"classes": [], "config": 7}'])
def test_a_damaged_config_is_said(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        run_folder.read_config(tmp_path)


def test_the_git_revision_is_that_of_the_program(monkeypatch):
    answers = {"status": " M train.py\n", "rev-parse": "abc\n"}

    def git(command, **_):
        return subprocess.CompletedProcess(command, 0, answers[command[3]])

    monkeypatch.setattr(run_folder.subprocess, "run", git)
    assert run_folder.git_revision() == "abc+changes"
    answers["status"] = ""
    assert run_folder.git_revision() == "abc"

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(run_folder.subprocess, "run", missing)
    assert run_folder.git_revision() is None


# ---- what a run writes again ---------------------------------------------------------------------


@pytest.fixture
def used(tmp_path):
    """The folder of a run that was stopped after its second set of samples."""
    for name in ("epoch_0001", "epoch_0002", "real"):
        (tmp_path / "samples" / name).mkdir(parents=True)
    (tmp_path / "generator.safetensors").write_bytes(b"")
    return tmp_path


def sets(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_users_copies_of_samples_are_left_alone(used):
    for name in ("epoch_0002_old", "epoch_0002 2", "epoch_0003"):
        (used / "samples" / name).mkdir()
    run_folder.forget_after(used, 2, fresh=False)
    left = {path.name for path in (used / "samples").glob("epoch_*")}
    assert left == {"epoch_0001", "epoch_0002", "epoch_0002_old", "epoch_0002 2"}


def test_beginning_anew_keeps_the_samples_beside_and_no_weights(used, capsys):
    for number in (1, 2):
        (used / "samples" / "epoch_0001").mkdir(parents=True, exist_ok=True)
        (used / "generator.safetensors").write_bytes(b"")
        run_folder.forget_after(used, 0, fresh=True)
        assert not (used / "samples").exists()
        assert not (used / "generator.safetensors").exists()
        assert f"old samples are in {used / f'samples.old{number}'}" in capsys.readouterr().out
    assert sets(used / "samples.old1") == {"epoch_0001", "epoch_0002", "real"}
    assert sets(used / "samples.old2") == {"epoch_0001"}


def test_a_fresh_folder_has_nothing_to_forget(tmp_path, capsys):
    run_folder.forget_after(tmp_path, 0, fresh=True)
    assert capsys.readouterr().out == ""
    (tmp_path / "samples" / "step_000100").mkdir(parents=True)
    (tmp_path / "samples" / "step_000200").mkdir()
    run_folder.forget_after(tmp_path, 100, fresh=False, unit="step")
    assert sets(tmp_path / "samples") == {"step_000100"}


@pytest.mark.parametrize(
    "damage", [{"changed": [1]}, {"changed": None}, {"classes": None}, {"classes": 3}]
)
def test_a_config_json_of_other_types_is_damaged(small, damage):
    """Also where another run writes the page over all of them."""
    run_folder.write_config(small, ["low"])
    path = small.run_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        run_folder.read_config(small.run_dir)
