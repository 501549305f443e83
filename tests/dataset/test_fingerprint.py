"""The same files are the same files, whatever their times are and wherever they lie."""

from __future__ import annotations

import os
import shutil
import time
import unicodedata
from pathlib import Path

import pytest

from soundgan import dataset, files
from soundgan.config_io import change
from soundgan.dataset import fingerprint
from soundgan.dataset.fingerprint import fingerprint_of


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content was read, in no order; their times are believed at once."""
    names: list[str] = []
    own = fingerprint._digest

    def counting(path: str, *rest) -> tuple[str, bool]:
        names.append(Path(path).name)
        return own(path, *rest)

    monkeypatch.setattr(fingerprint, "_digest", counting)
    monkeypatch.setattr(fingerprint, "SETTLED", 0.0)
    return names


def of(cfg, keep: bool = True) -> str:
    return fingerprint_of(cfg, dataset.find_files(cfg.data_dir), keep)


def test_a_second_start_reads_no_file(small, read):
    first = of(small)
    assert len(read) == 18
    read.clear()
    assert of(small) == first
    assert read == []


def test_touched_copied_and_moved_files_are_the_same(small, sounds, tmp_path, read):
    first = of(small)
    read.clear()
    os.utime(sounds / "low" / "0.wav", (1, 1))
    assert of(small) == first
    assert read == ["0.wav"]  # its times differ: its content says that it is the same
    shutil.copytree(sounds, tmp_path / "copied")  # new times, new inodes
    copied = change(small, {"data_dir": str(tmp_path / "copied")})
    assert of(copied) == first
    sounds.rename(tmp_path / "moved")
    assert of(change(small, {"data_dir": str(tmp_path / "moved")})) == first


def test_what_makes_other_files(small, sounds):
    seen = {of(small)}
    path = sounds / "low" / "0.wav"
    content = path.read_bytes()
    for change_it in (
        lambda: path.write_bytes(content[:-2] + b"\x11\x11"),  # the same size
        lambda: path.write_bytes(content + b"\0\0"),
        lambda: path.rename(path.with_name("7.wav")),
        lambda: (sounds / "low" / "7.wav").rename(sounds / "mid" / "7.wav"),
        lambda: (sounds / "mid" / "7.wav").unlink(),
        lambda: (sounds / "mid" / "notes.txt").write_text("left out"),
    ):
        change_it()
        now = of(small)
        assert now not in seen
        seen.add(now)


def test_other_content_of_the_same_size_and_time_is_noticed(small, sounds, read):
    path = sounds / "low" / "0.wav"
    before, first = path.stat(), of(small)
    time.sleep(0.02)  # the clock of the file system ticks
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"\x11\x11")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    read.clear()
    assert of(small) != first
    assert read == ["0.wav"]


def test_the_times_of_a_file_that_has_just_changed_are_not_believed(small, sounds, monkeypatch):
    """Within one tick of the clock a file may change and keep all of its times."""
    now = time.time_ns()
    monkeypatch.setattr(fingerprint, "_stamp", lambda _: f"8044 {now} {now} 0")
    first, path = of(small), sounds / "low" / "0.wav"
    path.write_bytes(path.read_bytes()[:-2] + b"\x11\x11")
    assert of(small) != first


def test_the_unicode_form_of_names_makes_no_difference(small, sounds):
    composed = unicodedata.normalize("NFC", "côq")
    other = unicodedata.normalize("NFD", "côq")
    (sounds / "low").rename(sounds / composed)
    (sounds / "mid" / "0.wav").rename(sounds / "mid" / f"{composed}.wav")
    first = of(small)
    (sounds / composed).rename(sounds / other)
    (sounds / "mid" / f"{composed}.wav").rename(sounds / "mid" / f"{other}.wav")
    assert of(small) == first


def test_a_dry_run_reads_the_index_and_writes_none(small, read):
    first = of(small, keep=False)
    assert not small.cache_dir.exists()
    assert of(small) == first
    read.clear()
    assert of(small, keep=False) == first
    assert read == []


def test_a_damaged_index_is_made_anew_and_nothing_is_said(small, capsys, read):
    first = of(small)
    (path,) = small.cache_dir.glob("files-*.json")
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        content = bytearray(whole)
        content[place] ^= 0x10
        path.write_bytes(content)
        read.clear()
        assert of(small) == first
        assert len(read) == 18
        assert path.read_bytes() == whole
    path.write_bytes(whole[:-20])
    assert of(small) == first
    path.unlink()
    path.mkdir()
    assert of(small) == first  # and where none can be kept
    assert capsys.readouterr() == ("", "")


def test_an_index_of_another_form_is_not_believed(small, capsys, read):
    first = of(small)
    (path,) = small.cache_dir.glob("files-*.json")
    for content in ([], {"low/0.wav": 5}, {"low/0.wav": ["1 2 3 4", "x"]}, None, "x"):
        fingerprint.checked_json.write(path, content)
        assert of(small) == first
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_dangling_links_and_closed_files_hold_nothing_up(small, sounds):
    os.mkfifo(sounds / "low" / "pipe.wav")
    (sounds / "low" / "dangling.wav").symlink_to(sounds / "none.wav")
    found = dataset.Found(sounds, ["low/pipe.wav", "low/dangling.wav", "low/no\0name.wav"])
    first = fingerprint_of(small, found)
    (sounds / "none.wav").write_bytes(b"there now")
    assert fingerprint_of(small, found) != first


def test_a_file_is_read_piece_by_piece(small, sounds, monkeypatch):
    """The memory it takes does not depend on the file."""
    first = of(small)
    monkeypatch.setattr(fingerprint, "PIECE", 7)
    assert of(small) == first  # their times are too new to be in the index
    line, _ = fingerprint._digest(str(sounds / "low" / "0.wav"), fingerprint.Event())
    assert line.rpartition(" ")[2] == files.digest_of_file(sounds / "low" / "0.wav")
