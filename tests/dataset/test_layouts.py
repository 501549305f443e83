"""Data folders as people unpack them: which folder holds the classes, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sound_files import touch

from soundgan import dataset
from soundgan.config_io import change
from soundgan.dataset.layouts import is_generic, split_kinds
from soundgan.errors import UserError

CLASSES = ("a/1.wav", "a/2.wav", "b/1.wav", "c/1.wav")


def below(folder: str, names=CLASSES) -> list[str]:
    return [f"{folder}/{name}" for name in names]


@pytest.mark.parametrize(
    ("layout", "inside"),
    [
        (below("My-Sounds-main"), "My-Sounds-main"),
        (
            [*below("Data/genres_original"), "Data/pictures/a/1.png", "Data/f.csv"],
            "Data/genres_original",
        ),
        ([*below("ESC-50-master/audio"), "ESC-50-master/meta/esc50.csv"], "ESC-50-master/audio"),
        ([*below("train"), *below("test"), "meta/labels.csv"], "train"),
        ([*below("Set/Train"), *below("Set/Valid"), "Set/readme.md"], "Set/Train"),
        ([*below("audio_train"), *below("audio_test")], "audio_train"),
        ([*below("train-clean-100"), *below("test-clean")], "train-clean-100"),
        ([*below("train/wav"), *below("val/wav")], "train/wav"),
        ([*below("train"), *below("test"), "noise/1.wav"], "train"),
    ],
)
def test_the_class_folders_are_found_and_that_is_said(tmp_path, layout, inside):
    touch(tmp_path, *layout)
    found = dataset.find_files(tmp_path)
    assert found.root == tmp_path / inside
    assert found.files == list(CLASSES)
    assert found.folders == ["a", "b", "c"]
    said = " ".join(found.notes)
    assert inside.split("/")[-1] in said
    assert len(found.notes) == 1 or "wav" in inside


def test_what_is_said_names_the_way_out(tmp_path):
    touch(tmp_path / "w", *below("Sounds"), "intro.mp3")
    (note,) = dataset.find_files(tmp_path / "w").notes
    assert note == (
        f"All class folders lie in {tmp_path}/w/Sounds: a, b and c are the classes. Sounds beside "
        "it are left out: 1. If Sounds itself is one class, put its sounds right into it, "
        "without folders."
    )
    touch(tmp_path / "my set", *below("train"), *below("test"), "noise/1.wav")
    (note,) = dataset.find_files(tmp_path / "my set").notes
    assert note == (
        f"{tmp_path}/my set holds splits: train is trained on, and test left out; noise beside "
        f"them, too (--holdout-dir '{tmp_path}/my set/test' scores against it)."
    )


def test_honest_folders_are_left_as_they_are_without_a_word(tmp_path):
    """One class, classes with folders of their own, a class called train, digits as classes."""
    for number, names in enumerate(
        (
            ["dog/1.wav"],
            ["dog/monday/1.wav"],
            ["dog/monday/1.wav", "cat/tuesday/1.wav"],
            ["train/steam/1.wav", "bus/1.wav"],
            ["train/1.wav", "bus/1.wav", "meta/labels.csv"],
            ["train_horn/1.wav", "test_tone/1.wav"],
            ["0/1.wav", "1/1.wav"],
            ["cat/1.wav", "dog/1.wav", "labels.csv"],
        )
    ):
        root = tmp_path / str(number)
        touch(root, *names)
        found = dataset.find_files(root)
        assert (found.root, found.notes) == (root, [])
        assert sorted(found.files) == sorted(name for name in names if name.endswith(".wav"))


def test_one_class_with_folders_beside_its_sounds_is_said(tmp_path):
    touch(tmp_path, "Sounds/intro.wav", *below("Sounds"))
    found = dataset.find_files(tmp_path)
    assert found.folders == ["Sounds"]
    assert found.notes == [
        "Sounds is the only class, for sounds lie right in it. If its folders (a, b and c) are the "
        f"classes: --data-dir {tmp_path}/Sounds."
    ]


@pytest.mark.parametrize("parts", [("sounds", "sounds (1)"), ("set-001/in", "set-002/in")])
def test_parts_of_one_set_are_said(tmp_path, parts):
    touch(tmp_path, *(f"{part}/{name}" for part in parts for name in CLASSES))
    found = dataset.find_files(tmp_path)
    assert found.folders == [part.split("/")[0] for part in parts]
    shared = "(in)" if "/" in parts[0] else "(a, b and c)"
    assert f"hold folders of the same names {shared}" in " ".join(found.notes)


def test_folders_of_systems_are_no_classes_and_what_is_set_apart_is_said(tmp_path):
    others = ("$RECYCLE.BIN/S-1/1.wav", "#recycle/1.wav", "a/@eaDir/1.wav", "__MACOSX/a/1.wav")
    touch(tmp_path, *CLASSES, *others, "_background_noise_/1.wav")
    found = dataset.find_files(tmp_path)
    assert found.files == list(CLASSES)
    assert found.folders == ["a", "b", "c"]
    assert found.notes == ["Ignored, for their names begin with _: _background_noise_."]


def test_samples_of_a_run_are_no_class(tmp_path):
    touch(tmp_path, *CLASSES, "samples/real/a.wav", "samples/epoch_0001/a.wav")
    found = dataset.find_files(tmp_path)
    assert found.files == list(CLASSES)
    assert found.notes == [f"Left out below {tmp_path}, as made by this program: samples."]


def test_names_that_say_nothing_are_said(tmp_path):
    touch(tmp_path, "audio/1.wav", "audio/2.wav")
    found = dataset.find_files(tmp_path)
    assert found.files == ["audio/1.wav", "audio/2.wav"]
    assert found.notes == [
        f"All sounds lie in one folder, {tmp_path}/audio, and so audio is the only class."
    ]
    touch(tmp_path, "wav-2/1.wav")
    (note,) = dataset.find_files(tmp_path).notes
    assert "their names do not say what sounds they hold: audio and wav-2." in note
    touch(tmp_path / "deep", "My-Sounds/audio/1.wav")
    (note,) = dataset.find_files(tmp_path / "deep").notes
    assert note.endswith("/deep/My-Sounds/audio, and so My-Sounds is the only class.")
    for name in ("audio", "WAVs", "sound_files", "wav48", "16k", "clips-2"):
        assert is_generic(name)
    for name in ("dog", "7", "guitar_clips", "soundscape"):
        assert not is_generic(name)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (below("audio", [f"fold{n}/100-0-0-{n}.wav" for n in (1, 2, 3)]), "fold1, fold2 and fold3"),
        ([f"Fold_{n}/1.wav" for n in (1, 2)], "Fold_1 and Fold_2 below .* are folds"),
        (["fold1/a/1.wav", "fold2/a/1.wav"], "name one of them .--data-dir .*/fold1."),
        (
            ["U/audio/fold1/1.wav", "U/audio/fold2/1.wav", "U/meta/U.csv"],
            "stands in .*/U/meta/U.csv",
        ),
        (
            ["ESC/audio/1.wav", "ESC/audio/2.wav", "ESC/meta/e.csv"],
            "folder, .*/ESC/audio, .*meta/e.csv",
        ),
        (["wavs/1.wav", "metadata.csv"], "rename wavs if they are all of one class"),
        (["1.wav", "2.wav", "labels.csv"], "their labels in a table, .*/labels.csv"),
        (
            ["val/a/1.wav", "test/a/1.wav"],
            "val and test .*|test and val .* are splits of one data set",
        ),
        ([*below("X.dev_audio"), *below("X.eval_audio")], "name the one to train on .--data-dir"),
        (["train-a/x/1.wav", "train-b/x/1.wav", "dev-a/x/1.wav"], "--data-dir .*/train-a"),
    ],
)
def test_what_is_no_set_of_classes_is_refused(small, tmp_path, layout, said):
    """And a recipe that uses no classes takes all of it."""
    root = tmp_path / "set"
    touch(root, *layout)
    cfg = change(small, {"data_dir": str(root)})
    with pytest.raises(UserError, match=said):
        dataset.find_clips(cfg)
    found = dataset.find_clips(change(cfg, {"conditional": False}))
    sounds = sorted(name for name in layout if name.endswith(".wav"))
    assert sorted(str((found.root / name).relative_to(root)) for name in found.files) == sounds


def test_flat_splits_are_no_classes(small, tmp_path):
    touch(tmp_path / "c", "train/1.wav", "test/1.wav")
    cfg = change(small, {"data_dir": str(tmp_path / "c")})
    with pytest.raises(
        UserError, match=r"No sound in a class folder below .*/c/train: 1 lie beside"
    ):
        dataset.find_clips(cfg)
    assert dataset.find_clips(change(cfg, {"conditional": False})).files == ["1.wav"]


def test_unconditional_recipes_keep_the_names_that_files_have_there(tmp_path):
    """The list of held-out clips goes by them: only splits are stepped into."""
    touch(tmp_path, *below("My-Sounds-main"))
    found = dataset.find_files(tmp_path, loose=True)
    assert (found.root, found.files) == (tmp_path, below("My-Sounds-main"))
    touch(tmp_path / "s", *below("W/train"), *below("W/test"))
    found = dataset.find_files(tmp_path / "s", loose=True)
    assert (found.root, found.files) == (tmp_path / "s" / "W" / "train", list(CLASSES))


def test_a_holdout_folder_of_splits_is_not_scored_against_its_training_part(tmp_path):
    touch(tmp_path, *below("train"), *below("test"))
    with pytest.raises(UserError, match=r"which are splits: name one .--holdout-dir .*/test"):
        dataset.find_files(tmp_path, option="--holdout-dir")


def test_a_run_goes_on_with_the_classes_that_it_began_with(small, tmp_path):
    """Also where its folders would be taken for something else today."""
    touch(tmp_path / "old", "dog/monday/1.wav", "dog/tuesday/1.wav")
    cfg = change(small, {"data_dir": str(tmp_path / "old")})
    assert dataset.find_clips(cfg).folders == ["monday", "tuesday"]
    found = dataset.find_files(cfg.data_dir, classes=["dog"])
    assert found.files == ["dog/monday/1.wav", "dog/tuesday/1.wav"]
    assert dataset.find_files(cfg.data_dir, classes=["monday", "tuesday"]).folders == [
        *("monday", "tuesday"),
    ]


def test_words_of_splits():
    assert split_kinds(["Train", "TEST"]) == {"Train": "train", "TEST": "test"}
    assert split_kinds(["train", "test", "bus"]) == {"train": "train", "test": "test", "bus": ""}
    assert split_kinds(["train", "bus"]) == {}
    assert split_kinds(["train_audio", "test_soundscapes"]) == {
        **{"train_audio": "train", "test_soundscapes": "test"},
    }
    assert split_kinds(["dog", "cat"]) == {}


def test_an_unreadable_folder_is_no_obstacle(tmp_path, monkeypatch):
    touch(tmp_path, "dog/1.wav", "cat/1.wav")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = dataset.find_files(tmp_path)
    assert found.files == ["dog/1.wav"]
    assert found.left_out == [("cat", "cannot be read: Permission denied")]
    assert found.folders == ["cat", "dog"]
