"""What all command lines share: paths with `~`, whether a flag was given, config.py's mistakes."""

from __future__ import annotations

import sys

import pytest

import config
from soundgan import command_line
from soundgan.errors import UserError


def parsed(*words: str):
    return command_line.parse(words, config.RECIPES, config.SUMMARIES, config.RECIPE)


def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    places = ("data-dir", "output-dir", "holdout-dir", "init-from", "vocoder")
    cfg = parsed(*(f"--{name}=~/{name}" for name in places))
    for name in places:
        assert getattr(cfg, name.replace("-", "_")) == f"/home/me/{name}"
    assert command_line.expanded_path("~") == "/home/me"
    assert command_line.expanded_path("a/~/b") == "a/~/b"
    assert command_line.expanded_path("griffin-lim") == "griffin-lim"
    assert command_line.expanded_path("~nobody-of-this-name/x") == "~nobody-of-this-name/x"


@pytest.mark.parametrize("words", [["--data-dir", "x"], ["--data_dir=x"], ["best", "--data-dir=x"]])
def test_whether_a_constant_is_named(words):
    assert command_line.given(words, "data_dir")
    assert not command_line.given(words, "holdout_dir")
    assert not command_line.given(["x", "--data-dir-of-mine"], "data_dir")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A = 1\nB = (\n", "mistaken.py, line 2: SyntaxError: '(' was never closed"),
        ("\n\nA = UNKNOWN\n", "mistaken.py, line 3: NameError: name 'UNKNOWN' is not defined"),
        ("import soundgan.no_such\n", "mistaken.py, line 1: ModuleNotFoundError"),
        (
            "from dataclasses import replace\nimport config\nreplace(config.BEST, 3)\n",
            "mistaken.py, line 3: TypeError",
        ),
        ("def f():\n    return 1 / 0\nf()\n", "mistaken.py, line 2: ZeroDivisionError"),
        ("\ta = 1\n  b = 2\n", "mistaken.py, line 1: IndentationError: unexpected indent"),
    ],
)
def test_a_mistake_in_config_py_is_one_sentence(tmp_path, monkeypatch, text, said):
    (tmp_path / "mistaken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        command_line.imported("mistaken")
    assert f"{tmp_path}/{said}" in str(error.value)
    assert "\n" not in str(error.value)
    assert "mistaken" not in sys.modules


def test_a_wrong_constant_in_config_py_keeps_its_own_sentence(tmp_path, monkeypatch):
    text = "from soundgan.training.optimisers import Adam\nAdam(learning_rate=1)\n"
    (tmp_path / "constants.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="Adam has no constant 'learning_rate'"):
        command_line.imported("constants")


def test_a_fault_of_the_package_keeps_its_traceback(tmp_path, monkeypatch):
    text = "from soundgan import command_line\ncommand_line.given(None, 'x')\n"
    (tmp_path / "faultless.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError):
        command_line.imported("faultless")
