"""What a run's folder says about it, and what a continued run clears away."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess

import pytest
import torch

from soundgan import config_io, files, run_folder
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


@pytest.mark.parametrize(
    "classes", [["../a"], [""], [7], ["a", "/b"], ["."], [".."], ["a\0b"], ["\x1b[31m"], [["a"]]]
)
def test_classes_that_would_lead_elsewhere_are_refused(tmp_path, classes):
    content = {"classes": classes, "config": {"recipe": "best"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="its classes are no plain names"):
        run_folder.read_config(tmp_path)


def test_classes_are_read_in_one_unicode_form_and_each_once(tmp_path):
    def read(*classes: str) -> list[str]:
        content = {"classes": classes, "config": {"recipe": "best"}}
        (tmp_path / "config.json").write_text(json.dumps(content))
        return run_folder.read_config(tmp_path)["classes"]

    assert read("co\u0302q", "b") == ["c\u00f4q", "b"]
    for twice in (("a", "b", "a"), ("co\u0302q", "c\u00f4q")):
        with pytest.raises(UserError, match=r"damaged: its classes hold .* twice"):
            read(*twice)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "{}", "7", '{"classes": [], "config": 7}', "[" * 100_000, "\ud800"),
        *('{"classes": [], "config": {}}', '{"classes": [], "config": {"recipe": 7}}'),
        '{"classes": [], "config": {"recipe": "best"}, "n": ' + "9" * 5000 + "}",
    ],
)
def test_a_damaged_config_is_said(tmp_path, text):
    (tmp_path / "config.json").write_text(text, errors="surrogatepass")
    with pytest.raises(UserError, match=r"config\.json is damaged") as error:
        run_folder.read_config(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_no_file_of_a_usual_size_is_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "config.json")  # reading it would never end
    with pytest.raises(UserError, match=r"damaged .*no regular file"):
        run_folder.read_config(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(" " * 200)
    monkeypatch.setattr(config_io, "MOST_BYTES", 100)
    with pytest.raises(UserError, match=r"damaged .*larger than"):
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
    assert run_folder.set_aside_after(used, 2) == used / "samples.old1"
    left = {path.name for path in (used / "samples").glob("epoch_*")}
    assert left == {"epoch_0001", "epoch_0002", "epoch_0002_old", "epoch_0002 2"}
    assert sets(used / "samples.old1") == {"epoch_0003"}
    assert run_folder.set_aside_after(used, 2) is None


def test_beginning_anew_keeps_what_was_there(used, capsys):
    for number in (1, 2):
        (used / "samples" / "epoch_0001").mkdir(parents=True, exist_ok=True)
        (used / "log.csv").write_text(f"epoch\n{number}\n")
        run_folder.begin_anew(used)
        assert not (used / "samples").exists()
        assert not (used / "log.csv").exists()
        assert f"kept as samples.old{number}, log.old{number}.csv" in capsys.readouterr().out
    assert sets(used / "samples.old1") == {"epoch_0001", "epoch_0002", "real"}
    assert sets(used / "samples.old2") == {"epoch_0001"}
    assert (used / "log.old1.csv").read_text() == "epoch\n1\n"


def test_the_beginning_of_a_run_that_was_killed_is_written_again(tmp_path, capsys):
    """Before its first checkpoint a run has real clips and a row of its log at most."""
    (tmp_path / "samples" / "real").mkdir(parents=True)
    (tmp_path / "log.csv").write_text("epoch\n1\n")
    (tmp_path / "scores.csv").write_text("epoch\n")
    assert run_folder.begin_anew(tmp_path) == []
    assert sets(tmp_path) == {"samples", "log.csv", "scores.csv"}
    assert capsys.readouterr().out == ""


def test_sets_that_were_set_aside_go_when_the_same_are_made_again(tmp_path):
    for number in (1, 2):
        (tmp_path / "samples" / f"step_{number:06d}").mkdir(parents=True)
        (tmp_path / "samples" / f"step_{number:06d}" / "a.wav").write_bytes(b"%d" % number)
    assert run_folder.set_aside_after(tmp_path, 0, unit="step") == tmp_path / "samples.old1"
    for number, content in ((1, b"1"), (2, b"another")):
        (tmp_path / "samples" / f"step_{number:06d}").mkdir(parents=True)
        (tmp_path / "samples" / f"step_{number:06d}" / "a.wav").write_bytes(content)
        run_folder.clear_old(tmp_path)
        assert sets(tmp_path / "samples.old1") == {"step_000002"}
    assert (tmp_path / "samples.old1" / "step_000002" / "a.wav").read_bytes() == b"2"
    (tmp_path / "samples" / "step_000002" / "a.wav").write_bytes(b"2")
    run_folder.clear_old(tmp_path)
    assert sets(tmp_path) == {"samples"}


def test_which_sets_were_set_aside_last(tmp_path):
    assert run_folder.epochs_aside(tmp_path, 0) == set()
    for folder, epochs in (("old2", (1, 5)), ("old10", (4, 8, 12)), ("old.mine", (9,))):
        for epoch in epochs:
            (tmp_path / f"samples.{folder}" / f"epoch_{epoch:04d}").mkdir(parents=True)
    assert run_folder.epochs_aside(tmp_path, 4) == {8, 12}


# ---- whose folder it is --------------------------------------------------------------------------


def test_a_run_begins_in_no_folder_of_something_else(tmp_path):
    run_folder.refuse_foreign(tmp_path / "not there")
    run_folder.refuse_foreign(tmp_path)
    (tmp_path / ".lock").write_bytes(b"")  # of a kill while it was written
    (tmp_path / ".DS_Store").write_bytes(b"")
    run_folder.refuse_foreign(tmp_path)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"files of something else .*thesis\.tex.*--run-name"):
        run_folder.refuse_foreign(tmp_path)
    (tmp_path / "config.json").write_text('{"name": "of another program"}')
    with pytest.raises(UserError, match="files of something else"):
        run_folder.refuse_foreign(tmp_path)
    with pytest.raises(UserError, match="is a file, and no folder"):
        run_folder.refuse_foreign(tmp_path / "thesis.tex")


@pytest.mark.parametrize("mark", ["config.json", "vocoder.json", ".lock"])
def test_folders_of_runs_have_a_mark(small, tmp_path, mark):
    (tmp_path / "thesis.tex").write_text("")
    run_folder.write_config(small, ["low"])
    content = (small.run_dir / "config.json").read_bytes()
    content = content.replace(b'"config"', b'"options"') if mark == "vocoder.json" else content
    (tmp_path / mark).write_bytes(files.LOCK_TEXT if mark == ".lock" else content)
    run_folder.refuse_foreign(tmp_path)


def test_weights_without_a_checkpoint_are_refused_with_two_ways_out(tmp_path):
    run_folder.refuse_weights(tmp_path, "--init-from x")
    (tmp_path / "best.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"best\.safetensors.*--run-name NAME.*--init-from x"):
        run_folder.refuse_weights(tmp_path, "--init-from x")


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
