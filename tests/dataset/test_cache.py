"""Decoded once, and again when a file or a constant that matters has changed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from sound_files import one_clip

import config
from soundgan import audio, dataset
from soundgan.audio import files as audio_files
from soundgan.config_io import change
from soundgan.dataset import cache
from soundgan.parts import names_of


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the files that were decoded, in no order."""
    names: list[str] = []
    read = audio_files.read_clips

    def counting(path, *rest):
        names.append(Path(path).name)
        return read(path, *rest)

    monkeypatch.setattr(audio_files, "read_clips", counting)
    return names


def test_decoded_once(small, decoded):
    first = dataset.load_clips(small, dataset.find_files(small.data_dir))
    assert len(decoded) == 18
    assert first.data.shape == (18, *small.shape)
    decoded.clear()
    second = dataset.load_clips(small, dataset.find_files(small.data_dir))
    assert decoded == []
    assert isinstance(second.data, np.memmap)
    assert np.array_equal(first.data, second.data)
    assert first.labels == second.labels


def test_runs_that_start_together_decode_once(small, decoded, monkeypatch):
    """The one that comes second says that it waits, and opens what the first one wrote."""
    build, waits = cache._build_cache, Event()
    monkeypatch.setattr("builtins.print", lambda said, **_: "Another run" in said and waits.set())
    monkeypatch.setattr(cache, "_build_cache", lambda *a: waits.wait(20) and build(*a))
    found = dataset.find_files(small.data_dir)
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: dataset.load_clips(small, found), range(2))
    assert len(decoded) == 18
    assert np.array_equal(first.data, second.data)


def test_cache_holds_the_transform_of_each_file(small):
    clips = dataset.load_clips(small, dataset.find_files(small.data_dir))
    transform = audio.Transform(small)
    for index in (0, 7, 17):
        path = Path(small.data_dir) / clips.files[index]
        wave, _, _ = one_clip(path, small.sound.sample_rate, small.sound.clip_samples)
        expected = transform(torch.from_numpy(wave)[None])[0].numpy()
        np.testing.assert_allclose(clips.data[index], expected, rtol=0, atol=1e-5)
        assert clips.classes[clips.labels[index]] == path.parent.name


def test_rebuilt_when_a_file_or_a_constant_changes(small, sounds, decoded):
    def load(cfg=small):
        decoded.clear()
        return dataset.load_clips(cfg, dataset.find_files(cfg.data_dir))

    load()
    os.utime(sounds / "low" / "0.wav", (1, 1))
    assert len(load()) == 18
    assert len(decoded) == 18
    (sounds / "low" / "0.wav").unlink()
    assert len(load()) == 17
    load(change(small, {"sound.f_max": 3000.0}))
    assert len(decoded) == 17
    load()  # the constants of before still have theirs
    assert decoded == []
    assert len(load(change(small, {"objective.gp_weight": 1.0}))) == 17
    assert decoded == []


def test_the_key_holds_what_decides_the_clips_and_nothing_else(small, tmp_path):
    """Every constant of both kinds of sound, and the kind itself; not what comes after decoding."""
    root = Path(small.data_dir)
    raw = config.RECIPES["wavegan"].sound
    for cfg in (small, change(small, {"sound": raw})):
        for name in names_of(type(cfg.sound)):
            value = getattr(cfg.sound, name)
            other = {"cut": "consecutive", "mel_scale": "htk", "mel_norm": "none"}.get(name, "db")
            if name == "cut" and value == other:
                other = "first"
            elif not isinstance(value, str):
                other = value + 1
            changed = change(cfg, {f"sound.{name}": other})
            decides = name not in ("standardise", "jitter")
            assert (cache._key(changed, root) != cache._key(cfg, root)) == decides, name
    assert cache._key(change(small, {"sound": raw}), root) != cache._key(small, root)
    assert cache._key(small, tmp_path) != cache._key(small, root)


def test_what_a_killed_run_of_the_same_number_left_is_in_nobodys_way(small):
    """In a container every start has the same process number."""
    found = dataset.find_files(small.data_dir)
    key = cache._key(small, found.root)
    (small.cache_dir / f"{key}.{os.getpid()}.tmp").mkdir(parents=True)
    assert len(dataset.load_clips(small, found)) == 18
    assert not list(small.cache_dir.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["cut", "garbled", "no meta"])
def test_a_damaged_cache_is_rebuilt(small, decoded, damage):
    whole = np.array(dataset.load_clips(small, dataset.find_files(small.data_dir)).data)
    (folder,) = (path for path in small.cache_dir.iterdir() if path.is_dir())
    if damage == "cut":
        os.truncate(folder / "clips.f32", 100)
    elif damage == "garbled":
        (folder / "meta.json").write_text('{"fingerprint"')
    else:
        (folder / "meta.json").unlink()
    decoded.clear()
    again = dataset.load_clips(small, dataset.find_files(small.data_dir))
    assert len(decoded) == 18
    assert np.array_equal(again.data, whole)


def test_many_threads_or_one_make_the_same_cache(small, tmp_path):
    found = dataset.find_files(small.data_dir)
    one = dataset.load_clips(change(small, {"decode_threads": 1}), found)
    many = change(small, {"decode_threads": 8, "output_dir": str(tmp_path / "other")})
    assert np.array_equal(one.data, dataset.load_clips(many, found).data)
