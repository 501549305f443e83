"""Folders -> audio files: what is found, what is not, and why."""

from __future__ import annotations

import json
import os
import subprocess
import time
import unicodedata
from pathlib import Path

import pytest
import torch
from sound_files import RATE, encoded, one_clip, strongest, tone, touch

from soundgan import audio, dataset, files
from soundgan.dataset.discovery import class_of


def test_what_is_found_and_what_is_not(tmp_path):
    touch(
        tmp_path,
        *("dog/a.wav", "dog/B.WAV", "dog/deep/er/c.Flac", "cat/d.mp3", "cat/e.AIFF", "cat/f.ogg"),
        *(".hidden/a.wav", "__MACOSX/dog/a.wav", "_background_noise_/a.wav", "dog/._a.wav"),
        *("dog/notes.txt", "cat/g.m4a", "loose.wav", "readme.txt"),
    )
    found = dataset.find_files(tmp_path)
    assert found.files == [
        *("cat/d.mp3", "cat/e.AIFF", "cat/f.ogg", "dog/B.WAV", "dog/a.wav", "dog/deep/er/c.Flac"),
    ]
    assert dict(found.left_out) == {
        "cat/g.m4a": "not a WAV, FLAC, OGG, MP3 or AIFF (.m4a)",
        "dog/notes.txt": "not a WAV, FLAC, OGG, MP3 or AIFF (.txt)",
        "loose.wav": "not in a class folder",
    }


def test_train_is_a_split_beside_splits_and_a_class_beside_classes(tmp_path):
    touch(tmp_path / "a", "train/dog/a.wav", "train/cat/a.wav", "test/dog/b.wav")
    assert dataset.find_files(tmp_path / "a").files == ["cat/a.wav", "dog/a.wav"]
    touch(tmp_path / "b", "train/steam/a.wav", "bus/a.wav")
    assert dataset.find_files(tmp_path / "b").files == ["bus/a.wav", "train/steam/a.wav"]


def test_split_folders_in_capitals(tmp_path):
    touch(tmp_path, "Train/dog/a.wav", "Train/cat/a.wav", "Test/dog/a.wav")
    assert dataset.find_files(tmp_path).files == ["cat/a.wav", "dog/a.wav"]


def test_names_from_another_encoding(tmp_path):
    """As a ZIP from another system leaves them: no valid UTF-8, and still a class."""
    folder = os.fsencode(tmp_path) + b"/h\xfcnd"
    os.mkdir(folder)
    (tmp_path / "a.wav").write_bytes(encoded(tone(500)))
    os.rename(tmp_path / "a.wav", folder + b"/b\xe4r.wav")
    found = dataset.find_files(tmp_path)
    (name,) = found.files
    wave, _, _ = one_clip(found.root / name, RATE, 8192)
    assert strongest(wave) == pytest.approx(500, abs=5)
    audio.write_wav(found.root / found.folders[0] / "out.wav", torch.from_numpy(wave), RATE)


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "far", "a.wav")
    (tmp_path / "data" / "dog").mkdir(parents=True)
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "far")
    (tmp_path / "data" / "dog" / "up").symlink_to(tmp_path / "data" / "dog")
    touch(tmp_path / "data", "dog/b.wav")
    assert dataset.find_files(tmp_path / "data").files == ["cat/a.wav", "dog/b.wav"]


# ---- each file once, in its own class ------------------------------------------------------------


def test_a_link_to_the_data_folder_or_to_a_class_adds_nothing(tmp_path):
    touch(tmp_path / "data", "b/1.wav", "b/deep/2.wav", "c/3.wav")
    (tmp_path / "data" / "a").mkdir()
    for name, target in {
        "a/all": "data",
        "a/above": ".",
        "a/other": "data/b",
        "a/deeper": "data/b/deep",
        "again": "data/c",
        "c/self": "data/c",
    }.items():
        (tmp_path / "data" / name).symlink_to(tmp_path / target)
    found = dataset.find_files(tmp_path / "data")
    assert found.files == ["b/1.wav", "b/deep/2.wav", "c/3.wav"]
    assert found.folders == ["a", "b", "c"]
    assert dict(found.left_out) == {
        "a/above": "a link to a folder that it lies in",
        "a/all": "a link to a folder that it lies in",
        "a/deeper": "a link to b/deep, where its sounds count",
        "a/other": "a link to b, where its sounds count",
        "again": "a link to c, where its sounds count",
        "c/self": "a link to a folder that it lies in",
    }


def test_a_linked_file_counts_in_the_class_it_lies_in(tmp_path):
    """Though its link comes first in order."""
    touch(tmp_path, "b/1.wav", "b/2.wav")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.wav").symlink_to("../b/1.wav")
    (tmp_path / "b" / "3.wav").symlink_to("2.wav")
    (tmp_path / "c").mkdir()
    os.link(tmp_path / "b" / "2.wav", tmp_path / "c" / "hard.wav")
    found = dataset.find_files(tmp_path)
    assert found.files == ["b/1.wav", "b/2.wav"]
    assert found.left_out == [
        ("a/1.wav", "a link to a sound of b, where it counts"),
        ("b/3.wav", "a link to a sound of b, where it counts"),
        ("c/hard.wav", "the same file as a sound of b, where it counts"),
    ]


def test_classes_of_nothing_but_links_to_a_store(tmp_path):
    """Of files elsewhere, of hidden ones beside, and of folders: each of them once."""
    touch(
        tmp_path, "store/1.wav", "store/2.wav", "store/3", "store/more/4.wav", "store/more/5.flac"
    )
    touch(tmp_path / "data", ".git/annex/objects/6", "_all/7.wav")
    links = {
        "a/1.wav": "store/1.wav",
        "a/3.wav": "store/3",  # its own name says nothing
        "a/6.wav": "data/.git/annex/objects/6",
        "b/2.wav": "store/2.wav",
        "b/7.wav": "data/_all/7.wav",
        "b/again.wav": "store/1.wav",
        "c": "store/more",
        "d/4.wav": "store/more/4.wav",
        "d/more": "store/more",
    }
    for name, target in links.items():
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / target)
    found = dataset.find_files(tmp_path / "data")
    assert found.files == [
        *("a/1.wav", "a/3.wav", "a/6.wav", "b/2.wav", "b/7.wav", "c/4.wav", "c/5.flac"),
    ]
    assert found.left_out == [
        ("b/again.wav", "a link to a sound of a, where it counts"),
        ("d/4.wav", "a link to a sound of c, where it counts"),
        ("d/more", "a link to c, where its sounds count"),
    ]


def test_links_that_lead_nowhere(tmp_path):
    touch(tmp_path, "a/1.wav")
    (tmp_path / "a" / "2.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "a" / "3.wav").symlink_to("../.git/annex/objects/Xx/key.wav")
    (tmp_path / "a" / "4.wav").symlink_to("4.wav")
    assert dataset.find_files(tmp_path).left_out == [
        ("a/2.wav", "a link that leads nowhere"),
        ("a/3.wav", "a link to what git-annex has not fetched (git annex get .)"),
        ("a/4.wav", "a link that leads nowhere"),
    ]


def test_pipes_devices_and_links_to_them_are_left_out(tmp_path):
    """They would be waited for without end."""
    touch(tmp_path, "a/1.wav")
    os.mkfifo(tmp_path / "a" / "2.wav")
    (tmp_path / "a" / "3.wav").symlink_to("/dev/zero")
    (tmp_path / "a" / "4.wav").symlink_to("2.wav")
    os.mkfifo(tmp_path / "5.wav")
    found = dataset.find_files(tmp_path, loose=True)
    assert found.files == ["a/1.wav"]
    assert dict(found.left_out) == dict.fromkeys(
        ("5.wav", "a/2.wav", "a/3.wav", "a/4.wav"), "not a regular file (a pipe or a device)"
    )


def test_many_nested_folders_take_no_time(tmp_path):
    """Each way from the top costs as many steps as it has folders: few such ways a folder."""
    home = os.getcwd()
    try:
        os.mkdir(tmp_path / "a")
        os.chdir(tmp_path / "a")
        for _ in range(600):
            os.mkdir("d")
            os.chdir("d")
        Path("x.wav").touch()
        (tmp_path / "a" / "d" / "x.wav").touch()
    finally:
        os.chdir(home)
    start = time.process_time()
    found = dataset.find_files(tmp_path)
    assert time.process_time() - start < 2
    assert found.files == ["a/d/x.wav", f"a/{'d/' * 600}x.wav"]


def test_a_path_longer_than_the_system_takes_is_named(tmp_path):
    home = os.getcwd()
    try:
        os.mkdir(tmp_path / "a")
        os.chdir(tmp_path / "a")
        Path("x.wav").touch()
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        Path("y.wav").touch()
    finally:
        os.chdir(home)
    found = dataset.find_files(tmp_path)
    assert found.files == ["a/x.wav"]
    ((name, reason),) = found.left_out
    assert name.startswith("a/ddd")
    assert reason == "cannot be read: File name too long"


# ---- names ---------------------------------------------------------------------------------------


def test_both_forms_of_a_name_are_one_class(tmp_path):
    one, other = (unicodedata.normalize(form, "côq") for form in ("NFC", "NFD"))
    touch(tmp_path, f"{one}/b.wav", f"{other}/a.wav", "d/1.wav", "cz/1.wav")
    found = dataset.find_files(tmp_path)
    assert found.folders == ["cz", one, "d"]
    assert {class_of(name) for name in found.files} == {"cz", one, "d"}
    assert [class_of(name) for name in found.files] == ["cz", one, one, "d"]
    assert all((found.root / name).exists() for name in found.files)


def test_the_form_of_names_changes_no_order(tmp_path):
    for form in ("NFC", "NFD"):
        names = ("côq/é.wav", "côq/z.wav", "coz/1.wav", "cpa/1.wav")
        touch(tmp_path / form, *(unicodedata.normalize(form, name) for name in names))
    one, other = (dataset.find_files(tmp_path / form).files for form in ("NFC", "NFD"))
    assert [unicodedata.normalize("NFC", name) for name in other] == one


# ---- formats that are not read -------------------------------------------------------------------


def test_the_command_that_converts_can_be_pasted(tmp_path):
    """It converts all that is not converted yet, in folders of any name, and asks nothing."""
    root = tmp_path / "Tom's $sounds"
    touch(root, "a b/1.m4a", "a b/it's.WMA", "a b/2.mp4", "c/3.wav", "c/.4.m4a", "c/notes.txt")
    (note,) = dataset.find_files(root).notes
    said, command = note.split("\n  ")
    assert said == (
        f"Files of a format that is not read lie below {root}: 1 .m4a, 1 .mp4 and 1 .wma. This "
        "makes WAV files of them:"
    )
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "ffmpeg").write_text(
        '#!/bin/sh\n[ "$1" = -nostdin ] || exit 1\n'
        'for to; do [ "$from" = -i ] && source=$to; from=$to; done\ncp "$source" "$to"\n'
    )
    (tools / "ffmpeg").chmod(0o755)
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", command], env=path, check=True)
    found = dataset.find_files(root)
    assert found.files == ["a b/1.wav", "a b/2.wav", "a b/it's.wav", "c/3.wav"]
    assert found.notes == []


# ---- what this program made ----------------------------------------------------------------------


def written(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    keys = {"recipe": "best", "classes": [], "config": {}, "versions": {}}
    (folder / "config.json").write_text(json.dumps(keys))
    touch(folder, "samples/epoch_0010/dog.wav", "index.html", *names)


def test_runs_and_generated_sounds_are_never_input(tmp_path):
    touch(tmp_path, "dog/1.wav", "cat/config.json", "cat/2.wav")
    written(tmp_path / "outputs" / "best", "generated/dog_1.wav")
    touch(tmp_path, "outputs/index.html", "outputs/.cache/0123456789abcdef/clips.f32")
    written(tmp_path / "dog" / "a run")
    touch(tmp_path, "more/dog_1.wav", "dog/new/dog_1.wav")
    for folder in ("more", "dog/new"):
        (tmp_path / folder / files.GENERATED_MARK).write_bytes(files.GENERATED_TEXT)
    for loose in (False, True):
        found = dataset.find_files(tmp_path, loose)
        assert found.files == ["cat/2.wav", "dog/1.wav"]
        assert found.folders == ["cat", "dog"]
        assert found.left_out == [
            ("cat/config.json", "not a WAV, FLAC, OGG, MP3 or AIFF (.json)"),
        ]
        assert found.notes == [
            f"Left out below {tmp_path}, as made by this program: dog/a run, dog/new, more and "
            "outputs."
        ]


def test_generated_sounds_among_others_are_known_by_their_names(tmp_path):
    touch(tmp_path, "dog/1.wav", "dog/dog_seed42_0000.wav", "dog/dog_seed7_spread1.5_0012-2.wav")
    touch(tmp_path, "dog/seed_0001.wav", "old/dog_seed1_0001.wav")
    found = dataset.find_files(tmp_path)
    assert found.files == ["dog/1.wav", "dog/seed_0001.wav"]
    assert dict(found.left_out) == dict.fromkeys(
        ("dog/dog_seed42_0000.wav", "dog/dog_seed7_spread1.5_0012-2.wav", "old/dog_seed1_0001.wav"),
        "made by generate.py, as its name says (rename it to train on it)",
    )


def test_a_folder_of_runs_among_class_folders_takes_none_of_them_along(tmp_path):
    """Runs written right beside the classes, or into a class."""
    touch(tmp_path / "one", "dog/1.wav", "cat/1.wav")
    written(tmp_path / "one" / "best")
    touch(tmp_path / "two", "sounds/dog/1.wav", "sounds/cat/1.wav", "sounds/.cache/x/clips.f32")
    written(tmp_path / "two" / "sounds" / "best")
    for name, outputs in (("one", "one"), ("two", "two/sounds")):
        found = dataset.find_files(tmp_path / name, outputs=[str(tmp_path / outputs)])
        assert found.files == ["cat/1.wav", "dog/1.wav"]
        assert "best." in " ".join(found.notes)


def test_the_folder_of_runs_is_left_out_before_there_are_any(tmp_path):
    touch(tmp_path, "dog/1.wav", "cat/1.wav", "runs/index.html")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    found = dataset.find_files(tmp_path, outputs=[str(tmp_path / "runs"), str(tmp_path / "none")])
    assert found.folders == ["cat", "dog"]
    assert found.left_out == []
    assert found.notes == [f"Left out below {tmp_path}, as made by this program: link and runs."]


def test_a_link_into_a_run_is_no_class(tmp_path):
    touch(tmp_path / "data", "dog/1.wav", "cat/1.wav")
    written(tmp_path / "outputs" / "best")
    (tmp_path / "data" / "new").symlink_to(tmp_path / "outputs/best/samples/epoch_0010")
    found = dataset.find_files(tmp_path / "data")
    assert found.folders == ["cat", "dog"]
    assert found.notes == [f"Left out below {tmp_path}/data, as made by this program: new."]
