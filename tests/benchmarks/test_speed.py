"""What makes a step quick changes none of its numbers: it equals the plain one, as its benchmark
assumes; and the benchmark itself runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import plain
import pytest
import speed
import timing
import torch
from conftest import shrunk

import config
import train
from soundgan.config_io import change, flat
from soundgan.models.residual import ProjectionCritic
from soundgan.training.run import Run

PUBLISHED = [n for n, c in config.RECIPES.items() if not isinstance(c.critic, ProjectionCritic)]


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_step_equals_the_plain_one(name, double, sounds, tmp_path):
    """Two steps from one state and noise, in double precision: what both networks make of the same
    input agrees to 1e-8 of its largest value.

    Left out is what draws noise of its own in each pass: dropout and phase shuffle. The plain step
    iterates spectral norm in every pass, ours once an update: it is iterated until it stands still,
    and compared after one update of each network, before the two find other ways to the same norm.
    """
    cfg = shrunk(config.RECIPES[name], sounds, tmp_path)
    cfg = change(cfg, {"critic.dropout": (), "critic.phase_shuffle": 0, "seed": 1})
    steps, spectral_norm = 2, cfg.critic.spectral_norm
    if spectral_norm:
        cfg, steps = change(cfg, {"optimiser.critic_steps": 1}), 1
    fast, slow = (Run.start(cfg, ["a", "b"], torch.device("cpu")) for _ in range(2))
    x = torch.rand(4, *cfg.shape) * 2 - 1
    labels = torch.tensor([0, 1, 0, 1])
    for run in (fast, slow):
        for _ in range(300 if spectral_norm else 0):
            run.critic(x, labels)
    pair = plain.optimisers(slow)
    for step in range(steps):
        torch.manual_seed(step)
        fast.step = cfg.optimiser.critic_steps - 1  # the step that brings a generator update too
        train.full_step(fast, x, labels)
        torch.manual_seed(step)
        plain.step(slow, pair, x, labels)
    before = Run.start(cfg, ["a", "b"], torch.device("cpu"))
    z = fast.latents(4)
    for network in ("generator", "critic"):
        start, a, b = (
            getattr(run, network)(z if network == "generator" else x, labels)
            for run in (before, fast, slow)
        )
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8 * float(b.detach().abs().max()))
        assert (start - a).abs().max() > 1e-3 * a.abs().max()  # and it did learn something


@pytest.mark.slow
def test_the_benchmark_measures_all_of_it(sounds, tmp_path, monkeypatch, capsys):
    small = shrunk(config.RECIPES["sn-wgan-gp"], sounds, tmp_path)
    monkeypatch.setattr(speed, "RECIPES", {"sn-wgan-gp": small})
    monkeypatch.setattr(speed, "train_in", lambda cfg, name, world, **_: (9.0, [5.0, 4.0 / world]))
    figure = tmp_path / "speed.png"
    arguments = ["--data-dir", str(sounds), "--recipes", "sn-wgan-gp", "--turns", "2"]
    arguments += ["--warm-ups", "1", "--epochs", "2", "--ranks", "1", "2", "--profile"]
    monkeypatch.setattr(
        sys, "argv", ["speed.py", *arguments, "--batches", "4", "8", "--figure", str(figure)]
    )
    speed.main()
    said = capsys.readouterr().out
    for part in ("decoded the first time", "opened the next time", "a set of samples and the page"):
        assert f"sn-wgan-gp: {part}: " in said
    assert "sn-wgan-gp: 2 epochs in 9.0 s, 9.0 s of them in steps" in said
    assert "batch 4: 4.0 s an epoch on 1" in said
    assert "batch 4: 2.0 s an epoch on 2" in said
    table = [row.split()[:2] for row in said.splitlines() if row.startswith("sn-wgan-gp  ")]
    assert table[-2:] == [["sn-wgan-gp", "4"], ["sn-wgan-gp", "8"]]
    note = said.splitlines()[-1]
    assert note.startswith(f"{timing.processor()}, torch {torch.__version__}, which reaches ")
    assert re.search(r"reaches \d+ GFLOP/s and \d+ GB/s \(the floor\), n = 2 steps of each", note)
    gradients = next(row for row in said.splitlines() if row.startswith("their gradients"))
    assert all(float(cell) > 0 for cell in gradients.split()[2:])
    assert figure.stat().st_size > 3000


def test_the_ratio_is_of_steps_that_followed_each_other():
    row = speed.Row("cgan", 8, [2.0, 6.0, 3.0], [1.0, 2.0, 2.0], floor=1.0, memory=2**30)
    assert row.ratios == [2.0, 3.0, 1.5]
    cells = dict(zip(speed.HEADS, row.cells()))
    assert cells["ratio"] == "2.00 (1.50 to 3.00)"
    assert cells["clips/s"] == "4"
    assert cells["of the floor"] == "50%"
    assert cells["GiB"] == "1.00"
    assert speed.HEADS.index("of the floor") < speed.HEADS.index("ratio")


def test_steps_on_cuda_are_timed_back_to_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the clock was raised, and a step that fetches what the other process displaced."""
    done = []
    monkeypatch.setattr(timing, "raise_clock", lambda device: done.append("raised"))

    def back_to_back(make: Callable, count: int, device: torch.device) -> timing.Times:
        done.append(count)
        return timing.Times((0.5,) * count, 0.25 * count)

    monkeypatch.setattr(timing, "back_to_back", back_to_back)
    taken = speed.time_of(lambda: done.append("step"), torch.device("cuda"))
    assert done == ["raised", "step", 20]
    assert taken == 0.25
    done.clear()
    assert speed.time_of(lambda: done.append("step"), torch.device("cpu")) < 0.25
    assert done == ["raised", "step", "step"]


def test_a_profile_on_cuda_is_of_the_steps_as_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def kernels(work: Callable, count: int, device: torch.device) -> list[timing.Kernel]:
        seen.append((work, count))
        return [timing.Kernel("sm90_xmma_dgrad", 1, 0.5), timing.Kernel("memset", 1, 0.25)]

    monkeypatch.setattr(timing, "kernels", kernels)
    once, made = (lambda: None), (lambda: None)
    found = speed.profile(once, made, torch.device("cuda"))
    assert seen == [(made, speed.PROFILED)]
    assert found == {"their gradients": 0.5, "copies": 0.25}


def test_the_floor_is_whichever_takes_longer():
    most = speed.Ceiling(flops=100.0, bytes=10.0)
    assert most.floor((200, 5)) == 2.0
    assert most.floor((200, 50)) == 5.0


@pytest.mark.slow
def test_a_run_is_timed_by_training(small):
    """One real start of the program."""
    sound = ("frames", "n_mels", "sample_rate", "n_fft", "hop", "f_max")
    names = [*(f"sound.{name}" for name in sound), "generator.latent_dim", "batch_size"]
    tiny = {name: flat(small)[name] for name in names}
    quiet = {"epochs": 2, "score_every": 0, "sample_every": 100}
    taken, epochs = speed.train_in(small, "timed", 1, **tiny, **quiet)
    assert len(epochs) == 2
    assert 0 < sum(epochs) < taken


def test_operations_are_counted_through_the_gradient_of_a_gradient():
    """A linear map of 5 to 3 for 2 clips: 60 for the product, 60 for its gradient, and 60 for the
    gradient of that one. Each moves its 6, 10 and 15 numbers once."""
    weight = torch.randn(3, 5, requires_grad=True)
    x = torch.randn(2, 5, requires_grad=True)
    with speed.Work() as counter:
        (slope,) = torch.autograd.grad((x @ weight.T).sum(), x, create_graph=True)
        assert counter.flops == 2 * 60
        slope.square().sum().backward()
    assert counter.flops == 3 * 60  # what came in was constant: one of the two is not needed
    assert counter.bytes == 3 * 4 * (6 + 10 + 15)
