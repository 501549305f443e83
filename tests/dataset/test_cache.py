"""Decoded once, and again when a file or a constant that matters has changed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Event

import numpy as np
import pytest
import torch
from conftest import weights
from sound_files import one_clip

import config
import train
from soundgan import audio, dataset
from soundgan.audio import files as audio_files
from soundgan.config_io import change
from soundgan.dataset import cache, checked_json
from soundgan.dataset.stale import CLIPS, META
from soundgan.errors import UserError
from soundgan.parts import names_of


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the files that were decoded, in no order."""
    names: list[str] = []
    read = audio_files.read_clips

    def counting(path, *rest, **more):
        names.append(Path(path).name)
        return read(path, *rest, **more)

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

    first = load()
    os.utime(sounds / "low" / "0.wav", (1, 1))
    assert len(load()) == 18
    assert decoded == []  # the same file, with another time
    path = sounds / "low" / "0.wav"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[:2000] + (sounds / "high" / "0.wav").read_bytes()[2000:])
    os.utime(path, ns=times)
    again = load()  # another file, with the same size and time
    assert len(decoded) == 18
    assert again.fingerprint != first.fingerprint
    (sounds / "low" / "0.wav").unlink()
    assert len(load()) == 17
    load(change(small, {"sound.f_max": 3000.0}))
    assert len(decoded) == 17
    load()  # the constants of before still have theirs
    assert decoded == []
    assert len(load(change(small, {"objective.gp_weight": 1.0}))) == 17
    assert decoded == []


def test_a_run_goes_on_with_files_that_were_unpacked_again(
    small, sounds, tmp_path, decoded, capsys
):
    """New times and numbers of the files, the same content."""
    train.train(change(small, {"epochs": 2}))
    shutil.copytree(sounds, tmp_path / "again")
    shutil.rmtree(sounds)
    (tmp_path / "again").rename(sounds)
    decoded.clear()
    capsys.readouterr()
    train.train(small)
    said = capsys.readouterr().out
    assert "after epoch 2" in said
    assert "not those of the checkpoint" not in said
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


def test_a_disk_that_fills_while_decoding_is_named_and_nothing_is_left(small, monkeypatch):
    """Also where an earlier set was there: it is kept until the new one is whole."""
    found = dataset.find_files(small.data_dir)
    folder = small.cache_dir / cache._key(small, found.root)
    build = cache.decode_all

    def full(cfg, found, keep):
        def keep_some(clip: np.ndarray) -> None:
            keep(clip)
            raise OSError(errno.ENOSPC, "No space left on device")

        return build(cfg, found, keep_some)

    monkeypatch.setattr(cache, "decode_all", full)
    for files_kept in ([f"{folder.name}.lock"], [folder.name, f"{folder.name}.lock"]):
        with pytest.raises(UserError, match="No space left on device") as raised:
            dataset.load_clips(small, found)
        assert f"cannot be kept in {folder} (" in str(raised.value)
        assert f"'{folder}'" in str(raised.value)
        assert sorted(path.name for path in small.cache_dir.iterdir()) == files_kept
        monkeypatch.undo()
        dataset.load_clips(small, found)
        found.files.pop()
        monkeypatch.setattr(cache, "decode_all", full)


# ---- damage --------------------------------------------------------------------------------------


def flip(folder: Path) -> None:
    content = bytearray((folder / CLIPS).read_bytes())
    content[len(content) // 3] ^= 1
    (folder / CLIPS).write_bytes(content)


def nan(folder: Path) -> None:
    clips = np.memmap(folder / CLIPS, np.float32, "r+")
    clips[-1] = np.nan
    clips.flush()


def swap_clips(folder: Path) -> None:
    clips = np.fromfile(folder / CLIPS, np.float32).reshape(18, -1)
    clips[::-1].tofile(folder / CLIPS)


def reverse_labels(folder: Path) -> None:
    """By hand, in order: the checksum is of before."""
    whole, labels = (folder / META).read_text(), [0] * 6 + [1] * 6 + [2] * 6
    assert str(labels) in whole
    (folder / META).write_text(whole.replace(str(labels), str(labels[::-1])))


def rename_a_class(folder: Path) -> None:
    (folder / META).write_text((folder / META).read_text().replace('"mid"', '"mad"'))


def with_meta(**fields: object) -> Callable[[Path], None]:
    """Another program's meta.json, with a checksum."""

    def write(folder: Path) -> None:
        meta = checked_json.read(folder / META)
        checked_json.write(folder / META, meta | fields)

    return write


def as_link(name: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / name).rename(folder.parent.parent / name)
        (folder / name).symlink_to(folder.parent.parent / name)

    return link


def folder_as_link(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def folder_as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"no folder")


def pipe(name: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return put


DAMAGE = {
    "a flipped bit": (flip, r"the checksum of clip \d+, \w+/\d\.wav, differs"),
    "NaN": (nan, r"the checksum of clip 17, mid/5\.wav, differs"),
    "swapped clips": (swap_clips, "the checksum of clip 0, high/0.wav, differs"),
    "cut": (lambda folder: os.truncate(folder / CLIPS, 100), "has 100 bytes, not 36864"),
    "no clips": (lambda folder: (folder / CLIPS).unlink(), "is no regular file"),
    "clips a link": (as_link(CLIPS), "clips.f32 is no regular file"),
    "reversed labels": (reverse_labels, "the checksum of meta.json differs"),
    "another class": (rename_a_class, "the checksum of meta.json differs"),
    "meta cut": (lambda folder: os.truncate(folder / META, 100), "the checksum of meta.json"),
    "meta of before": (lambda folder: (folder / META).write_text("{}"), "the checksum of meta"),
    "no meta": (lambda folder: (folder / META).unlink(), "it holds no meta.json"),
    "meta a link": (as_link(META), "meta.json is a link"),
    "another key": (with_meta(key="0" * 16), "is of another folder"),
    "labels no numbers": (with_meta(labels=["0"] * 18), "labels in its meta.json is of another"),
    "labels out of range": (with_meta(labels=[3] * 18), "labels and classes .* do not match"),
    "labels no list": (with_meta(labels="0" * 18), "labels in its meta.json is of another kind"),
    "few digests": (with_meta(digests=["0"]), "digests in its meta.json are 1, not 18"),
    "classes twice": (with_meta(classes=["a", "a", "b"]), "do not match"),
    "left_out no pairs": (with_meta(left_out=[["a"]]), "left_out in its meta.json"),
    "more fields": (with_meta(more=1), "has other fields"),
    "a link": (folder_as_link, "it is no folder"),
    "a file": (folder_as_file, "it is no folder"),
}
if hasattr(os, "mkfifo"):
    DAMAGE["clips a pipe"] = (pipe(CLIPS), "clips.f32 is no regular file")
    DAMAGE["meta a pipe"] = (pipe(META), "meta.json: it is no regular file")


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cache_is_said_and_decoded_anew(small, decoded, capsys, kind):
    damage, said = DAMAGE[kind]
    found = dataset.find_files(small.data_dir)
    whole = dataset.load_clips(small, found)
    data, folder = np.array(whole.data), Path(whole.data.filename).parent
    damage(folder)
    decoded.clear()
    capsys.readouterr()
    dry = dataset.load_clips(small, found, keep=False)
    assert np.array_equal(dry.data, data[: small.batch_size])
    sentence = re.escape(str(folder)) + rf" is damaged \(.*{said}.*\): decoded anew\.\n"
    assert re.fullmatch(sentence, capsys.readouterr().out)
    again = dataset.load_clips(small, found)
    assert re.fullmatch(sentence, capsys.readouterr().out)
    assert len(decoded) == 2 * 18
    assert np.array_equal(again.data, data)
    for name in ("labels", "classes", "files", "digests", "left_out", "fingerprint"):
        assert getattr(again, name) == getattr(whole, name)
    third = dataset.load_clips(small, found)
    assert len(decoded) == 2 * 18
    assert np.array_equal(third.data, data)
    assert capsys.readouterr().out == ""
    if "link" in kind:  # where it leads, nothing was touched
        elsewhere = small.cache_dir.parent
        assert [p.name for p in elsewhere.iterdir() if p.name in ("elsewhere", CLIPS, META)]


def test_two_runs_that_find_the_same_damage_decode_once(small, decoded, monkeypatch):
    found = dataset.find_files(small.data_dir)
    data = np.array(dataset.load_clips(small, found).data)
    flip(small.cache_dir / cache._key(small, found.root))
    check, both = cache._check_clips, Barrier(2)

    def together(*arguments) -> None:
        if not both.broken:
            with suppress(BrokenBarrierError):
                both.wait(20)
            try:
                check(*arguments)
            finally:
                both.abort()
        else:
            check(*arguments)

    monkeypatch.setattr(cache, "_check_clips", together)
    decoded.clear()
    with ThreadPoolExecutor() as pool:
        some = list(pool.map(lambda _: dataset.load_clips(small, found), range(2)))
    assert len(decoded) == 18
    assert all(np.array_equal(clips.data, data) for clips in some)


def test_other_processes_open_what_was_checked(small):
    clips = dataset.load_clips(small, dataset.find_files(small.data_dir))
    other = dataset.open_clips(small, clips.root, clips.fingerprint)
    assert np.array_equal(other.data, clips.data)
    assert (other.files, other.labels, other.root) == (clips.files, clips.labels, clips.root)
    with pytest.raises(UserError, match="not to be seen from here"):
        dataset.open_clips(small, clips.root, "another fingerprint")
    (small.cache_dir / cache._key(small, Path(clips.root)) / META).write_text("{}")
    with pytest.raises(UserError, match="not to be seen from here"):
        dataset.open_clips(small, clips.root, clips.fingerprint)


def test_names_of_another_unicode_form_are_opened_by_the_names_they_have_now(
    small, sounds, decoded
):
    """As rsync from a Mac to Linux changes them."""
    composed, other = (unicodedata.normalize(form, "côq") for form in ("NFC", "NFD"))
    (sounds / "low").rename(sounds / other)
    first = dataset.load_clips(small, dataset.find_files(sounds))
    (sounds / other).rename(sounds / composed)
    decoded.clear()
    again = dataset.load_clips(small, dataset.find_files(sounds))
    assert decoded == []
    assert np.array_equal(again.data, first.data)
    assert all((sounds / name).is_file() for name in again.files)
    seen = dataset.open_clips(small, again.root, again.fingerprint)
    assert seen.files == again.files


def test_the_same_folder_by_another_path_is_read_from_there(small, sounds, decoded, monkeypatch):
    monkeypatch.chdir(sounds.parent)
    dataset.load_clips(change(small, {"data_dir": sounds.name}), dataset.find_files(sounds.name))
    decoded.clear()
    monkeypatch.chdir(sounds)
    clips = dataset.load_clips(small, dataset.find_files(sounds))
    assert decoded == []
    assert clips.root == str(sounds)


def test_the_check_reads_a_few_clips_at_a_time(small, monkeypatch):
    found = dataset.find_files(small.data_dir)
    clips = dataset.load_clips(small, found)
    size = 4 * clips.data[0].size
    monkeypatch.setattr(cache, "BLOCK", 4 * size)
    dataset.load_clips(small, found)
    folder = Path(clips.data.filename).parent
    for row in range(18):
        content = bytearray((folder / CLIPS).read_bytes())
        content[row * size] ^= 128
        (folder / CLIPS).write_bytes(content)
        with pytest.raises(checked_json.Damaged, match=rf"clip {row}, "):
            cache._open_cache(folder, small, clips.fingerprint, check=True)
        content[row * size] ^= 128
        (folder / CLIPS).write_bytes(content)
    assert cache._open_cache(folder, small, clips.fingerprint, check=True) is not None


def test_what_is_checked_is_what_is_mapped(small, monkeypatch):
    """Another run may replace a damaged set between the two."""
    found = dataset.find_files(small.data_dir)
    clips = dataset.load_clips(small, found)
    data, folder = clips.data.copy(), Path(clips.data.filename).parent
    flip(folder)
    check = cache._check_clips

    def after_another_run(*arguments) -> None:
        monkeypatch.setattr(cache, "_check_clips", check)
        dataset.load_clips(small, found)
        check(*arguments)

    monkeypatch.setattr(cache, "_check_clips", after_another_run)
    assert np.array_equal(dataset.load_clips(small, found).data, data)


def test_a_damaged_cache_is_no_reason_to_lower_a_learning_rate(small, monkeypatch, capsys):
    """NaN among the decoded clips: the run trains as if nothing had been."""
    whole = train.train(small)
    nan(small.cache_dir / cache._key(small, Path(small.data_dir)))
    again = train.train(change(small, {"run_name": "again"}))
    assert "is damaged" in capsys.readouterr().out
    assert torch.equal(weights(again.generator), weights(whole.generator))


def test_many_threads_or_one_make_the_same_cache(small, tmp_path):
    found = dataset.find_files(small.data_dir)
    one = dataset.load_clips(change(small, {"decode_threads": 1}), found)
    many = change(small, {"decode_threads": 8, "output_dir": str(tmp_path / "other")})
    assert np.array_equal(one.data, dataset.load_clips(many, found).data)
