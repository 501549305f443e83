"""When samples and scores are due: made-up histories, exact epochs, and runs that were killed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from conftest import stop_after, weights

import train
from soundgan import run_folder
from soundgan.config_io import change
from soundgan.errors import Interrupted, UserError
from soundgan.evaluation import classifier, metrics
from soundgan.report import messages, pace, process
from soundgan.report.pace import SAMPLES, SCORES, Pace, is_always_due, most
from soundgan.report.recorder import Recorder
from soundgan.report.reporter import Reporter, Snapshot
from soundgan.settings import Config
from soundgan.training import checkpoints
from soundgan.training.checkpoints import find_checkpoint, misfit_of_pace
from soundgan.training.log import read_log
from soundgan.training.run import Run

AUTO = {"sample_every": "auto", "score_every": "auto"}


def simulate(
    cfg: Config, seconds: float, a_set: float, scorings: Iterator[float], at_once: bool = True
) -> dict[str, list[int]]:
    """The epochs that get each part; costs are known at once, or after all else in between."""
    own, made = Pace(cfg), {SAMPLES: [], SCORES: []}
    for epoch in range(1, cfg.epochs + 1):
        own.add_epoch(seconds)
        for part in own.due(epoch):
            made[part].append(epoch)
            own.add_cost(part, a_set if part == SAMPLES else next(scorings))
    return made


# ---- made-up histories ---------------------------------------------------------------------------


def test_a_run_of_40_seconds_does_not_wait_for_what_takes_longer(default: Config) -> None:
    """As on a GPU: two sets of a second, and one scoring, of 39 s of training."""
    cfg = change(default, {**AUTO, "epochs": 300})
    made = simulate(cfg, 0.13, 1.0, repeat(20.0))
    assert made == {SAMPLES: [1, 300], SCORES: [300]}
    # Two sets are a 3 % share of 66.7 s: epoch 513, so 520. Three are one of 100 s: 770. The first
    # scoring is expected to take 60 s, 7 % of 857 s, which 3000 epochs do not reach.
    made = simulate(change(cfg, {"epochs": 3000}), 0.13, 1.0, repeat(20.0))
    assert made[SAMPLES] == [1, 520, 770, 1030, 1290, 1540, 1800, 2060, 2310, 2570, 2830, 3000]
    assert made[SCORES] == [3000]


def test_a_run_of_two_hours_has_sets_as_often_as_before(default: Config) -> None:
    """As on a CPU. The first scoring takes 180 s: then two of these are to be 7 %, after 5143 s.

    The next takes 60 s: 300 s are 7 % of 4286 s, which epoch 250 (5750 s) has.
    """
    cfg = change(default, {**AUTO, "epochs": 300})
    made = simulate(cfg, 23.0, 1.8, chain([180.0], repeat(60.0)))
    assert made[SAMPLES] == [1, *range(10, 301, 10)]
    assert made[SCORES] == [50, 224, 250, 300]


def test_long_epochs_have_each_a_set_and_a_scoring(default: Config) -> None:
    made = simulate(change(default, {**AUTO, "epochs": 6}), 7200.0, 1.8, repeat(180.0))
    assert made == {SAMPLES: [1, 2, 3, 4, 5, 6], SCORES: [1, 2, 3, 4, 5, 6]}
    # 100 s an epoch: a set after 600 s without one, and after each ten epochs.
    made = simulate(change(default, {**AUTO, "epochs": 24}), 100.0, 1.0, repeat(180.0))
    assert made[SAMPLES] == [1, 7, 10, 16, 20, 24]


def test_a_slow_vocoder_gets_no_more_than_its_share(default: Config) -> None:
    """Sets of 100 s beside epochs of 23 s: two of them are 3 % of 6667 s, which is epoch 290."""
    made = simulate(change(default, {**AUTO, "epochs": 300}), 23.0, 100.0, repeat(60.0))
    assert made[SAMPLES] == [1, 290, 300]


@pytest.mark.parametrize("seconds", [0.01, 1.0, 23.0, 500.0])
@pytest.mark.parametrize("cost", [0.5, 10.0, 200.0])
def test_all_in_between_stay_within_their_shares(
    default: Config, seconds: float, cost: float
) -> None:
    cfg = change(default, {**AUTO, "epochs": 1000})
    own, spent = Pace(cfg), {SAMPLES: 0.0, SCORES: 0.0}
    for epoch in range(1, cfg.epochs):
        own.add_epoch(seconds)
        for part in own.due(epoch):
            own.add_cost(part, cost)
            spent[part] += cost
            share = {SAMPLES: pace.SAMPLE_SHARE, SCORES: pace.SCORE_SHARE}[part]
            first = part == SAMPLES and epoch == 1
            assumed = part == SCORES and spent[part] == cost  # it may take more than was assumed
            assert first or assumed or spent[part] <= share * own.trained


def test_numbers_of_epochs_mean_what_they_always_meant(default: Config) -> None:
    """Whatever the time: multiples, the last, and samples of the first; 0 scores: never."""
    cfg = change(default, {"epochs": 25, "sample_every": 10, "score_every": 10})
    for seconds in (1e-3, 1e4):
        made = simulate(cfg, seconds, 100.0, repeat(1000.0))
        assert made == {SAMPLES: [1, 10, 20, 25], SCORES: [10, 20, 25]}
    assert simulate(change(cfg, {"score_every": 0}), 1e4, 1.0, repeat(1.0))[SCORES] == []
    mixed = change(cfg, {"sample_every": "auto", "score_every": 5})
    made = simulate(mixed, 1e-3, 1.0, repeat(1.0))
    assert made == {SAMPLES: [1, 25], SCORES: [5, 10, 15, 20, 25]}
    assert not is_always_due(cfg, SAMPLES, 0)


def test_what_is_still_made_puts_off_what_comes_in_between(default: Config) -> None:
    """Nobody knows what it costs, and training would wait for it. First and last are due anyway."""
    own = Pace(change(default, {**AUTO, "epochs": 30}), trained=1e6)
    assert own.due(1, busy=True) == [SAMPLES]
    assert own.due(10, busy=True) == []
    assert own.due(10) == []  # it was decided
    assert own.due(20) == [SAMPLES, SCORES]  # an hour without scores
    assert own.due(30, busy=True) == [SAMPLES, SCORES]


def test_how_often_at_most(default: Config) -> None:
    """What the dry run says is what happens where nothing costs anything."""
    for changes in (AUTO, {"sample_every": 7, "score_every": 20}, {"sample_every": 10**9}):
        for epochs in (1, 20, 299, 300):
            cfg = change(default, {**changes, "epochs": epochs})
            made = simulate(cfg, 1e4 / 300, 0.0, repeat(0.0))
            for first in (1, 2, 10, 11, 300, 301):
                for part in (SAMPLES, SCORES):
                    known = sum(epoch >= first for epoch in made[part])
                    here = most(cfg, part, first, 1e4 / 300)
                    assert here >= known
                    if pace.every(cfg, part) != "auto":
                        assert here == known
    auto = change(default, {**AUTO, "epochs": 300})
    assert [most(auto, part, 1, 23.0) for part in (SAMPLES, SCORES)] == [31, 6]
    assert [most(auto, part, 291, 0.1) for part in (SAMPLES, SCORES)] == [1, 1]
    assert [most(auto, part, 1, 7200.0) for part in (SAMPLES, SCORES)] == [300, 300]
    assert most(change(default, {"score_every": 0}), SCORES, 1, 23.0) == 0
    assert most(change(default, {"epochs": 10**12}), SAMPLES, 1, 0.1) == 10**11 + 1


# ---- what a checkpoint holds ---------------------------------------------------------------------


def test_a_pace_goes_on_as_it_was(default: Config) -> None:
    cfg = change(default, {**AUTO, "epochs": 300})
    own, scorings, before = Pace(cfg), chain([180.0], repeat(60.0)), {SAMPLES: [], SCORES: []}
    for epoch in range(1, 301):
        own.add_epoch(23.0)
        for part in own.due(epoch):
            before[part].append(epoch)
            own.add_cost(part, 1.8 if part == SAMPLES else next(scorings))
        # Killed and continued after each epoch, and mid-way asked once more.
        own = Pace.restore(cfg, epoch, [23.0] * epoch, own.state())
    assert before == {SAMPLES: [1, *range(10, 301, 10)], SCORES: [50, 224, 250, 300]}


def test_what_was_decided_is_not_decided_again(default: Config) -> None:
    cfg = change(default, {**AUTO, "epochs": 300})
    own = Pace(cfg, trained=1e5)
    assert own.due(50) == [SAMPLES, SCORES]
    again = Pace.restore(cfg, 50, [1.0], own.state())  # by the time, there would be nothing
    assert again.due(50) == [SAMPLES, SCORES]
    assert again.due(100) == [SAMPLES]  # nothing is known to cost anything
    # Numbers of epochs count as they are now, and a last epoch has all.
    explicit = change(cfg, {"sample_every": 20, "score_every": 0})
    assert Pace.restore(explicit, 50, [], own.state()).due(50) == []
    assert Pace.restore(explicit, 60, [], own.state()).due(60) == [SAMPLES]
    assert Pace.restore(change(cfg, {"epochs": 60}), 60, [], Pace(cfg).state()).due(60) == [
        SAMPLES,
        SCORES,
    ]


def test_a_checkpoint_of_an_older_version_starts_at_nothing(default: Config) -> None:
    cfg = change(default, {**AUTO, "epochs": 300})
    old = Pace.restore(cfg, 50, [2.0, float("nan"), 3.0], None)
    assert (old.trained, old.costs, old.last, old.due_at) == (5.0, {}, {}, {})
    assert old.due(50) == [SAMPLES, SCORES]  # what it made then, or did not get to
    assert Pace.restore(cfg, 49, [], None).due(49) == []
    assert Pace.restore(cfg, 0, [], None).due(0) == []


def test_what_was_made_after_the_checkpoint_counts_as_the_last_one(default: Config) -> None:
    own = Pace(change(default, AUTO))
    own.add_cost(SAMPLES, 4.0)
    own.add_cost(SAMPLES, 2.0)
    own.add_unknown(SAMPLES)
    own.add_unknown(SCORES)
    assert own.costs == {SAMPLES: 8.0, SCORES: pace.FIRST_SCORING}
    assert own.last == {SAMPLES: 2.0}


def test_what_a_checkpoint_may_hold_of_it(default: Config) -> None:
    good = Pace(default).state()
    assert misfit_of_pace(None) == misfit_of_pace(good) == ""
    for bad, why in (
        (3, "it is no table"),
        ({"due": []}, "it is no table"),
        (good | {"due": [1]}, "due: it is no list of texts"),
        (good | {"costs": {"samples": -1.0}}, "costs: it is no table of numbers from 0 up"),
        (good | {"last": {"scores": float("nan")}}, "last: it is no table of numbers from 0 up"),
        (good | {"at": 1.0}, "at: it is no table of numbers from 0 up"),
    ):
        assert misfit_of_pace(bad) == why


# ---- what is said --------------------------------------------------------------------------------


def test_how_often_is_said_where_a_constant_is_auto(default: Config) -> None:
    assert messages.how_often(change(default, AUTO)) == (
        "There are sounds every 10 epochs or 10 min and scores every 50 epochs or 60 min; later "
        "where that would take more than 10 % of the time (--sample-every N, --score-every N: "
        "every N epochs)."
    )
    assert messages.how_often(change(default, {"sample_every": 5})) == (
        "There are scores every 50 epochs or 60 min; later where that would take more than 7 % of "
        "the time (--score-every N: every N epochs)."
    )
    assert messages.how_often(change(default, {"score_every": 0})) == (
        "There are sounds every 10 epochs or 10 min; later where that would take more than 3 % of "
        "the time (--sample-every N: every N epochs)."
    )
    assert messages.how_often(change(default, {"sample_every": 5, "score_every": 0})) == ""


def test_a_scoring_that_is_put_off_is_said_with_the_reason(default: Config) -> None:
    own = Pace(change(default, {**AUTO, "sample_every": 1000}), trained=6.5)
    assert own.due(50) == []
    assert own.is_put_off(SCORES)
    assert messages.scores_put_off(own) == (
        "The scores of epoch 50 are put off until 14.3 min are trained, at the latest to the last "
        "epoch: a scoring is expected to take 60 s, and they may take 7 % of the time (SCORE_SHARE "
        "in soundgan/report/pace.py; --score-every 50: every 50 epochs)."
    )
    own.add_cost(SCORES, 30.0)
    own.add_cost(SCORES, 20.0)
    assert own.due(100) == []
    assert messages.scores_put_off(own) == (
        "The scores of epoch 100 are put off until 16.7 min are trained, at the latest to the last "
        "epoch: scorings have taken 50 s so far, the last one 20 s, and they may take 7 % of the "
        "time (SCORE_SHARE in soundgan/report/pace.py; --score-every 50: every 50 epochs)."
    )
    own.due(101)
    assert not own.is_put_off(SCORES)  # it would have none anyway
    assert not Pace(change(default, {"score_every": 0}), epoch=50).is_put_off(SCORES)
    assert messages.scoring(150, 61.2) == "Scoring epoch 150: the last scoring took 61 s."


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.fixture
def often(small: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Four epochs, samples by time: after each second epoch, where nothing is too dear."""
    monkeypatch.setattr(pace, "SAMPLE_EPOCHS", 2)
    monkeypatch.setattr(pace, "SCORE_EPOCHS", 2)
    monkeypatch.setattr(pace, "SAMPLE_SHARE", 1e9)
    monkeypatch.setattr(classifier, "STEPS", 20)
    monkeypatch.setattr(classifier, "SEEDS", (0,))
    monkeypatch.setattr(metrics, "BOOTSTRAP", 20)
    return change(small, {"sample_every": "auto", "score_clips": 4})


def sets_of(cfg: Config) -> list[int]:
    return [epoch for _, epoch in run_folder.sets_of(cfg.run_dir)]


def at_prices(monkeypatch: pytest.MonkeyPatch, prices: dict[str, float]) -> None:
    """Have each part cost so many seconds, whatever it takes."""
    real = process._seconds_of

    def priced(worker: Reporter, part: str, content: Snapshot) -> float:
        real(worker, part, content)
        return prices[part]

    monkeypatch.setattr(process, "_seconds_of", priced)


@pytest.mark.slow
def test_what_is_made_changes_nothing_that_is_trained(
    small: Config, often: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train.train(change(small, {"output_dir": str(tmp_path / "whole")}))
    run = train.train(often)
    assert sets_of(often) == [1, 2, 4]
    monkeypatch.setattr(pace, "SAMPLE_SHARE", 1e-9)
    fewer = change(often, {"output_dir": str(tmp_path / "fewer")})
    other = train.train(fewer)
    assert sets_of(fewer) == [1, 4]
    for one in (run, other):
        assert torch.equal(weights(one.generator), weights(whole.generator))
        assert torch.equal(weights(one.critic), weights(whole.critic))


@pytest.mark.slow
def test_costs_are_measured_and_kept(
    often: Config, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "SCORE_SHARE", 1e9)
    at_prices(monkeypatch, {SAMPLES: 2.5, SCORES: 30.0})
    cfg = change(often, {"score_every": "auto"})
    train.train(cfg)
    assert [row["epoch"] for row in read_log(cfg.run_dir / "scores.csv", 9)] == [2, 4]
    saved = find_checkpoint(cfg.run_dir).state["pace"]  # before what epoch 4 has
    assert saved["due"] == [SAMPLES, SCORES]
    assert saved["costs"] == {SAMPLES: 5.0, SCORES: 30.0}
    assert saved["last"] == {SAMPLES: 2.5, SCORES: 30.0}
    seconds = [row["seconds"] for row in read_log(cfg.run_dir / "log.csv", 9)]
    assert saved["at"] == {part: pytest.approx(sum(seconds)) for part in (SAMPLES, SCORES)}
    said = capsys.readouterr().out
    assert "Scoring epoch 4: the last scoring took 30 s." in said
    assert "Scoring epoch 2" not in said
    assert "There are sounds every 2 epochs or 10 min and scores every 2 epochs" in said
    train.train(change(cfg, {"epochs": 6}))  # which knows them
    saved = find_checkpoint(cfg.run_dir).state["pace"]
    assert saved["costs"] == {SAMPLES: 7.5, SCORES: 60.0}


def test_costs_are_counted_once_however_often_a_run_is_stopped(
    often: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the epoch after a set: 4 steps an epoch, stopped after steps 5 and 6."""
    at_prices(monkeypatch, {SAMPLES: 2.5})
    for step in (5, 1):
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            with pytest.raises(Interrupted):
                train.train(often)
        saved = find_checkpoint(often.run_dir).state
        assert (saved["epoch"], saved["pace"]["costs"]) == (1, {SAMPLES: 2.5})
    assert saved["step_in_epoch"] == 2


def test_one_line_says_that_scores_are_put_off(
    often: Config, capsys: pytest.CaptureFixture
) -> None:
    cfg = change(often, {"epochs": 6, "score_every": "auto"})
    train.train(cfg)
    said = capsys.readouterr().out
    assert said.count("are put off") == 1
    assert "The scores of epoch 2 are put off until 14.3 min are trained" in said
    assert [row["epoch"] for row in read_log(cfg.run_dir / "scores.csv", 9)] == [6]


@pytest.mark.parametrize("part", [SAMPLES, SCORES])
def test_a_run_that_was_killed_makes_what_it_had_decided(
    part: str, often: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the time says then."""
    monkeypatch.setattr(pace, "SCORE_SHARE", 1e9)
    cfg, real = change(often, {"score_every": "auto"}), Reporter.do

    class Killed(BaseException):
        pass

    def killed(self: Reporter, own: str, snapshot: Snapshot) -> None:
        if (own, snapshot.epoch) == (part, 2):
            raise Killed
        real(self, own, snapshot)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "do", killed)
        with pytest.raises(Killed):
            train.train(cfg)
    kept = find_checkpoint(cfg.run_dir).state
    assert (kept["epoch"], kept["pace"]["due"]) == (2, [SAMPLES, SCORES])
    monkeypatch.setattr(pace, "SAMPLE_SHARE", 1e-9)
    monkeypatch.setattr(pace, "SCORE_SHARE", 1e-9)
    train.train(cfg)
    assert sets_of(cfg) == [1, 2, 4]
    assert [row["epoch"] for row in read_log(cfg.run_dir / "scores.csv", 9)] == [2, 4]


@pytest.mark.slow
def test_a_checkpoint_stands_before_a_set_that_time_decided(
    often: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a number of epochs it need not: there, who continues knows what is due."""
    before, submit = [], Recorder.submit

    def watched(self: Recorder, snapshot: Snapshot, parts: list[str]) -> None:
        kept = find_checkpoint(self.cfg.run_dir).state
        before.append((snapshot.epoch, kept["epoch"], kept["pace"]["due"]))
        submit(self, snapshot, parts)

    monkeypatch.setattr(Recorder, "submit", watched)
    cfg = change(often, {"epochs": 6})
    train.train(cfg)
    assert before == [(n, n, [SAMPLES]) for n in (1, 2, 4, 6)]
    before.clear()
    train.train(change(cfg, {"sample_every": 2, "run_name": "numbers"}))
    assert [(epoch, saved) for epoch, saved, _ in before] == [(1, 1), (2, 1), (4, 1), (6, 6)]


@pytest.mark.slow
def test_sets_after_an_older_checkpoint_are_made_again(
    often: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the newest is damaged: otherwise they would stay set aside for ever."""
    cfg = change(often, {"epochs": 6})
    train.train(cfg)
    assert sets_of(cfg) == [1, 2, 4, 6]
    folder = cfg.run_dir / "checkpoints"
    assert torch.load(folder / "previous.pt")["epoch"] == 4
    (folder / "last.pt").write_bytes(b"")
    first = next(iter((cfg.run_dir / "samples" / "epoch_0006").glob("*.wav")))
    content = first.read_bytes()
    monkeypatch.setattr(pace, "SAMPLE_SHARE", 1e-9)
    train.train(change(cfg, {"epochs": 8}))
    assert sets_of(cfg) == [1, 2, 4, 6, 8]
    assert first.read_bytes() == content
    assert not list(cfg.run_dir.glob("samples.old*"))


def test_a_checkpoint_whose_pace_is_none_is_refused(often: Config) -> None:
    train.train(change(often, {"epochs": 1}))
    state = find_checkpoint(often.run_dir).state
    checkpoints.save_checkpoint(often.run_dir, state | {"pace": {"due": "samples"}})
    with pytest.raises(UserError, match="pace: it is no table"):
        train.train(often)


def test_a_checkpoint_without_a_pace_goes_on(often: Config) -> None:
    train.train(change(often, {"epochs": 1}))
    state = find_checkpoint(often.run_dir).state
    del state["pace"]
    checkpoints.save_checkpoint(often.run_dir, state)
    train.train(often)
    assert sets_of(often) == [1, 2, 4]


@pytest.mark.slow
def test_a_worker_process_says_what_parts_cost(
    often: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is decided while it works waits for that."""
    cfg = change(often, {"background": "on", "epochs": 2})
    run = train.train(cfg)
    assert sets_of(cfg) == [1, 2]
    saved = find_checkpoint(cfg.run_dir).state["pace"]
    assert list(saved["costs"]) == [SAMPLES]
    assert 0 < saved["costs"][SAMPLES] == saved["last"][SAMPLES] < 60
    assert isinstance(run, Run)
