"""Folders -> audio files: what is found, what is not, and why."""

from __future__ import annotations

import os

import pytest
import torch
from sound_files import RATE, encoded, one_clip, strongest, tone, touch

from soundgan import audio, dataset


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
    touch(tmp_path / "c", "train/a.wav", "test/a.wav")
    assert dataset.find_files(tmp_path / "c").files == ["test/a.wav", "train/a.wav"]


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
