"""Steps that are captured and replayed: what of it can run without CUDA.

In place of a CUDA graph stands the work itself on the same fixed tensors; `test_cuda.py` has the
graphs.
"""

from __future__ import annotations

import pytest
import torch
from conftest import shrunk, weights

import config
import train
from soundgan.config_io import change
from soundgan.training import cuda_graph, distributed
from soundgan.training.optimisers import RMSprop


class Recorder:
    """Captures without computing, as CUDA does, and remembers what was asked of it."""

    def __init__(self, fails: bool = False) -> None:
        self.captured, self.replayed, self.fails = 0, 0, fails

    def __call__(self, work):
        self.captured += 1
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

        def replay():
            self.replayed += 1
            work()

        return replay


@pytest.fixture
def replaying(monkeypatch):
    """Makes training on the CPU go the way of CUDA; returns what captures."""

    def go(fails=False):
        recorder = Recorder(fails)
        monkeypatch.setattr(cuda_graph, "why_plain", lambda *_: "")
        monkeypatch.setattr(cuda_graph, "Graphs", lambda: recorder)
        return recorder

    return go


def trained(cfg):
    run = train.train(cfg)
    log = (cfg.run_dir / "log.csv").read_text().splitlines()
    seconds = log[0].split(",").index("seconds")
    rows = [[c for k, c in enumerate(row.split(",")) if k != seconds] for row in log]
    return weights(run.generator), weights(run.critic), rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kinds"), [("sn-wgan-gp", 1), ("frequency-quest", 2), ("best", 2)]
)
def test_replayed_training_is_the_same_training(name, kinds, sounds, tmp_path, replaying):
    cfg = shrunk(config.RECIPES[name], sounds, tmp_path / "plain")
    cfg = change(cfg, {"optimiser.critic_steps": 2, "epochs": 5})
    plain = trained(cfg)
    recorder = replaying()
    replayed = trained(change(cfg, {"output_dir": str(tmp_path / "replayed")}))
    assert recorder.captured == kinds
    assert recorder.replayed == 5 * 4 - kinds * cuda_graph.WARM_UPS
    for a, b in zip(plain, replayed):
        assert a == b if isinstance(a, list) else torch.equal(a, b)


@pytest.mark.slow
def test_a_run_changes_from_plain_to_replayed_steps(small, replaying, tmp_path):
    plain = trained(small)
    other = change(small, {"output_dir": str(tmp_path / "other")})
    trained(change(other, {"epochs": 2}))
    replaying()
    for a, b in zip(plain, trained(other)):
        assert a == b if isinstance(a, list) else torch.equal(a, b)


@pytest.mark.slow
def test_where_nothing_can_be_captured_steps_go_on(small, replaying, tmp_path, capsys):
    plain = trained(small)
    recorder = replaying(fails=True)
    other = trained(change(small, {"output_dir": str(tmp_path / "other")}))
    assert recorder.captured == 1  # and it is not tried again
    for a, b in zip(plain, other):
        assert a == b if isinstance(a, list) else torch.equal(a, b)
    said = capsys.readouterr().out
    assert "(operation not permitted when stream is capturing)" in said
    assert "--no-graph" in said


@pytest.mark.slow
def test_a_capture_that_fails_half_way_leaves_nothing_behind(
    small, replaying, tmp_path, capsys, monkeypatch
):
    """In the generator's step, where the critic is frozen; and the end of the capture fails too."""
    plain = trained(small)
    recorder = replaying()

    def broken(work):
        recorder.captured += 1
        with pytest.MonkeyPatch.context() as patch:  # as with CUDA, nothing is computed
            patch.setattr(train, "critic_step", lambda *_: torch.zeros(4))
            patch.setattr(train, "generator_step", half)
            noise = torch.get_rng_state()
            try:
                work()
            except RuntimeError as error:
                torch.set_rng_state(noise)
                raise RuntimeError("operation failed due to a previous error") from error

    def half(run, *_):
        run.critic.requires_grad_(False)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "Graphs", lambda: broken)
    other = trained(change(small, {"output_dir": str(tmp_path / "other")}))
    assert recorder.captured == 1
    assert "(operation not permitted when stream is capturing)" in capsys.readouterr().out
    for a, b in zip(plain, other):
        assert a == b if isinstance(a, list) else torch.equal(a, b)


def test_a_graph_finds_each_batch_where_the_first_one_was(monkeypatch):
    monkeypatch.setattr(cuda_graph, "Graphs", lambda: lambda work: work)
    seen = []
    work = lambda x, labels: seen.append((x, x.sum().item(), labels.tolist()))  # noqa: E731
    steps = cuda_graph.GraphedSteps(work, (2, 1), torch.device("cpu"))
    for number in range(6):
        steps(torch.full((2, 1), float(number)), torch.full((2,), number), kind=True)
    assert [(total, labels) for _, total, labels in seen] == [(2.0 * n, [n, n]) for n in range(6)]
    assert all(x is steps.batch[0] for x, *_ in seen[cuda_graph.WARM_UPS :])


def test_why_steps_are_plain(small, monkeypatch):
    cuda = torch.device("cuda")
    assert cuda_graph.why_plain(small, torch.device("cpu"))
    assert cuda_graph.why_plain(small, cuda) == ""
    assert "graph = False" in cuda_graph.why_plain(change(small, {"graph": False}), cuda)
    half = change(small, {"optimiser.precision": "fp16"})
    assert cuda_graph.why_plain(half, cuda) == ""
    rmsprop = RMSprop(generator_lr=1e-3, critic_lr=1e-3, precision="fp16")
    assert "RMSprop" in cuda_graph.why_plain(change(half, {"optimiser": rmsprop}), cuda)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    assert "ranks" in cuda_graph.why_plain(small, cuda)


def test_every_recipe_is_captured_or_says_why():
    plain = {
        n for n, cfg in config.RECIPES.items() if cuda_graph.why_plain(cfg, torch.device("cuda"))
    }
    assert plain == set()
