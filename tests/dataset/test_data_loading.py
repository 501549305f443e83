"""The report before training, band statistics, and the demo set where there are no sounds."""

from __future__ import annotations

import json
import os
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import shrunk
from sound_files import HOSTILE, touch

import config
import train
from soundgan import dataset, files
from soundgan.config_io import change
from soundgan.dataset import demo
from soundgan.errors import UserError
from soundgan.run_folder import write_config


def test_every_folder_without_a_usable_clip_is_said(small, sounds):
    (sounds / "empty").mkdir()
    touch(sounds, "apples/a.m4a")
    found = dataset.find_files(sounds)
    said = dataset.describe(small, dataset.load_clips(small, found), found)
    assert "  apples: no usable clip" in said
    assert "  empty: no usable clip" in said


def test_the_report_counts_every_file(small, sounds, capsys):
    for number, (content, _) in enumerate(HOSTILE.values()):
        (sounds / "mid" / f"bad{number}.wav").write_bytes(content)
    clips = dataset.load(small, dataset.find_clips(small))
    dataset.list_left_out(clips, small.run_dir)
    said = capsys.readouterr().out
    assert len(clips) == 18
    assert f"Left out: {len(HOSTILE)} files" in said
    assert "mid        6 clips" in said
    assert "3.0 s  8000 Hz" in said
    listed = (small.run_dir / "left_out.csv").read_text().splitlines()
    assert len(listed) == 1 + len(HOSTILE)


def test_band_statistics_are_those_of_the_training_clips(sounds, tmp_path):
    best = shrunk(config.RECIPES["best"], sounds, tmp_path / "outputs")
    clips = dataset.load_clips(best, dataset.find_clips(best))
    rows = np.array([1, 4, 7, 9])
    mean, deviation = dataset.band_statistics(clips, rows)
    x = np.array(clips.data[rows])[:, 0]  # (4, M, T)
    np.testing.assert_allclose(mean[:, 0], x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(deviation[:, 0], x.std((0, 2)), rtol=1e-4)


def test_two_first_runs_at_once_share_one_demo_set(small, tmp_path, monkeypatch):
    """The one that comes second waits, and uses what the first one wrote."""
    monkeypatch.setattr(demo, "CLIPS", 1)
    write, written = demo.write, []

    def slowly(folder):
        written.append(folder)
        time.sleep(0.3)
        write(folder)

    monkeypatch.setattr(demo, "write", slowly)
    (tmp_path / "nothing").mkdir()
    cfg = change(small, {"data_dir": str(tmp_path / "nothing")})
    found = [dataset.find_clips(cfg, demo=True) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        clips = list(pool.map(lambda none: dataset.load(cfg, none, keep=False, demo=True), found))
    assert len(written) == 1
    assert [len(c.labels) for c in clips] == [5, 5]


def test_the_demo_set_is_written_only_where_it_is_asked_for(small, tmp_path, monkeypatch):
    """Never because a folder is empty: a user's disk may not be mounted."""
    monkeypatch.setattr(demo, "CLIPS", 1)
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "README.md").touch()
    cfg = change(small, {"data_dir": str(tmp_path / "mount")})
    with pytest.raises(UserError) as error:
        dataset.find_clips(cfg)
    assert str(error.value) == (
        f"data_dir = '{tmp_path}/mount' holds no sounds: put them into {tmp_path}/mount/<class>/, "
        "or name another folder (--data-dir)."
    )
    with pytest.raises(UserError, match="holds no sounds"):
        dataset.load(cfg, dataset.Found(tmp_path / "mount"))
    assert os.listdir(tmp_path / "mount") == ["README.md"]
    dataset.load(cfg, dataset.find_clips(cfg, demo=True), demo=True)
    assert sorted(os.listdir(tmp_path / "mount")) == sorted(
        [".lock", "README.md", demo.MARK, *demo.CLASSES]
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a/1.m4a", "b/2.m4a"], r"format that is not read lie below .*/set: 2 \.m4a\. "),
        (["1.m4a"], r"/set: 1 \.m4a\. "),
        (["sounds.zip"], "holds no sounds, but sounds.zip: unpack it there"),
        (
            ["1.wav", "2.wav"],
            "No sound in a class folder below .*/set: 2 lie beside .such as 1.wav.",
        ),
        (["a/notes.txt"], "No usable sound below .*/set: 1 x not a WAV, FLAC, OGG, MP3 or AIFF"),
    ],
)
def test_nothing_to_train_on_is_refused_with_the_reason(small, tmp_path, names, said):
    """Also where the demo set may be written: there are files of the user's."""
    touch(tmp_path / "set", *names)
    cfg = change(small, {"data_dir": str(tmp_path / "set")})
    for demo_allowed in (False, True):
        with pytest.raises(UserError, match=said):
            dataset.find_clips(cfg, demo_allowed)


def test_pointers_instead_of_sounds_are_named(small, tmp_path):
    """What a clone without Git LFS, or without git-annex's content, holds."""
    pointers = {
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
        "annex": b"/annex/objects/SHA256E-s1--00.wav\n",
    }
    for name, content in pointers.items():
        for number in range(4):
            touch(tmp_path / name, f"a/{number}.wav", f"b/{number}.wav")
        for path in (tmp_path / name).rglob("*.wav"):
            path.write_bytes(content)
    for name, said in (
        ("lfs", "8 x a Git LFS pointer, not the sound itself: git lfs pull fetches it"),
        ("annex", "8 x a git-annex pointer, not the sound itself: git annex get . fetches it"),
    ):
        cfg = change(small, {"data_dir": str(tmp_path / name)})
        with pytest.raises(UserError) as error:
            dataset.load(cfg, dataset.find_clips(cfg))
        assert str(error.value) == (
            f"No usable sound below {tmp_path}/{name}: {said} (such as a/0.wav)."
        )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone", "there is no such folder"),
        ("a.wav", "it is a file, and a folder of class folders is wanted"),
        ("a.wav/b", "it is a file"),
        ("nul\0", "it cannot be read .embedded null byte."),
        ("long" * 100, "it cannot be read .File name too long."),
    ],
)
def test_what_is_no_folder_is_one_sentence(small, tmp_path, path, said):
    touch(tmp_path, "a.wav")
    cfg = change(small, {"data_dir": str(tmp_path / path)})
    with pytest.raises(UserError, match=rf"^data_dir = .*: {said}.*--data-dir"):
        dataset.find_clips(cfg)


def test_a_folder_to_score_against_that_is_not_there_is_said_first(small, tmp_path):
    cfg = change(small, {"holdout_dir": str(tmp_path / "gone")})
    with pytest.raises(
        UserError, match=r"holdout_dir = .*: there is no such folder .--holdout-dir"
    ):
        dataset.find_clips(cfg)


def test_a_folder_that_may_not_be_read_is_one_sentence(small, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    for demo_allowed in (False, True):
        with pytest.raises(UserError, match=r"it cannot be read .Permission denied. .--data-dir."):
            dataset.find_clips(small, demo_allowed)


def test_too_long_a_name_is_refused_before_anything_is_decoded(small, tmp_path):
    """150 bytes of UTF-8 in the composed form; recipes without classes make no names of it."""
    name = "é" * 75
    touch(tmp_path / "a", f"{unicodedata.normalize('NFD', name)}/1.wav", "b/1.wav")
    cfg = change(small, {"data_dir": str(tmp_path / "a")})
    assert len(dataset.find_clips(cfg).files) == 2
    touch(tmp_path / "b", f"{name}x/1.wav", "b/1.wav")
    cfg = change(small, {"data_dir": str(tmp_path / "b")})
    with pytest.raises(UserError, match=f"has a name of 151 bytes, .* rename {name}x"):
        dataset.find_clips(cfg)
    assert len(dataset.find_clips(change(cfg, {"conditional": False})).files) == 2


def test_what_was_recognised_is_said_before_the_report(small, sounds, capsys):
    (sounds / "Sounds").mkdir()
    for name in ("low", "mid", "high"):
        (sounds / name).rename(sounds / "Sounds" / name)
    touch(sounds, "Sounds/low/new.m4a", "runs/best/samples/low.wav")
    keys = {"recipe": "best", "classes": [], "config": {}, "versions": {}}
    (sounds / "runs" / "best" / "config.json").write_text(json.dumps(keys))
    clips = dataset.load(small, dataset.find_clips(small))
    said = capsys.readouterr().out.splitlines()
    assert clips.classes == ["high", "low", "mid"]
    assert said[0].startswith(f"All class folders lie in {sounds}/Sounds: high, low and mid are")
    assert said[1] == f"Left out below {sounds}, as made by this program: runs."
    assert said[2].startswith(
        f"Files of a format that is not read lie below {sounds}/Sounds: 1 .m4a. "
    )
    assert f"18 clips in 3 classes below {sounds}/Sounds" in said


def test_a_run_that_began_with_another_reading_of_the_folder_goes_on_with_it(small, sounds):
    """Its classes are in its config.json."""
    (sounds / "all").mkdir()
    for name in ("low", "mid", "high"):
        (sounds / name).rename(sounds / "all" / name)
    assert dataset.find_clips(small).folders == ["high", "low", "mid"]
    write_config(small, ["all"])
    found = dataset.find_clips(small)
    assert (found.root, found.folders) == (sounds, ["all"])
    assert len(found.files) == 18


def test_an_unconditional_run_goes_on_with_the_names_of_its_held_out_clips(small, tmp_path):
    """Begun when two splits beside another folder were taken as they are."""
    touch(tmp_path / "set", "train/a/1.wav", "test/a/1.wav", "noise/1.wav")
    changes = {"data_dir": str(tmp_path / "set"), "conditional": False}
    cfg = change(small, changes)
    assert dataset.find_clips(cfg).files == ["a/1.wav"]
    write_config(cfg, [])
    assert dataset.find_clips(cfg).files == ["a/1.wav"]
    for name, own in (("a/1.wav", 1), ("test/a/1.wav", 3)):
        files.write_csv(cfg.run_dir / "held_out.csv", [("file", "clip", "source"), (name, 0, "")])
        assert len(dataset.find_clips(cfg).files) == own


def test_a_run_whose_folder_lies_below_its_data_goes_on(small, sounds, capsys):
    """It is no class, and what it writes does not change the data."""
    cfg = change(small, {"output_dir": str(sounds / "runs"), "epochs": 1, "background": "off"})
    train.train(cfg)
    touch(sounds, "runs/more/low_seed1_0000.wav")
    capsys.readouterr()
    run = train.train(change(cfg, {"epochs": 2}))
    said = capsys.readouterr().out
    assert (run.classes, run.epoch) == (["high", "low", "mid"], 2)
    assert f"Left out below {sounds}, as made by this program: runs." in said
    assert "not those of the checkpoint" not in said
    assert "18 clips in 3 classes" in said
