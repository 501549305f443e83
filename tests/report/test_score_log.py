"""The best epoch of a run: never replaced by a worse one, whatever is lost or damaged."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from soundgan.evaluation.scores import SCORES
from soundgan.models.loading import packed, unpacked
from soundgan.report import score_log
from soundgan.report.score_log import ScoreLog, best_of, keep_best
from soundgan.settings import Config
from soundgan.training.log import Log

COLUMNS = ("epoch", *SCORES)


def weights_of(epoch: int) -> bytes:
    about = {"recipe": "best", "epoch": epoch, "step": 4 * epoch}
    return packed({"weight": torch.full((3,), float(epoch))}, about)


def score(run_dir: Path, epoch: int, kernel: float | None) -> Log:
    """What is kept and logged of one scoring."""
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run_dir / "checkpoints" / "last.pt").write_bytes(b"state %d" % epoch)
    log = Log(run_dir / "scores.csv", COLUMNS, epoch)
    keep_best(run_dir, log, epoch, kernel, weights_of(epoch))
    row = dict.fromkeys(COLUMNS, math.nan) | {"epoch": epoch}
    log.add(row | {"kernel": math.nan if kernel is None else kernel})
    log.write()
    return log


def best(run_dir: Path) -> tuple[int, float]:
    """Which epoch the best weights are of, by themselves, and their distance."""
    state, about = unpacked((run_dir / "best.safetensors").read_bytes())
    assert float(state["weight"][0]) == about["epoch"]
    assert (run_dir / "checkpoints" / "best.pt").read_bytes() == b"state %d" % about["epoch"]
    return about["epoch"], about["kernel"]


def test_the_least_distance_is_the_best(tmp_path):
    for epoch, kernel in ((2, 0.5), (4, 0.123456789), (6, 0.2)):
        log = score(tmp_path, epoch, kernel)
    assert best(tmp_path) == (4, 0.123457)
    assert best_of(tmp_path, log) == {"epoch": 4, "kernel": 0.123457}
    score(tmp_path, 4, 0.123456789)  # scored again: the same
    assert best(tmp_path) == (4, 0.123457)
    score(tmp_path, 8, 0.1)
    assert best(tmp_path) == (8, 0.1)


@pytest.mark.parametrize("content", [None, "", "epoch,kernel\n", "\0\0\0", "epoch;x\n2;1\n"])
def test_it_stays_when_its_history_is_lost(content, tmp_path):
    score(tmp_path, 2, 0.1)
    if content is None:
        (tmp_path / "scores.csv").unlink()
    else:
        (tmp_path / "scores.csv").write_text(content)
    log = score(tmp_path, 4, 0.2)
    assert best(tmp_path) == (2, 0.1)
    assert best_of(tmp_path, log) == {"epoch": 2, "kernel": 0.1}


def test_it_stays_when_a_spreadsheet_saved_the_scores(tmp_path):
    score(tmp_path, 2, 0.1)
    path = tmp_path / "scores.csv"
    path.write_text(path.read_text().replace(",", ";").replace(".", ","))
    (tmp_path / "best.safetensors").write_bytes(weights_of(2))  # of an earlier version
    score(tmp_path, 4, 0.2)
    assert unpacked((tmp_path / "best.safetensors").read_bytes())[1]["epoch"] == 2
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["best.pt", "last.pt"]


def test_one_of_which_nothing_says_how_good_it_is_is_set_aside(tmp_path, capsys):
    score(tmp_path, 2, 0.1)
    (tmp_path / "scores.csv").unlink()
    (tmp_path / "best.safetensors").write_bytes(weights_of(2))  # of an earlier version
    score(tmp_path, 4, 0.2)
    assert best(tmp_path) == (4, 0.2)
    assert (tmp_path / "best.old1.safetensors").read_bytes() == weights_of(2)
    assert (tmp_path / "checkpoints" / "best.old1.pt").read_bytes() == b"state 2"
    assert "nothing says: it is kept as" in capsys.readouterr().out


@pytest.mark.parametrize("kernel", [None, math.nan])
def test_what_cannot_be_measured_is_never_the_best(kernel, tmp_path):
    log = score(tmp_path, 2, kernel)
    assert best_of(tmp_path, log) is None
    assert not (tmp_path / "best.safetensors").exists()
    score(tmp_path, 4, 0.3)
    log = score(tmp_path, 6, kernel)
    assert best(tmp_path) == (4, 0.3)
    assert best_of(tmp_path, log) == {"epoch": 4, "kernel": 0.3}
    assert math.isnan(log.rows[-1]["kernel"])


def test_scores_of_few_clips_are_valid_json(small: Config, monkeypatch, tmp_path):
    """None where nothing can be measured, and no best."""
    row = {"clips": 1, **dict.fromkeys(SCORES)}
    content = {"rows": {"generated": row, "training real": row}, "few": [], "notes": []}
    monkeypatch.setattr(score_log, "make_evaluator", lambda *_: None)
    monkeypatch.setattr(score_log.scores, "score", lambda *_: json.loads(json.dumps(content)))
    small.run_dir.mkdir(parents=True)
    scored = ScoreLog(small, None, None, None, torch.device("cpu"))
    for epoch in (1, 2):
        scored.write(None, epoch, epoch, weights_of(epoch))

    def refuse(text: str) -> None:
        raise AssertionError(text)

    text = (small.run_dir / "scores.json").read_text()
    written = json.loads(text, parse_constant=refuse)
    assert "best" not in written
    assert written["rows"]["generated"]["kernel"] is None
    assert [row["epoch"] for row in Log(small.run_dir / "scores.csv", COLUMNS, 9).rows] == [1, 2]


# ---- the rows ------------------------------------------------------------------------------------


def kept(cfg: Config, kernels: list[float]) -> bytes:
    """scores.csv with a row an epoch, and the same rows among the checkpoints; its content."""
    log = ScoreLog.open_log(cfg, 0)
    for epoch, kernel in enumerate(kernels, 1):
        log.add(dict.fromkeys(COLUMNS, math.nan) | {"epoch": epoch, "kernel": kernel})
    log.write()
    ScoreLog.keep_rows(cfg, log)
    return (cfg.run_dir / "scores.csv").read_bytes()


@pytest.mark.parametrize("damage", [b"3.25", None])
def test_rows_of_scores_are_those_that_were_made(small: Config, damage, capsys) -> None:
    whole = kept(small, [4.0, 3.5])
    path = small.run_dir / "scores.csv"
    if damage:
        path.write_bytes(whole.replace(b"3.5", damage))
    else:
        path.unlink()
    assert [row["kernel"] for row in ScoreLog.open_log(small, 2).rows] == [4.0, 3.5]
    assert str(path) in capsys.readouterr().out
    assert path.read_bytes() == whole
    assert (small.run_dir / "scores.old1.csv").exists() == (damage is not None)


def test_damaged_rows_among_the_checkpoints_are_not_gone_by(small: Config, capsys) -> None:
    whole = kept(small, [4.0, 3.5])
    path = small.run_dir / "checkpoints" / "scores.pt"
    path.write_bytes(path.read_bytes()[:-200])
    log = ScoreLog.open_log(small, 2)
    assert [row["kernel"] for row in log.rows] == [4.0, 3.5]
    assert "scores.pt is damaged" in capsys.readouterr().out
    ScoreLog.keep_rows(small, log)
    (small.run_dir / "scores.csv").unlink()
    assert len(ScoreLog.open_log(small, 2).rows) == 2
    assert (small.run_dir / "scores.csv").read_bytes() == whole


def test_rows_of_before_a_figure_was_added_are_gone_on_with(small: Config, monkeypatch) -> None:
    """scores.csv and the rows among the checkpoints lack it: it is empty there, and they stay."""
    older = tuple(name for name in SCORES if not name.startswith("auc"))
    monkeypatch.setattr(score_log.scores, "SCORES", older)
    kept(small, [4.0, 3.5])
    monkeypatch.undo()
    log = ScoreLog.open_log(small, 2)
    assert [(row["epoch"], row["kernel"]) for row in log.rows] == [(1, 4.0), (2, 3.5)]
    assert all(math.isnan(row["auc"]) for row in log.rows)
    log.add(dict.fromkeys(COLUMNS, 0.5) | {"epoch": 3})
    log.write()
    ScoreLog.keep_rows(small, log)
    again = ScoreLog.open_log(small, 3)
    assert [row["auc"] for row in again.rows][2] == 0.5
    assert [row["kernel"] for row in again.rows] == [4.0, 3.5, 0.5]
    assert not (small.run_dir / "scores.old1.csv").exists()
    assert (small.run_dir / "scores.csv").read_text().splitlines()[0].split(",") == [*COLUMNS]


def test_a_run_that_goes_back_has_no_later_rows(small: Config) -> None:
    kept(small, [4.0, 3.5])
    ScoreLog.keep_rows(small, ScoreLog.open_log(small, 1))
    (small.run_dir / "scores.csv").unlink()
    assert [row["epoch"] for row in ScoreLog.open_log(small, 9).rows] == [1]
