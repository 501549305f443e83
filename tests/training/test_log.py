"""Logs: what a run goes on with is what it left, whatever else is in the file."""

from __future__ import annotations

import math

from soundgan.training.log import Log, read_log

COLUMNS = ("epoch", "step", "loss")


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


def test_added_rows_go_to_the_events_too(tmp_path):
    seen = []

    class Events:
        def scalars(self, group, row):
            seen.append((group, row))

    log = Log(tmp_path / "scores.csv", COLUMNS, epoch=0, events=Events())
    log.add({"epoch": 1, "step": 4, "loss": 0.123456789})
    assert seen == [("scores", {"epoch": 1, "step": 4, "loss": 0.123457})]
