"""Files are whole or not there, and two processes never write the same one."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from soundgan import files
from soundgan.errors import UserError


def test_a_file_is_replaced_whole_and_the_old_one_kept(tmp_path):
    path = tmp_path / "deeper" / "last.pt"
    files.write_bytes(path, b"1", keep_as="previous.pt")
    files.write_bytes(path, b"2", keep_as="previous.pt")
    assert path.read_bytes() == b"2"
    assert (path.parent / "previous.pt").read_bytes() == b"1"
    assert len(list(path.parent.iterdir())) == 2  # nothing unfinished is left


def test_a_crash_while_writing_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    files.write_bytes(path, b"before")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_bytes(path, b"after")
    assert path.read_bytes() == b"before"


def test_a_csv_file_holds_names_that_are_no_text(tmp_path):
    """A file name of other bytes than UTF-8, as Python gives it."""
    name = os.fsdecode(b"caf\xe9.wav")
    files.write_csv(tmp_path / "left_out.csv", [("file", "reason"), (name, "empty, at all")])
    written = (tmp_path / "left_out.csv").read_bytes().decode()
    assert written == 'file,reason\r\ncaf\\udce9.wav,"empty, at all"\r\n'
    assert files.as_written(name) == "caf\\udce9.wav"


@pytest.mark.parametrize(
    "content",
    [
        'file,clip\r\n"ü, a.wav",0\r\n'.encode(),
        'file,clip\n"ü, a.wav",0'.encode("utf-8-sig"),
        "file;clip\r\nü, a.wav;0\r\n\r\n".encode("cp1252"),
        "file\tclip\r\nü, a.wav\t0\r\n".encode("utf-16"),
        "\ufefffile\tclip\r\nü, a.wav\t0\r\n".encode("utf-16-be"),
        "file;clip\r\nü, a.wav;0\r\n".encode("utf-16-le"),
        "sep=;\r\nfile;clip\r\nü, a.wav;0\r\n".encode(),
    ],
)
def test_a_csv_file_is_read_as_spreadsheets_leave_it(content, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    assert files.read_csv(tmp_path / "a.csv") == [["file", "clip"], ["ü, a.wav", "0"]]


def test_what_is_no_csv_file_says_so(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'file,clip\n"a.wav,0\n')
    with pytest.raises(ValueError, match="unexpected end"):
        files.read_csv(tmp_path / "a.csv")
    os.mkfifo(tmp_path / "b.csv")
    with pytest.raises(OSError, match="no regular file"):
        files.read_csv(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_bytes(b"")
    assert files.read_csv(tmp_path / "c.csv") == []


def test_a_folder_is_filled_before_it_takes_the_place_of_the_old_one(tmp_path):
    folder = tmp_path / "epoch_0002"
    with files.whole_folder(folder) as inside:
        (inside / "a.wav").write_bytes(b"1")
        assert not folder.exists()
    with suppress(KeyboardInterrupt), files.whole_folder(folder) as inside:
        assert list(inside.iterdir()) == []
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["a.wav"]
    with files.whole_folder(folder) as inside:
        (inside / "a.wav").write_bytes(b"2")
        (inside / "b.wav").write_bytes(b"2")
    assert sorted(path.name for path in folder.iterdir()) == ["a.wav", "b.wav"]
    assert (folder / "a.wav").read_bytes() == b"2"
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_0002"]


@pytest.mark.parametrize("what", ["own file", "file", "link"])
def test_what_a_new_folder_has_not_is_set_aside(tmp_path, capsys, what):
    folder, mine = tmp_path / "real", tmp_path / "mine"
    mine.mkdir()
    if what == "own file":
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    elif what == "file":
        folder.write_text("mine")
    else:
        (mine / "notes.txt").write_text("mine")
        folder.symlink_to(mine)
    with files.whole_folder(folder) as inside:
        (inside / "a.wav").write_bytes(b"1")
    assert [path.name for path in folder.iterdir()] == ["a.wav"]
    assert not folder.is_symlink()
    kept = tmp_path / "real.old1"
    assert (kept if what == "file" else kept / "notes.txt").read_text() == "mine"
    assert str(kept) in capsys.readouterr().out


# ---- locks ---------------------------------------------------------------------------------------

needs_locks = pytest.mark.skipif(files.fcntl is None, reason="needs file locks")


@needs_locks
def test_a_run_is_held_by_one_process_at_a_time(tmp_path):
    run, refused = tmp_path / "run", pytest.raises(UserError, match="Another process")
    with files.locked(run), refused, files.locked(run):
        pass
    with files.locked(run):
        pass


@needs_locks
def test_a_lock_is_taken_only_where_it_is_free(tmp_path):
    with files.if_free(tmp_path / "x.lock") as first, files.if_free(tmp_path / "x.lock") as second:
        assert (first, second) == (True, False)
    with files.if_free(tmp_path / "x.lock") as third:
        assert third


def test_what_a_kill_left_unfinished_goes(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    left = [files.unfinished_beside(tmp_path / "x"), tmp_path / "checkpoints" / "x"]
    left[1] = files.unfinished_beside(left[1])
    own = [tmp_path / "log.csv", tmp_path / "notes.tmp"]
    for path in left + own:
        path.write_bytes(b"")
    os.utime(left[0], (time.time() + files.DAY,) * 2)  # a clock was set back
    with files.locked(tmp_path):
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in own)


def test_what_is_unfinished_beside_the_runs_goes_after_a_day(tmp_path):
    new, old = (files.unfinished_beside(tmp_path / "index.html") for _ in range(2))
    for path in (new, old):
        path.write_bytes(b"")
    os.utime(old, (time.time() - files.DAY - 60,) * 2)
    with files.locked(tmp_path / "run"):
        assert new.exists()
        assert not old.exists()


@needs_locks
def test_a_deleted_lock_frees_nothing(tmp_path):
    run, refused = tmp_path / "run", pytest.raises(UserError, match="Another process")
    with files.locked(run):
        (run / ".lock").unlink()
        with refused, files.locked(run):
            pass


def test_links_in_a_run_are_not_followed(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.write_bytes(b"mine")
    for name in (".lock", "log.csv"):
        (run / name).symlink_to(other)
    files.write_bytes(run / "log.csv", b"new")
    with pytest.raises(UserError, match=r"\.lock is a link"), files.locked(run):
        pass
    (run / ".lock").unlink()
    (run / "checkpoints").symlink_to(tmp_path)
    with pytest.raises(UserError, match="checkpoints is a link"), files.locked(run):
        pass
    assert other.read_bytes() == b"mine"
    assert (run / "log.csv").read_bytes() == b"new"


def test_an_error_that_names_no_file_names_the_one_that_was_meant(tmp_path, monkeypatch):
    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_bytes(tmp_path / "scores.json", b"after")
    assert caught.value.filename == str(tmp_path / "scores.json")
    assert list(tmp_path.iterdir()) == []


def test_a_cell_is_a_text_also_for_a_spreadsheet(tmp_path):
    cells = ["=1+1", "+a", "-b", "@c", "-0.5", "1e-3", "a=b"]
    files.write_csv(tmp_path / "a.csv", [cells])
    assert (tmp_path / "a.csv").read_text() == "'=1+1,'+a,'-b,'@c,-0.5,1e-3,a=b\n"


def test_what_is_set_aside_takes_no_name_that_is_taken(tmp_path):
    for name in ("log.csv", "log.old1.csv"):
        (tmp_path / name).write_text(name)
    assert files.set_aside(tmp_path / "log.csv") == tmp_path / "log.old2.csv"
    assert (tmp_path / "log.old2.csv").read_text() == "log.csv"


def test_a_pipe_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not files.is_regular(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        files.read_bytes(tmp_path / "pipe")


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with files.locked(tmp_path), files.locked(tmp_path), files.in_turn(tmp_path / "l", "waiting"):
        pass


@needs_locks
def test_the_second_says_that_it_waits_and_comes_after_the_first(tmp_path: Path, capsys):
    path, order = tmp_path / "deeper" / ".lock", []

    def second() -> None:
        with files.in_turn(path, "Another run decodes."):
            order.append("second")

    thread = threading.Thread(target=second)
    with files.in_turn(path, "not said"):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert capsys.readouterr().out == "Another run decodes.\n"
