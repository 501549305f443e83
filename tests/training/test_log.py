"""Logs: what a run goes on with is what it left, whatever a person or a crash made of the file."""

from __future__ import annotations

import math
import os

import pytest

from soundgan import files
from soundgan.training.log import Log, packed_rows, read_log

COLUMNS = ("epoch", "step", "loss")
ROWS = [{"epoch": 1, "step": 4, "loss": 0.5}, {"epoch": 2, "step": 8, "loss": -1.25e-05}]


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "log.csv"
    log = Log(path, COLUMNS, epoch=0)
    for epoch in (1, 2, 3):
        log.add({"epoch": epoch, "step": 4 * epoch, "loss": 1 / 3, "more": 0.0})
    log.write()
    rows = ["1,4,0.333333", "2,8,0.333333", "3,12,0.333333"]
    assert path.read_text().splitlines() == ["epoch,step,loss", *rows]
    continued = Log(path, COLUMNS, epoch=2)
    assert continued.rows == [
        {"epoch": 1, "step": 4, "loss": 0.333333},
        {"epoch": 2, "step": 8, "loss": 0.333333},
    ]
    assert len(path.read_text().splitlines()) == 3
    assert [row["step"] for row in read_log(path, 4, by="step")] == [4]
    assert Log(path, COLUMNS, epoch=4, by="step").rows == continued.rows[:1]


def test_what_is_added_is_on_the_disk_once_it_is_written(tmp_path):
    log = Log(tmp_path / "log.csv", COLUMNS, epoch=0)
    log.add({"epoch": 1, "step": 4, "loss": math.nan})
    assert read_log(log.path, 9) == []
    log.write()
    (row,) = read_log(log.path, 9)
    assert math.isnan(row.pop("loss"))
    assert row == {"epoch": 1, "step": 4}


def test_a_log_that_a_crash_or_an_editor_left_is_read(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("\ufeffepoch,step,loss\n1,4,0.5\n2,8,0.25\n3,12\nx,16,1\n", encoding="utf-8")
    assert [row["epoch"] for row in read_log(path, 9)] == [1, 2]
    assert read_log(tmp_path / "none.csv", 9) == []
    path.write_text("\ufeffepoch,step,loss\n1,4,0.5\n2,8,0.25\n3,12\n", encoding="utf-8")
    log = Log(path, COLUMNS, epoch=2)  # and goes on
    log.add({"epoch": 3, "step": 12, "loss": 1.5})
    log.write()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == ["epoch,step,loss", "1,4,0.5", "2,8,0.25", "3,12,1.5"]
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "log.old1.csv"]  # with the row that was cut


THREE = [{"epoch": n, "step": 4 * n, "loss": 1 / n if n != 2 else math.nan} for n in (1, 2, 3)]


def written(path, rows=THREE):
    log = Log(path, COLUMNS, 0)
    for row in rows:
        log.add(row)
    log.write()
    return packed_rows(log.rows, log.columns)


def test_rows_that_a_checkpoint_has_are_those_of_the_file(tmp_path, capsys):
    saved = written(tmp_path / "log.csv")
    before = (tmp_path / "log.csv").read_bytes()
    log = Log(tmp_path / "log.csv", COLUMNS, 3, saved=saved)
    assert [row["epoch"] for row in log.rows] == [1, 2, 3]
    assert (tmp_path / "log.csv").read_bytes() == before
    assert capsys.readouterr().out == ""
    assert len(Log(tmp_path / "log.csv", COLUMNS, 2, saved=saved).rows) == 2


@pytest.mark.parametrize("how", ["digit", "row gone", "cut", "noise", "empty", "gone", "more"])
def test_what_differs_from_the_checkpoint_is_kept_and_said(tmp_path, capsys, how):
    path = tmp_path / "log.csv"
    saved = written(path)
    whole = path.read_bytes()
    lines = whole.decode().splitlines(keepends=True)
    damaged = {
        "digit": whole.replace(b"0.333333", b"0.433333"),
        "row gone": "".join(lines[:2] + lines[3:]).encode(),
        "cut": whole[:-6],
        "noise": os.urandom(len(whole)),
        "empty": b"",
        "gone": None,
        "more": whole + b"2.5,9,1\n",
    }[how]
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    log = Log(path, COLUMNS, 3, saved=saved)
    assert str(path) in capsys.readouterr().out
    log.write()
    assert path.read_bytes() == whole
    assert [row["epoch"] for row in log.rows] == [1, 2, 3]
    if damaged is not None:
        assert (tmp_path / "log.old1.csv").read_bytes() == damaged


def test_rows_that_came_after_the_checkpoint_are_those_of_the_file(tmp_path, capsys):
    saved = written(tmp_path / "log.csv", THREE[:2])
    (tmp_path / "log.csv").unlink()
    written(tmp_path / "log.csv")
    log = Log(tmp_path / "log.csv", COLUMNS, 3, saved=saved)
    assert log.rows[2] == THREE[2] | {"loss": 0.333333}
    assert capsys.readouterr().out == ""


def test_a_column_that_the_checkpoint_has_not_is_unknown(tmp_path, capsys):
    saved = written(tmp_path / "log.csv")
    log = Log(tmp_path / "log.csv", (*COLUMNS, "new"), 3, saved=saved)
    assert log.rows[0]["loss"] == 1
    assert all(math.isnan(row["new"]) for row in log.rows)
    assert capsys.readouterr().out == ""


def test_added_rows_go_to_the_events_too(tmp_path):
    seen = []

    class Events:
        def scalars(self, group, row):
            seen.append((group, row))

    log = Log(tmp_path / "scores.csv", COLUMNS, epoch=0, events=Events())
    log.add({"epoch": 1, "step": 4, "loss": 0.123456789})
    assert seen == [("scores", {"epoch": 1, "step": 4, "loss": 0.123457})]


def test_opening_for_mere_reading_writes_nothing(tmp_path):
    path = tmp_path / "log.csv"
    Log(path, COLUMNS, epoch=0)
    assert not path.exists()
    path.write_bytes(b"epoch;step;loss\n1;4;0,5\n")
    os.utime(path, ns=(1, 1))
    assert Log(path, COLUMNS, epoch=1).rows == ROWS[:1]
    assert path.stat().st_mtime_ns == 1


# ---- what spreadsheets make of them --------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"epoch,step,loss\r\n1,4,0.5\r\n2,8,-1.25e-05\r\n",
        b"epoch;step;loss\r\n1;4;0,5\r\n2;8;-1,25E-05\r\n",
        b"epoch\tstep\tloss\n1\t4\t0,5\n2\t8\t-1.25e-05\n",
        "epoch\tstep\tloss\r\n1\t4\t0,5\r\n2\t8\t-1,25E-05\r\n".encode("utf-16"),
        "\ufeffepoch\tstep\tloss\r\n1\t4\t0.5\r\n2\t8\t-1.25e-05\r\n".encode("utf-16-be"),
        "epoch;step;loss\n1;4;0.5\n2;8;-1.25e-05\n".encode("utf-8-sig"),
        b"sep=;\nepoch;step;loss\n1;4;0.5\n2;8;-1.25e-05\n",
        b'"epoch","step","loss"\n"1","4","0,5"\n"2","8","-1,25e-05"\n',
        b'"epoch,step,loss"\n"1,4,0.5"\n"2,8,-1.25e-05"\n',
        b"loss,epoch,step\n0.5,1,4\n-1.25e-05,2,8\n",
        b"epoch,step,loss,,\n1,4,0.5,,\n2,8,-1.25e-05,,\n,,,,\n\n",
        b"'epoch,step,loss\n1,4,'0.5\n2.0,8,'-1.25e-05\n",
        b'epoch,step,loss\n1,4,0.5"\n2,"8,-1.25e-05\n',
        b"epoch,step,loss\r1,4,0.5\r2,8,-1.25e-05\r",
        b" epoch , step , loss \n2, 8, -1.25e-05\n1, 4, 0.5\n",
    ],
)
def test_it_is_read_as_a_spreadsheet_saves_it(content, tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    log = Log(path, COLUMNS, epoch=2)
    assert log.rows == ROWS
    assert [type(row["epoch"]) for row in log.rows] == [int, int]
    assert sorted(read_log(path, 2), key=lambda row: row["epoch"]) == ROWS
    assert path.read_bytes() == content
    log.add({"epoch": 3, "step": 12, "loss": 1.5})
    log.write()
    lines = path.read_text().splitlines()
    assert lines == ["epoch,step,loss", "1,4,0.5", "2,8,-1.25e-05", "3,12,1.5"]
    assert os.listdir(tmp_path) == ["log.csv"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "rows", "reason"),
    [
        (b"epoch,step,loss\n1,4,01. Mai\n2,8,-1.25e-05\n", ROWS[1:], "'01. Mai' is no number of"),
        (b"epoch;step;loss\n1;4;1.234,5\n2;8;-1,25e-05\n", ROWS[1:], "'1.234,5' is no number of"),
        (b"epoch,step,loss\n1,4,0,5\n2,8,-1.25e-05\n", ROWS[1:], "line 2: 4 cells, not 3"),
        (b'epoch,step,loss\n1,4,0.5\n"2,8,0,5\n', ROWS[:1], "line 3: 4 cells, not 3"),
        (b"1,4,0.5\n2,8,-1.25e-05\n", [], "no column is called epoch"),
        (b"step,loss\n4,0.5\n", [], "no column is called epoch"),
        (b"epoch,step,step,loss\n1,4,4,0.5\n", [], "two of its columns have one name"),
        (b"epoch,step,loss\n1,4,0.5\n1,4,0.5\n", ROWS[:1], "line 3: epoch 1 stands there twice"),
        (b"epoch,step,loss\n1,4,0.5\n1.5,4,0.5\n", ROWS[:1], "'1.5' is no number of column epoch"),
        (b"epoch,step,loss\n1,4,0.5\nnan,4,0.5\n", ROWS[:1], "'nan' is no number of column epoch"),
        (b"epoch,step,loss\n1,4,0.5\n2,8,-1.2", ROWS[:1], "line 3 has no end, and its last number"),
        (b"\0" * 90, [], "no column is called epoch"),
    ],
)
def test_what_cannot_be_read_is_kept_and_said(content, rows, reason, tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    log = Log(path, COLUMNS, epoch=2)
    assert log.rows == rows
    assert (tmp_path / "log.old1.csv").read_bytes() == content
    said = capsys.readouterr().out
    assert reason in said
    assert "it is kept as log.old1.csv, and a new one begins with the" in said
    assert Log(path, COLUMNS, epoch=2).rows == rows  # the new one is whole
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "log.old1.csv"]


def test_it_is_kept_before_anything_is_written(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,step,loss\n1,4,?\n")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_csv", full)
    with pytest.raises(OSError, match="No space"):
        Log(path, COLUMNS, epoch=2)
    assert (tmp_path / "log.old1.csv").read_bytes() == b"epoch,step,loss\n1,4,?\n"


def test_a_column_that_lacks_is_empty_and_one_beside_ours_stays(tmp_path, capsys):
    path = tmp_path / "scores.csv"
    path.write_text("epoch,note,loss,old\n1,good,0.5,7\n2,,,\n3,later,1,\n")
    log = Log(path, COLUMNS, epoch=2)
    assert [row["loss"] for row in log.rows][:1] == [0.5]
    assert all(math.isnan(row["step"]) for row in log.rows)
    log.add({"epoch": 3, "step": 12, "loss": 1.5})
    log.write()
    assert path.read_text().splitlines() == [
        *("epoch,step,loss,note,old", "1,nan,0.5,good,7", "2,nan,nan,,", "3,12,1.5,,"),
    ]
    assert [list(row) for row in read_log(path, 9)] == [["epoch", "step", "loss", "old"]] * 3
    assert capsys.readouterr().out == ""


def test_gaps_are_said(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("epoch,step,loss\n1,4,0.5\n2,8,1\n")
    Log(path, COLUMNS, epoch=2, every=True)
    assert capsys.readouterr().out == ""
    Log(path, COLUMNS, epoch=3, every=True)
    assert "log.csv lacks the row of epoch 3: the run goes on" in capsys.readouterr().out
    path.unlink()
    Log(path, COLUMNS, epoch=3, every=True)
    assert "log.csv lacks the 3 rows of epoch 1 to 3: the run goes on" in capsys.readouterr().out


def test_only_regular_files_are_read(tmp_path, capsys):
    path = tmp_path / "log.csv"
    os.mkfifo(path)
    assert read_log(path, 9) == []
    assert Log(path, COLUMNS, epoch=2).rows == []
    assert "it is no regular file" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "log.old1.csv"]
    path.unlink()
    path.mkdir()
    Log(path, COLUMNS, epoch=2)
    assert (tmp_path / "log.old2.csv").is_dir()
    path.unlink()
    path.symlink_to(tmp_path / "other.csv")
    (tmp_path / "other.csv").write_text("epoch,step,loss\n1,4,0.5\n2,8,1\n")
    log = Log(path, COLUMNS, epoch=1)
    assert log.rows == ROWS[:1]
    assert len((tmp_path / "other.csv").read_text().splitlines()) == 3  # not written through
    assert not path.is_symlink()
