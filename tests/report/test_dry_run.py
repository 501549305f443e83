"""What `--dry-run` times: steps as training makes them."""

from __future__ import annotations

import pytest
import stubbed_cuda
from conftest import flags, shrunk

import config
import train
from soundgan.report import dry_run


@pytest.fixture
def cfg(sounds, tmp_path):
    """Two kinds of steps: each fifth updates the generator, too."""
    return shrunk(config.RECIPES["frequency-quest"], sounds, tmp_path / "outputs")


def time_of_step(cfg, graphed, monkeypatch):
    """What a dry run says that a step takes, by a clock that each replay puts on by 1 s and each
    plain or captured step by 100 s, by 1 000 s with the generator's part; and the driver."""
    clock, made, driver = [0.0], train.full_step, None
    if graphed:
        driver, replay = stubbed_cuda.stub(monkeypatch), stubbed_cuda.Graph.replay

        def replayed(graph):
            clock[0] += 1
            replay(graph)

        monkeypatch.setattr(stubbed_cuda.Graph, "replay", replayed)

    def step(run, *batch):
        clock[0] += 1000 if train.generator_due(run) else 100
        return made(run, *batch)

    said = []
    monkeypatch.setattr(train, "full_step", step)
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(dry_run, "report", lambda *arguments: said.append(arguments[-1]))
    dry_run.dry_run(cfg, train.start_or_continue, train.make_stepper, train.kind_of_step, False)
    return said[0], driver


def test_a_dry_run_times_plain_steps_where_training_makes_them(cfg, monkeypatch):
    seconds, _ = time_of_step(cfg, False, monkeypatch)
    assert seconds == pytest.approx((4 * 100 + 1000) / 5)


def test_a_dry_run_times_replays_where_there_is_a_graph(cfg, monkeypatch):
    seconds, driver = time_of_step(cfg, True, monkeypatch)
    assert seconds == pytest.approx(1)
    assert driver.captured == 2
    assert driver.replayed == 2 * (1 + dry_run.GPU_STEPS)


def test_a_dry_run_of_replays_that_diverges_says_so(small, capsys, monkeypatch):
    driver = stubbed_cuda.stub(monkeypatch)
    words = ["--optimiser.critic-lr", "1e30", "--optimiser.generator-lr", "1e30", "--dry-run"]
    assert train.main([*flags(small), *words]) == 3
    assert "became NaN or Inf" in capsys.readouterr().err
    assert driver.captured == 1
