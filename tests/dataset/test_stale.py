"""What the cache holds, and that only what is ours and stale goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from conftest import flags

import train
from soundgan import dataset, files
from soundgan.config_io import change
from soundgan.dataset import cache, checked_json, stale
from soundgan.dataset.stale import CACHE_DAYS, CLIPS, META

DAYS = 86_400


def age(path: Path, days: float) -> None:
    """Give a file or a folder, and what is in it, the time of some days ago."""
    for inside in [*path.glob("*"), path]:
        os.utime(inside, (time.time() - days * DAYS,) * 2)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def keep_set(folder: Path, key: str, fingerprint: str, days: float) -> Path:
    made = folder / key
    made.mkdir(parents=True)
    checked_json.write(made / META, {"fingerprint": fingerprint})
    (made / CLIPS).write_bytes(bytes(1000))
    (folder / f"{key}.lock").write_bytes(files.LOCK_TEXT)
    age(made, days)
    return made


def keep_file(path: Path, days: float) -> Path:
    path.write_bytes(bytes(500))
    age(path, days)
    return path


def test_a_set_that_is_used_stays_and_one_that_is_not_goes_after_its_days(small, capsys):
    found = dataset.find_files(small.data_dir)
    dataset.load_clips(small, found)
    other = change(small, {"sound.f_max": 3000.0})
    dataset.load_clips(other, found)
    kept, unused = (small.cache_dir / cache._key(cfg, found.root) for cfg in (small, other))
    age(kept, CACHE_DAYS + 1)
    age(unused, CACHE_DAYS - 0.1)
    capsys.readouterr()
    dataset.load_clips(small, found)
    assert kept.is_dir()
    assert unused.is_dir()
    assert capsys.readouterr().out == ""
    assert time.time() - (kept / META).stat().st_mtime < 60
    age(unused, CACHE_DAYS + 0.1)
    dataset.load_clips(small, found, keep=False)
    assert unused.is_dir()  # a dry run removes nothing
    capsys.readouterr()
    dataset.load_clips(small, found)
    assert kept.is_dir()
    assert not unused.exists()
    said = capsys.readouterr().out
    assert said == (
        f"Removed from {small.cache_dir}: 1 decoded set (0.0 MiB), made of files that have changed "
        "or not used for 30 days (CACHE_DAYS in soundgan/dataset/stale.py).\n"
    )
    dataset.load_clips(small, found)
    assert capsys.readouterr().out == ""


def test_references_go_with_the_files_that_they_were_made_of(small, sounds, capsys):
    found = dataset.find_files(small.data_dir)
    first = dataset.load_clips(small, found).fingerprint
    old = stale.reference_path(small.cache_dir, first, "1" * 16)
    others = stale.reference_path(small.cache_dir, "ab" * 16, "2" * 16)
    for path in (old, others):
        keep_file(path, 0)
    capsys.readouterr()
    dataset.load_clips(small, found)
    assert old.exists()
    (sounds / "low" / "0.wav").unlink()
    second = dataset.load_clips(small, dataset.find_files(sounds)).fingerprint
    assert second != first
    assert not old.exists()
    assert others.exists()
    assert "1 reference of the scores (0.0 MiB), made of files that have" in capsys.readouterr().out


def test_references_stay_while_another_set_is_of_the_same_files(small, sounds):
    found = dataset.find_files(small.data_dir)
    first = dataset.load_clips(small, found).fingerprint
    dataset.load_clips(change(small, {"sound.f_max": 3000.0}), found)
    old = keep_file(stale.reference_path(small.cache_dir, first, "1" * 16), 0)
    (sounds / "low" / "0.wav").unlink()
    dataset.load_clips(small, dataset.find_files(sounds))
    assert old.exists()
    dataset.load_clips(change(small, {"sound.f_max": 3000.0}), dataset.find_files(sounds))
    assert not old.exists()


def test_the_references_of_this_data_stay_however_old(tmp_path):
    mine = keep_file(stale.reference_path(tmp_path, "ab" * 16, "1" * 16), 100)
    others = keep_file(stale.reference_path(tmp_path, "cd" * 16, "1" * 16), 100)
    young = keep_file(stale.reference_path(tmp_path, "cd" * 16, "2" * 16), 29)
    earlier = keep_file(tmp_path / f"evaluator-{'a' * 16}.pt", 100)  # as earlier versions named it
    index = keep_file(tmp_path / f"files-{'a' * 16}.json", 100)
    stale.remove_stale(tmp_path, "ab" * 16)
    assert [p.exists() for p in (mine, others, young, earlier, index)] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_what_is_unfinished_goes_after_a_day(tmp_path):
    left = [files.unfinished_beside(tmp_path / "x") for _ in range(2)]
    left += [tmp_path / f"{'a' * 16}.{n}.tmp" for n in (17, 18)]  # as earlier versions named it
    for path, days in zip(left, (0.9, 1.1, 0.9, 1.1)):
        path.mkdir()
        (path / CLIPS).write_bytes(b"1")
        age(path, days)
    stale.remove_stale(tmp_path, "ab" * 16)
    assert [path.exists() for path in left] == [True, False, True, False]


def test_nothing_of_others_is_touched(tmp_path, capsys):
    """An output folder may be a home: its .cache is everybody's."""
    apart = tmp_path / "apart"
    folder = tmp_path / ".cache"
    keep_set(apart, "a" * 16, "ab" * 16, 100)
    folder.mkdir()
    (folder / ("a" * 16)).symlink_to(apart / ("a" * 16))  # a link
    mixed = keep_set(folder, "b" * 16, "ab" * 16, 100)  # a folder that holds more than a set
    (mixed / "notes.txt").write_text("mine")
    age(mixed, 100)
    (folder / f"evaluator-{'c' * 16}.pt").mkdir()  # a folder named like a file
    keep_file(folder / ("d" * 16), 100)  # a file named like a folder
    (folder / ("e" * 16) / "deep").mkdir(parents=True)
    (folder / ("8" * 16)).mkdir()  # an empty one
    for name in ("mesa", "F" * 16, "f" * 17, f"evaluator-{'c' * 15}.pt", f"x{'c' * 16}.lock"):
        keep_file(folder / name, 100)
    (folder / f"evaluator-{'9' * 16}.pt").symlink_to(folder / "mesa")
    for path in folder.iterdir():
        if not path.is_symlink():
            age(path, 100)
    (folder / f"{'b' * 16}.lock").unlink()
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    stale.remove_stale(folder, "cd" * 16, replaced="ab" * 16)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before
    assert stale.held(folder) == f"Cache: nothing is kept in {folder} yet."
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(files.fcntl is None, reason="needs file locks")
def test_a_set_that_a_run_is_opening_stays(tmp_path, capsys):
    made = keep_set(tmp_path, "a" * 16, "ab" * 16, 100)
    with files.in_turn(tmp_path / f"{'a' * 16}.lock", ""):
        stale.remove_stale(tmp_path, "cd" * 16)
        assert names(made) == {META, CLIPS}
    assert capsys.readouterr().out == ""
    stale.remove_stale(tmp_path, "cd" * 16)
    assert not made.exists()
    age(tmp_path / f"{'a' * 16}.lock", 100)
    stale.remove_stale(tmp_path, "cd" * 16)  # the lock of a set that is gone
    assert names(tmp_path) == set()


def test_a_set_that_another_run_has_just_used_stays(tmp_path, monkeypatch):
    """It was stale when the cache was listed."""
    made = keep_set(tmp_path, "a" * 16, "ab" * 16, 100)
    own = stale._is_stale

    def used_meanwhile(entry: stale.Entry, data: str) -> bool:
        answer = own(entry, data)
        stale.mark_used(made / META)
        return answer

    monkeypatch.setattr(stale, "_is_stale", used_meanwhile)
    stale.remove_stale(tmp_path, "cd" * 16)
    assert names(made) == {META, CLIPS}


def test_clips_that_are_removed_under_a_run_can_still_be_read(small):
    clips = dataset.load_clips(small, dataset.find_files(small.data_dir))
    data = clips.data.copy()
    age(Path(clips.data.filename).parent, 100)
    stale.remove_stale(small.cache_dir, "another")
    assert not Path(clips.data.filename).exists()
    assert (clips.data == data).all()


def test_a_dry_run_says_what_the_cache_holds(tmp_path):
    assert stale.held(tmp_path / "none") == f"Cache: nothing is kept in {tmp_path / 'none'} yet."
    for number in "12":
        made = keep_set(tmp_path, number * 16, "ab" * 16, 0)
        os.truncate(made / CLIPS, 600 << 20)  # sparse
    os.truncate(keep_file(tmp_path / f"evaluator-{'c' * 16}.pt", 0), 100 << 20)
    assert stale.held(tmp_path) == (
        f"Cache: {tmp_path} holds 2 decoded sets and 1 reference of the scores (1.3 GiB). What no "
        "run has used for 30 days is removed by the next one (CACHE_DAYS in "
        "soundgan/dataset/stale.py)."
    )


def test_the_command_says_it_too(small, capsys):
    assert train.main([*flags(small), "--dry-run"]) == 0
    assert f"\nCache: nothing is kept in {small.cache_dir} yet.\n" in capsys.readouterr().out
    dataset.load_clips(small, dataset.find_files(small.data_dir))
    assert train.main([*flags(small), "--dry-run"]) == 0
    assert f"\nCache: {small.cache_dir} holds 1 decoded set (0.0 MiB). " in capsys.readouterr().out
