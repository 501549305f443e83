"""What only a GPU can show; `benchmarks/gpu.py` runs these before it measures anything.

Replayed and plain steps draw the same noise and do the same arithmetic, but cuDNN may choose other
algorithms for them and atomics may add in another order, so numbers agree up to rounding, not bit
for bit.
"""

from __future__ import annotations

import pytest
import torch
from conftest import shrunk, weights

import config
import train
from soundgan import models
from soundgan.config_io import change
from soundgan.training import cuda_graph, objectives
from soundgan.training.devices import pick_device
from soundgan.training.random_state import seed_everything
from soundgan.training.run import Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CUDA = torch.device("cuda")


def trained(cfg):
    run = train.train(change(cfg, {"device": "cuda"}))
    return run, torch.cuda.get_rng_state()


def apart(a, b):
    """Relative distance of two vectors."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", config.RECIPES)
def test_replayed_steps_are_the_plain_steps(name, sounds, tmp_path, monkeypatch):
    """Twenty steps of each: what training changed differs by under a thousandth of the change."""
    cfg = shrunk(config.RECIPES[name], sounds, tmp_path / "plain")
    cfg = change(
        cfg, {"tf32": False, "epochs": 5, "optimiser.critic_steps": 2, "background": "off"}
    )
    captured = []
    real = cuda_graph.Graphs.__call__
    monkeypatch.setattr(
        cuda_graph.Graphs, "__call__", lambda self, work: captured.append(1) or real(self, work)
    )
    plain, plain_noise = trained(change(cfg, {"graph": False}))
    assert not captured
    replayed, noise = trained(change(cfg, {"output_dir": str(tmp_path / "replayed")}))
    assert len(captured) == (2 if cfg.optimiser.fresh_batches or cfg.objective.r1_r2_weight else 1)
    assert torch.equal(noise, plain_noise)  # as many numbers were drawn
    seed_everything(cfg.seed)
    start = Run.start(cfg, plain.classes, CUDA)
    for network in ("generator", "critic"):
        a, b, c = (weights(getattr(r, network)) for r in (replayed, plain, start))
        assert (a - b).norm() < 1e-3 * (b - c).norm()


def test_a_run_changes_between_plain_and_replayed(small, tmp_path):
    cfg = change(small, {"tf32": False, "epochs": 4, "background": "off"})
    whole, noise = trained(cfg)
    other = change(cfg, {"output_dir": str(tmp_path / "other")})
    trained(change(other, {"epochs": 2, "graph": False}))
    changed, changed_noise = trained(other)
    assert torch.equal(noise, changed_noise)
    assert apart(weights(changed.generator), weights(whole.generator)) < 1e-4


def test_a_run_of_the_cpu_continues_on_cuda(small):
    train.train(change(small, {"epochs": 2}))
    run, _ = trained(small)
    assert run.epoch == 4
    assert torch.isfinite(weights(run.generator)).all()


def test_a_step_never_waits_for_the_device(small):
    run = Run.start(small, ["a", "b"], CUDA)
    x = torch.randn(4, *small.shape, device=CUDA)
    labels = torch.tensor([0, 1, 0, 1], device=CUDA)
    train.full_step(run, x, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train.full_step(run, x, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("tf32", "bound"), [(False, 1e-4), (True, 2e-2)])
def test_the_penalty_is_near_that_in_double_precision(tf32, bound, default):
    """Value and gradient of the default critic's penalty on a batch of 16."""
    pick_device(change(default, {"tf32": tf32, "device": "cuda"}))
    torch.manual_seed(0)
    critic = models.build(default, 10)[1].eval()
    real, fake = torch.randn(2, 16, *default.shape)
    labels = torch.arange(16) % 10
    found = []
    for device, dtype in ((torch.device("cpu"), torch.float64), (CUDA, torch.float32)):
        critic.to(device, dtype).zero_grad()
        seed_everything(1)
        batch = (real.to(device, dtype), fake.to(device, dtype), labels.to(device))
        place = torch.rand(16, 1, 1, 1, generator=torch.Generator().manual_seed(2))
        with pytest.MonkeyPatch.context() as patch:  # one place on both devices
            patch.setattr(torch, "rand", lambda *_, **__: place.to(device, dtype))  # noqa: B023
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
