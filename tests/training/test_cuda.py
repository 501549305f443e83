"""What only a GPU can show; `benchmarks/gpu.py` runs these, too.

Where there is none, each test runs on the CPU all the same, over the driver of `stubbed_cuda`. That
shows that the tests themselves are right, and nothing of a GPU.

Replayed and plain steps draw the same noise and do the same arithmetic, but cuDNN may choose other
algorithms for them and atomics may add in another order. So one step is compared, beside what
rounding does to it (`benchmarks/one_step.py`); with `deterministic`, whole runs, bit for bit.
"""

from __future__ import annotations

import os

# Before cuBLAS is first used, which reads it then.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import one_step
import pytest
import stubbed_cuda
import torch
from conftest import shrunk, weights

import config
import train
from soundgan import models
from soundgan.config_io import change
from soundgan.training import cuda_graph, objectives
from soundgan.training.devices import pick_device
from soundgan.training.random_state import seed_everything

pytestmark = pytest.mark.slow
NUMBERS = {"tf32": False, "optimiser.critic_steps": 2}
WARM = "0" * cuda_graph.WARM_UPS


@pytest.fixture(params=["cuda", "stub"])
def device(request, monkeypatch):
    """The GPU, or the CPU over a stubbed driver; what a test sets of PyTorch is set back."""
    if (request.param == "cuda") != torch.cuda.is_available():
        pytest.skip("needs CUDA" if request.param == "cuda" else "runs on the GPU")
    if request.param == "stub":
        driver = stubbed_cuda.stub(monkeypatch)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
        capturing = lambda: bool(driver.capturing)  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", capturing)
    with one_step.global_settings():
        yield torch.device("cuda" if request.param == "cuda" else "cpu")


def tiny(name, folder, device, **changes):
    cfg = shrunk(config.RECIPES[name], folder, folder / "outputs")
    return change(cfg, NUMBERS | {"device": str(device)} | changes)


# ---- one step ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "") for name in config.RECIPES), ("cgan", "fp32"), ("best", "fp32")],
)
def test_a_replayed_step_is_a_plain_one(name, precision, device, tmp_path):
    """Fewer bits than those of fp32 hide more: so also in fp32."""
    changes = {"optimiser.precision": precision} if precision else {}
    for row in one_step.compare(tiny(name, tmp_path, device, **changes), device):
        print(row)
        assert row["captured"], row["failed"]
        assert row["noise"]
        assert row["wrong"] == [], row


@pytest.mark.parametrize("name", config.RECIPES)
def test_with_deterministic_it_is_so_bit_for_bit(name, device, tmp_path):
    for row in one_step.compare(tiny(name, tmp_path, device, deterministic=True), device):
        assert row["captured"], row["failed"]
        assert row["repeats"], row["again"]
        assert row["equal"], row["replayed"]
        assert row["noise"]


@pytest.mark.parametrize("name", config.RECIPES)
def test_a_step_never_waits_for_the_device(name, device, tmp_path):
    run, x, labels = one_step.a_run(tiny(name, tmp_path, device), device)
    step, kinds = train.make_stepper(run), one_step.kinds_of_steps(run)
    for waits in ("default", "error"):  # the first ones set up cuDNN and capture
        for kind, number in kinds.items():
            run.step = number
            for _ in range(cuda_graph.WARM_UPS + 1):
                torch.cuda.set_sync_debug_mode("default")
                step(x, labels, kind=kind)
                torch.cuda.set_sync_debug_mode(waits)
                try:
                    train.full_step(run, x, labels)
                    if waits == "error":
                        step(x, labels, kind=kind)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
    assert step.replays.keys() == kinds.keys()


# ---- whole runs ----------------------------------------------------------------------------------


def trained(cfg):
    run = train.train(cfg)
    return run, one_step.noise_state(run.device)


@pytest.mark.parametrize("name", ["sn-wgan-gp", "frequency-quest", "best"])
def test_replayed_training_is_plain_training(name, device, sounds, tmp_path, monkeypatch):
    cfg = tiny(name, sounds.parent, device, data_dir=str(sounds), deterministic=True, epochs=5)
    cfg = change(cfg, {"background": "off"})
    replayed, noise = trained(cfg)
    monkeypatch.setattr(cuda_graph, "why_plain", lambda *_: "this is what to compare with")
    plain, plain_noise = trained(change(cfg, {"output_dir": str(tmp_path / "plain")}))
    assert torch.equal(noise, plain_noise)
    for network in ("generator", "critic"):
        assert torch.equal(weights(getattr(replayed, network)), weights(getattr(plain, network)))


def test_a_run_changes_between_plain_and_replayed(device, small, tmp_path, monkeypatch):
    cfg = change(small, {"device": str(device), "deterministic": True, "background": "off"})
    whole, noise = trained(cfg)
    other = change(cfg, {"output_dir": str(tmp_path / "other")})
    with monkeypatch.context() as patch:
        patch.setattr(cuda_graph, "why_plain", lambda *_: "the first half is plain")
        trained(change(other, {"epochs": 2}))
    changed, changed_noise = trained(other)
    assert torch.equal(noise, changed_noise)
    assert torch.equal(weights(changed.generator), weights(whole.generator))


def test_a_run_of_the_cpu_continues_on_the_device(device, small):
    train.train(change(small, {"epochs": 2, "graph": False}))
    run, _ = trained(change(small, {"device": str(device)}))
    assert run.epoch == 4
    assert run.device.type == device.type
    assert torch.isfinite(weights(run.generator)).all()


# ---- captures that fail --------------------------------------------------------------------------


class Work:
    """Steps of three kinds that draw noise; kind 1 has a fault while it is captured."""

    def __init__(self, device, fault):
        self.device, self.fault, self.kind = device, fault, 0
        seed_everything(0)
        self.value = torch.zeros(1000, device=device)
        self.batch = torch.ones(4, 1, device=device), torch.zeros(4, device=device).long()

    def work(self, x, labels):
        self.value.mul_(0.5).add_(x.sum()).add_(torch.randn(1000, device=self.device))
        if self.kind == 1 and self.fault and torch.cuda.is_current_stream_capturing():
            self.fault(self.value)
        self.value.add_(self.kind)

    def does(self, step, kinds):
        """The value and the state of the noise after steps of these kinds."""
        for self.kind in map(int, kinds):
            step(*self.batch, kind=self.kind)
        return self.value.tolist(), one_step.noise_state(self.device).tolist()


FAULTS = {
    "it reads back": lambda value: value.sum().item(),
    "memory runs out": lambda value: torch.empty(2**50, device=value.device),
    "it fails itself": lambda value: torch.ones(3, device=value.device) @ value,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_kind_that_cannot_be_captured_goes_on(fault, device, capsys):
    kinds = WARM + "0" + "1111" + "0101" + "2222" + "012"
    work = Work(device, FAULTS[fault])
    steps = cuda_graph.GraphedSteps(work.work, (4, 1), device)
    found = work.does(steps, kinds)
    plain = Work(device, None)
    assert found == plain.does(cuda_graph.PlainSteps(plain.work), kinds)
    assert steps.failed.keys() == {1}
    assert steps.full == (fault == "memory runs out")
    assert sorted(steps.replays) == ([] if steps.full else [0, 2])
    assert steps.capture.intact
    assert "No CUDA graph of a step of 1 (" in capsys.readouterr().out


# ---- numbers -------------------------------------------------------------------------------------


def apart(a, b):
    """Relative distance of two vectors."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("tf32", "bound"), [(False, 2e-3), (True, 5e-2)])
def test_the_penalty_is_near_that_in_double_precision(tf32, bound, device, default):
    """Value and gradient of the default critic's penalty on a batch of 16.

    Slopes are near 1, of which little is left after 1 is taken away: on a CPU the gradient is off
    by up to 2.4e-4 in float32, and by 1e-2 where products take numbers of 10 bits (4 seeds).
    """
    pick_device(change(default, {"tf32": tf32, "device": str(device)}))
    torch.manual_seed(0)
    critic = models.build(default, 10)[1].eval()
    real, fake = torch.randn(2, 16, *default.shape)
    labels = torch.arange(16) % 10
    found = []
    for place, dtype in ((torch.device("cpu"), torch.float64), (device, torch.float32)):
        critic.to(place, dtype).zero_grad()
        batch = (real.to(place, dtype), fake.to(place, dtype), labels.to(place))
        between = torch.rand(16, 1, 1, 1, generator=torch.Generator().manual_seed(2))
        between = between.to(place, dtype)
        with pytest.MonkeyPatch.context() as patch:  # one place between the clips on both devices
            patch.setattr(torch, "rand", lambda *_, between=between, **__: between)
            penalty = objectives.gradient_penalty(critic, *batch, 4.0)
        penalty.backward()
        gradients = [p.grad.flatten() for p in critic.parameters() if p.grad is not None]
        found.append((penalty.item(), torch.cat(gradients).double().cpu()))
    (value, gradient), (near, gradient_near) = found
    print(
        f"tf32 {tf32}: {abs(near / value - 1):.1e}, gradient {apart(gradient_near, gradient):.1e}"
    )
    assert near == pytest.approx(value, rel=bound)
    assert apart(gradient_near, gradient) < bound
