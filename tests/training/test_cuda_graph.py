"""Steps that are captured and replayed: what of it can run without CUDA.

Below `torch.cuda.graph` lies `stubbed_cuda`, which replays the operations of a step on the same
tensors; `test_cuda.py` has the graphs themselves.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable

import one_step
import pytest
import stubbed_cuda
import torch
from conftest import shrunk, weights

import config
import train
from soundgan.config_io import change
from soundgan.training import cuda_graph, distributed
from soundgan.training.optimisers import RMSprop

CPU = torch.device("cpu")
VERSIONS = ("2.11", "2.14")  # of PyTorch, as far as the stub is concerned


def tiny(name, folder):
    """A recipe with all its parts, its kinds of steps and tiny numbers."""
    return change(shrunk(config.RECIPES[name], folder, folder), {"optimiser.critic_steps": 2})


# ---- one step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config.RECIPES)
def test_one_replayed_step_is_the_plain_one_bit_for_bit(name, tmp_path, monkeypatch):
    stubbed_cuda.stub(monkeypatch)
    scaled = config.RECIPES[name].optimiser.precision == "fp16"
    if scaled:  # a CPU computes in fp32 and needs no scaler, but can have one
        real = torch.amp.GradScaler
        monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: real("cpu"))
    rows = one_step.compare(tiny(name, tmp_path), CPU)
    kinds = {"frequency-quest": 2, "wavegan": 2, "best": 2}
    assert len({row["kind"] for row in rows}) == len(rows) == kinds.get(name, 1)
    for row in rows:
        assert row["captured"], row
        assert row["equal"], row
        assert row["repeats"], row
        assert row["noise"], row
        assert row["wrong"] == []
        assert {"generator", "critic", "sums", "critic_optimiser.step"} <= row["replayed"].keys()
        assert ("scaler" in row["replayed"]) == scaled
        assert ("average" in row["replayed"]) == (name == "best")


def replayed_by(monkeypatch, replay: Callable) -> None:
    """Let graphs be replayed by `replay(graph, real)`."""
    real = stubbed_cuda.Graph.replay
    monkeypatch.setattr(stubbed_cuda.Graph, "replay", lambda graph: replay(graph, real))


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("name", config.RECIPES)
def test_other_algorithms_are_told_from_other_steps(name, tmp_path, monkeypatch):
    """Convolutions without oneDNN round otherwise, by no more than the comparison allows."""
    stubbed_cuda.stub(monkeypatch)

    def other(graph, real):
        with torch.backends.mkldnn.flags(enabled=False):
            real(graph)

    replayed_by(monkeypatch, other)
    for row in one_step.compare(tiny(name, tmp_path), CPU):
        assert row["repeats"]
        assert row["noise"]
        assert row["wrong"] == [], {
            p: (row["replayed"][p], row["rounded"][p]) for p in row["wrong"]
        }
        assert not row["equal"]


def no_update_of_the_critic(graph, real):
    graph.operations.done = [o for o in graph.operations.done if not writes_most(o)]
    real(graph)


def writes_most(operation) -> bool:
    """Whether it is one of the updates with all weights of a network in one go."""
    func, args, *_ = operation
    return func._schema.name.startswith("aten::_fused_adam_") and len(args[0]) > 3


WRONG = {
    "nothing is computed": lambda graph, real: None,
    "no weight is updated": no_update_of_the_critic,
    "done twice": lambda graph, real: [real(graph), real(graph)],
}


@pytest.mark.parametrize("name", config.RECIPES)
@pytest.mark.parametrize("how", [*WRONG, "another batch", "other noise"])
def test_the_comparison_finds_what_is_wrong(how, name, tmp_path, monkeypatch):
    stubbed_cuda.stub(monkeypatch)
    if how == "no weight is updated" and name == "wavegan":
        pytest.skip("RMSprop updates by many small operations")
    if how in WRONG:
        replayed_by(monkeypatch, WRONG[how])
    real = cuda_graph.GraphedSteps.__call__

    def call(self, x, labels, kind):
        if kind in self.replays and how == "another batch":
            x = x.flip(0)
        if kind in self.replays and how == "other noise":
            torch.rand(3)
        real(self, x, labels, kind)

    monkeypatch.setattr(cuda_graph.GraphedSteps, "__call__", call)
    cfg = change(tiny(name, tmp_path), {"optimiser.precision": "fp32"})  # others hide much more
    for row in one_step.compare(cfg, CPU):
        assert row["captured"]
        assert not row["equal"]
        assert row["wrong"], row
        assert row["noise"] == (how in ("no weight is updated", "another batch"))


def test_a_step_that_reads_back_is_not_captured(tmp_path, monkeypatch, capsys):
    stubbed_cuda.stub(monkeypatch)
    real = train.generator_step
    monkeypatch.setattr(
        train, "generator_step", lambda run, x, labels: real(run, x * x.max().item(), labels)
    )
    (row,) = one_step.compare(tiny("sn-wgan-gp", tmp_path), CPU)
    assert not row["captured"]
    assert row["failed"] == "CUDA error: operation not permitted when stream is capturing"
    assert row["equal"]
    assert "No CUDA graph of a step of critic and generator (CUDA error" in capsys.readouterr().out


@pytest.mark.parametrize("name", config.RECIPES)
def test_nothing_of_a_step_outlives_it(name, tmp_path, monkeypatch):
    """Gradients are added up on the stream on which a weight was first used in a graph of autograd
    that still lives. If that were one of a plain step, it would be another than the capture's."""
    run, x, labels = one_step.a_run(tiny(name, tmp_path), CPU)
    leaves = [p for net in (run.generator, run.critic) for p in net.parameters()]
    seen = []

    def node(weight):
        with torch.enable_grad():
            return weight.view_as(weight).grad_fn.next_functions[0][0]

    real = torch.optim.Optimizer.zero_grad

    def mark(optimiser, set_to_none=True):  # after a forward pass, before its backward pass
        for weight in itertools.chain(*(group["params"] for group in optimiser.param_groups)):
            node(weight).metadata["used"] = True
            seen.append("used" in node(weight).metadata)
        real(optimiser, set_to_none)

    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", mark)
    gc.collect()
    gc.disable()  # nor may it take the garbage collector to end it
    try:
        for step in one_step.kinds_of_steps(run).values():
            run.step = step
            train.full_step(run, x, labels)
        assert any(seen)  # there were such nodes
        assert not any(node(weight).metadata for weight in leaves if weight.requires_grad)
    finally:
        gc.enable()


# ---- whole runs ----------------------------------------------------------------------------------


def trained(cfg):
    run = train.train(cfg)
    log = (cfg.run_dir / "log.csv").read_text().splitlines()
    seconds = log[0].split(",").index("seconds")
    rows = [[c for k, c in enumerate(row.split(",")) if k != seconds] for row in log]
    return weights(run.generator), weights(run.critic), rows


def assert_same(runs, others):
    for a, b in zip(runs, others):
        assert a == b if isinstance(a, list) else torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kinds"), [("sn-wgan-gp", 1), ("frequency-quest", 2), ("best", 2)]
)
def test_replayed_training_is_the_same_training(name, kinds, sounds, tmp_path, monkeypatch):
    cfg = shrunk(config.RECIPES[name], sounds, tmp_path / "plain")
    cfg = change(cfg, {"optimiser.critic_steps": 2, "epochs": 5})
    plain = trained(cfg)
    driver = stubbed_cuda.stub(monkeypatch)
    assert_same(plain, trained(change(cfg, {"output_dir": str(tmp_path / "replayed")})))
    assert driver.captured == kinds
    assert driver.replayed == 5 * 4 - kinds * cuda_graph.WARM_UPS


@pytest.mark.slow
def test_a_run_changes_from_plain_to_replayed_steps(small, tmp_path, monkeypatch):
    plain = trained(small)
    other = change(small, {"output_dir": str(tmp_path / "other")})
    trained(change(other, {"epochs": 2}))
    driver = stubbed_cuda.stub(monkeypatch)
    assert_same(plain, trained(other))
    assert driver.replayed


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_capture_that_fails_half_way_leaves_nothing_behind(
    version, small, tmp_path, capsys, monkeypatch
):
    """In the generator's step, where the critic is frozen; the end of the capture fails too."""
    plain = trained(small)
    driver = stubbed_cuda.stub(monkeypatch, version)
    real = train.generator_step

    def half(run, *batch):
        if driver.capturing:
            run.critic.requires_grad_(False)
            batch[0].sum().item()
        return real(run, *batch)

    monkeypatch.setattr(train, "generator_step", half)
    assert_same(plain, trained(change(small, {"output_dir": str(tmp_path / "other")})))
    said = capsys.readouterr().out
    assert said.count("operation not permitted when stream is capturing)") == 1  # tried once
    assert "--no-graph" in said
    assert driver.captured == driver.replayed == 0
    assert driver.pools == {}


# ---- captures that fail --------------------------------------------------------------------------


class Counted:
    """Work of three kinds, all different, that draws noise; and the steps that do it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.value, self.kind = torch.zeros(3), 0
        self.steps = cuda_graph.GraphedSteps(self.work, (3,), CPU)

    def work(self, x, labels):
        if self.kind:
            self.value.mul_(0.5)
        self.value.add_(x).add_(torch.rand(3)).add_(labels)
        self.value.add_(self.kind)

    def __call__(self, kinds: str) -> list[float]:
        """The value after steps of these kinds ("0012": four of three kinds)."""
        values = []
        for number, self.kind in enumerate(map(int, kinds)):
            labels = torch.full((3,), number)
            self.steps(torch.full((3,), number / 10), labels, kind=self.kind)
            values += self.value.tolist()
        return values


def plainly(kinds: str) -> list[float]:
    counted = Counted()
    counted.steps = cuda_graph.PlainSteps(counted.work)
    return counted(kinds)


def assert_as_if_nothing_had_been(driver):
    assert driver.stream is driver.main
    assert not driver.capturing
    assert not driver.noise.captured
    assert not driver.noise.replaced


KINDS = "0000" + "1111" + "010101" + "2222" + "012012"  # one after the other becomes a graph


def test_each_kind_has_a_graph(monkeypatch):
    driver = stubbed_cuda.stub(monkeypatch)
    counted = Counted()
    assert counted(KINDS) == plainly(KINDS)
    assert driver.captured == 3
    assert driver.replayed == len(KINDS) - 3 * cuda_graph.WARM_UPS
    assert counted.steps.failed == {}
    assert len(driver.pools) == 1  # they share it
    assert_as_if_nothing_had_been(driver)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", ["in the work", "at the end", "at both"])
def test_a_kind_that_cannot_be_captured_leaves_the_others(place, version, monkeypatch, capsys):
    driver = stubbed_cuda.stub(monkeypatch, version)
    counted = Counted()
    values = counted("0000" + "111")
    if place != "at the end":
        driver.fails_at, driver.error = 2, RuntimeError("cannot be captured\nand more")
    if place != "in the work":
        driver.ends_fail = 1
    values += counted("1" + "010101")
    assert list(counted.steps.replays) == [0]
    assert driver.replayed == 1 + 3
    reason = "CUDA error: operation failed due to a previous error"
    reason = reason if place == "at the end" else "cannot be captured"
    assert counted.steps.failed == {1: reason}
    assert_as_if_nothing_had_been(driver)
    values += counted("2222" + "012012")
    assert list(counted.steps.replays) == [0, 2]
    assert_as_if_nothing_had_been(driver)
    parts = ("0000111", "1010101", "2222012012")
    assert values == plainly_in(parts)
    said = capsys.readouterr().out
    assert said.count("\n") == 1  # it was tried once
    assert f"a step of 1 ({reason}): this kind of step goes on" in said
    assert "--no-graph" in said


def plainly_in(parts: tuple[str, ...]) -> list[float]:
    """The same, counting from 0 in each part."""
    counted = Counted()
    counted.steps = cuda_graph.PlainSteps(counted.work)
    return [value for part in parts for value in counted(part)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_memory_of_a_failed_capture_is_given_back(version, monkeypatch):
    driver = stubbed_cuda.stub(monkeypatch, version)
    counted = Counted()
    driver.ends_fail = 1
    assert counted("000000") == plainly("000000")
    assert driver.pools == {}
    assert_as_if_nothing_had_been(driver)
    counted("1111")
    assert list(counted.steps.replays) == [1]
    assert driver.captured == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("end_fails", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_where_memory_runs_out_all_graphs_go(error, end_fails, version, monkeypatch, capsys):
    """A plain step fitted before there were any."""
    driver = stubbed_cuda.stub(monkeypatch, version)
    counted = Counted()
    values = counted("0000" + "111")
    driver.fails_at, driver.error, driver.ends_fail = 2, error, int(end_fails)
    values += counted("1" + "010101" + "2222")
    assert values == plainly_in(("0000111", "10101012222"))
    assert driver.replayed == 1  # nothing after it
    assert counted.steps.replays == {}
    assert counted.steps.failed == {1: str(error)}
    assert driver.pools == {}
    assert_as_if_nothing_had_been(driver)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"({error}): all steps go on" in said
    assert "--batch-size" in said


def test_a_plain_step_that_does_not_fit_ends_training(monkeypatch):
    """It has been done half: it cannot be done again."""
    stubbed_cuda.stub(monkeypatch)
    counted = Counted()

    def full(x, labels):
        raise torch.OutOfMemoryError("CUDA out of memory")

    counted.steps.work = full
    with pytest.raises(torch.OutOfMemoryError):
        counted("0")


def test_where_nothing_can_be_captured_any_more_the_graphs_go(monkeypatch):
    """Noise would be drawn twice, by them and by plain steps."""
    driver = stubbed_cuda.stub(monkeypatch, "2.11")
    counted = Counted()
    values = counted("0000" + "111")
    driver.ends_fail = 2  # that of the small capture that mends the generator, too
    values += counted("1" + "01")
    assert values == plainly_in(("0000111", "101"))
    assert driver.noise.replaced
    assert not driver.noise.captured
    assert driver.captured == 2  # the first kind again, drawing from the generator as it is now
    assert list(counted.steps.replays) == [0]


# ---- what goes in --------------------------------------------------------------------------------


def test_a_graph_finds_each_batch_where_the_first_one_was(monkeypatch):
    monkeypatch.setattr(cuda_graph.Graphs, "__call__", lambda self, work: work)
    seen = []
    work = lambda x, labels: seen.append((x, x.sum().item(), labels.tolist()))  # noqa: E731
    steps = cuda_graph.GraphedSteps(work, (2, 1), CPU)
    for number in range(6):
        steps(torch.full((2, 1), float(number)), torch.full((2,), number), kind=True)
    assert [(total, labels) for _, total, labels in seen] == [(2.0 * n, [n, n]) for n in range(6)]
    assert all(x is steps.batch[0] for x, *_ in seen[cuda_graph.WARM_UPS :])


def test_kinds_of_steps_have_names():
    assert [str(cuda_graph.Kind(g, r)) for g in (False, True) for r in (False, True)] == [
        "the critic alone",
        "the critic alone, with R1 and R2",
        "critic and generator",
        "critic and generator, with R1 and R2",
    ]


def test_why_steps_are_plain(small, monkeypatch):
    cuda = torch.device("cuda")
    assert cuda_graph.why_plain(small, CPU)
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
