"""Steps: the stated losses, what they change, what they leave alone."""

from __future__ import annotations

import copy
from dataclasses import asdict

import pytest
import stubbed_cuda
import torch
from conftest import shrunk
from torch import nn

import config
import train
from soundgan.config_io import change
from soundgan.training.objectives import WassersteinGP, gradient_penalty
from soundgan.training.run import METRICS, Run

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def run(small):
    return Run.start(small, ["high", "low", "mid"], torch.device("cpu"))


@pytest.fixture
def batch(small):
    torch.manual_seed(1)
    return torch.randn(4, *small.shape), torch.tensor([0, 1, 2, 0])


@pytest.fixture
def best(sounds, tmp_path):
    return shrunk(config.RECIPES["best"], sounds, tmp_path / "outputs")


# ---- the default recipe --------------------------------------------------------------------------


def test_critic_step_is_the_stated_loss(run, batch):
    real, labels = batch
    state = torch.get_rng_state()
    before = {k: v.clone() for k, v in run.critic.state_dict().items()}
    stats = train.critic_step(run, real, labels)

    torch.set_rng_state(state)
    run.critic.load_state_dict(before)
    with torch.no_grad():
        fake = run.generator(run.latents(4), labels)
    # Real and fake one after the other, which the step puts through in one pass.
    with nn.utils.parametrize.cached():
        scores = run.critic(real, labels).mean() - run.critic(fake, labels).mean()
        penalty = gradient_penalty(run.critic, real, fake, labels, 4.0)
    expected = torch.stack([penalty - scores, scores, penalty])
    torch.testing.assert_close(stats[:3], expected.detach(), rtol=1e-4, atol=1e-5)


def test_generator_step_is_the_stated_loss(run, batch):
    real, labels = batch
    state = torch.get_rng_state()
    before = {k: v.clone() for k, v in run.generator.state_dict().items()}
    critic = {k: v.clone() for k, v in run.critic.state_dict().items()}
    loss, l1, _ = train.generator_step(run, real, labels)

    torch.set_rng_state(state)
    run.generator.load_state_dict(before)
    run.critic.load_state_dict(critic)
    fake = run.generator(run.latents(4), labels)
    assert l1.item() == pytest.approx((fake - real).abs().mean().item(), rel=1e-5)
    expected = (fake - real).abs().mean() - run.critic(fake, labels).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_each_step_changes_its_own_network_only(run, batch):
    def snapshot():
        return [
            torch.cat([p.detach().flatten().clone() for p in net.parameters()])
            for net in (run.generator, run.critic)
        ]

    start = snapshot()
    train.critic_step(run, *batch)
    after_critic = snapshot()
    assert torch.equal(start[0], after_critic[0])
    assert not torch.equal(start[1], after_critic[1])
    assert all(p.grad is None for p in run.generator.parameters())
    run.critic_optimiser.zero_grad()
    train.generator_step(run, *batch)
    after_both = snapshot()
    assert torch.equal(after_critic[1], after_both[1])
    assert not torch.equal(after_critic[0], after_both[0])
    assert all(p.grad is None for p in run.critic.parameters())
    assert all(p.requires_grad for p in run.critic.parameters())


def test_critic_updates_build_no_graph_of_the_generator(run, batch):
    graphs = []
    run.generator.register_forward_hook(lambda _, __, out: graphs.append(out.requires_grad))
    train.full_step(run, *batch)
    assert graphs == [False, False, False, True]


def test_nothing_is_read_back_inside_a_step(run, batch, monkeypatch):
    def refuse(*_):
        raise AssertionError("a step read a number back from the device")

    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    stats = train.full_step(run, *batch)
    assert stats.shape == (len(METRICS),)


def test_two_time_scales(default):
    run = Run.start(default, list("ab"), torch.device("cpu"))
    for optimiser, rate in ((run.generator_optimiser, 1e-4), (run.critic_optimiser, 2e-5)):
        (group,) = optimiser.param_groups
        assert (group["lr"], tuple(group["betas"])) == (rate, (0.0, 0.99))


# ---- other recipes -------------------------------------------------------------------------------


def batch_of(cfg, count=4):
    torch.manual_seed(1)
    return torch.rand(count, *cfg.shape) * 0.5, torch.arange(count) % 3


def started(cfg):
    return Run.start(cfg, list("abc") if cfg.conditional else [], CPU)


def test_optimisers():
    adam = started(config.RECIPES["cgan"]).generator_optimiser
    assert isinstance(adam, torch.optim.Adam)
    assert tuple(adam.param_groups[0]["betas"]) == (0.5, 0.999)
    rmsprop = started(config.RECIPES["wavegan"]).critic_optimiser
    assert isinstance(rmsprop, torch.optim.RMSprop)
    assert rmsprop.param_groups[0]["lr"] == 5e-5


def test_weights_are_clipped(sounds, tmp_path):
    cfg = shrunk(config.RECIPES["wavegan"], sounds, tmp_path / "outputs")
    run = started(cfg)
    assert max(p.abs().max() for p in run.critic.parameters()) > 0.01
    train.critic_step(run, *batch_of(cfg))
    assert max(p.abs().max() for p in run.critic.parameters()) <= 0.01


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_penalty_is_never_in_half_precision(precision, small):
    run = started(change(small, {"optimiser.precision": precision}))
    seen = []
    run.critic.stages[0].register_forward_hook(lambda _, x, out: seen.append((len(out), out.dtype)))
    stats = train.critic_step(run, *batch_of(small))
    half = torch.bfloat16 if precision == "bf16" else torch.float32  # no fp16 on a CPU
    assert seen == [(4, torch.float32), (8, half)]
    assert stats.dtype == torch.float32


# ---- best ----------------------------------------------------------------------------------------


@pytest.fixture
def run_of_best(best):
    return Run.start(best, list("abc"), CPU)


def test_the_zero_centred_penalty_is_lazy(run_of_best, best):
    run = run_of_best
    run.cfg = change(best, {"objective.r1_r2_every": 3})
    due = []
    for step in range(6):
        run.step = step
        due.append(train.kind_of_step(run)[1])
    assert due == [True, False, False] * 2
    x = torch.randn(4, *best.shape)
    for step, positive in ((0, True), (1, False)):
        run.step = step
        penalty = train.critic_step(run, x, LABELS)[METRICS.index("gradient_penalty")]
        assert (penalty > 0) == positive


def test_the_penalty_by_difference_is_of_what_the_critic_sees(run_of_best, best):
    """Real and generated clips, in single precision, and no gradient of the clips is computed."""
    run, column = run_of_best, METRICS.index("gradient_penalty")
    x, seen = torch.randn(4, *best.shape), []
    run.critic.register_forward_pre_hook(
        lambda _, inputs: seen.append((*inputs, torch.is_autocast_enabled("cpu")))
    )
    asked = {"objective.r1_r2_by": "difference", "objective.r1_r2_step": 0.5}
    run.cfg = change(best, asked | {"critic.augment": 0.0})
    penalty = train.critic_step(run, x, LABELS)[column].item()
    (noisy, labels, half), *others = seen  # the scores themselves come by another way, in bf16
    assert noisy.shape == (16, *best.shape)
    assert labels.tolist() == LABELS.tolist() * 4
    assert (half, noisy.requires_grad, others) == (False, False, [])
    above, below = noisy.chunk(2)
    torch.testing.assert_close((above + below)[:4] / 2, x, atol=1e-5, rtol=0)
    assert ((above - below) / 2).std().item() == pytest.approx(0.5, rel=0.1)
    assert penalty > 0
    run.cfg = change(run.cfg, {"objective.r1_r2_weight": 2 * best.objective.r1_r2_weight})
    run.step = 1
    assert train.critic_step(run, x, LABELS)[column] == 0  # as rarely as the other


def test_both_penalties_count(run_of_best, best):
    """Wasserstein's own and the zero-centred one, where a run asks for both."""
    x = torch.randn(4, *best.shape)
    column = METRICS.index("gradient_penalty")
    penalties = []
    for weight in (0.0, 7.0):
        shared = asdict(best.objective) | {"r1_r2_weight": weight}
        run_of_best.cfg = change(best, {"objective": WassersteinGP(gp_weight=5.0, **shared)})
        again = copy.deepcopy(run_of_best)
        torch.manual_seed(0)
        penalties.append(train.critic_step(again, x, LABELS)[column].item())
    assert penalties[1] > penalties[0] > 1


def test_both_networks_see_jittered_clips(run_of_best, best, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "jitter", lambda x, *_: x + 100)
    monkeypatch.setattr(
        train, "augment", lambda x, _: seen.extend(part.mean() > 50 for part in x.split(4)) or x
    )
    train.full_step(run_of_best, torch.zeros(4, *best.shape), LABELS)
    assert seen == [True, False, False, True]  # critic: real, fake; generator: fake, real


def test_every_part_reaches_every_weight(run_of_best, best):
    """A few steps with all of it on move all parameters of both networks.

    The denoiser's blocks begin at zero: what lies before them moves from the third step on.
    """
    run = run_of_best
    before = [p.detach().clone() for net in (run.generator, run.critic) for p in net.parameters()]
    for _ in range(3):
        train.full_step(run, torch.randn(4, *best.shape), LABELS)
    after = [p for net in (run.generator, run.critic) for p in net.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after))


@pytest.mark.slow
def test_there_is_a_graph_of_each_kind_of_step(best, monkeypatch):
    driver = stubbed_cuda.stub(monkeypatch)
    train.train(change(best, {"epochs": 6, "objective.r1_r2_every": 2}))
    assert driver.captured == 2  # with the zero-centred penalty, and without
    assert driver.replayed > 0


# ---- averaged weights ----------------------------------------------------------------------------


def test_the_average_follows_the_generator(best):
    run = Run.start(change(best, {"optimiser.ema_half_life": 1.0}), list("abc"), CPU)
    x = torch.randn(4, *best.shape)
    slow = run.generator.to_patches.weight.detach().clone()
    for step in range(1, 12):
        train.full_step(run, x, LABELS)
        keep = min(0.5, (1 + step) / (10 + step))
        slow = keep * slow + (1 - keep) * run.generator.to_patches.weight.detach()
        torch.testing.assert_close(run.average.to_patches.weight, slow)
    assert run.shown is run.average
    assert not torch.equal(run.average.to_patches.weight, run.generator.to_patches.weight)


def test_the_average_is_moved_by_few_operations(best):
    """Those of all weights at once, and buffers are the generator's own."""
    run = Run.start(change(best, {"optimiser.ema_half_life": 100.0}), list("abc"), CPU)
    train.full_step(run, torch.randn(4, *best.shape), LABELS)
    run.generator.standardise.mean.fill_(3.0)
    pairs = list(zip(run.average.parameters(), run.generator.parameters()))
    keep = torch.tensor(min(0.5**0.01, 2 / 11))  # after one update
    expected = [torch.lerp(slow, now, 1 - keep) for slow, now in pairs]
    with torch.profiler.profile() as seen:
        train.update_average(run)
    for (slow, _), value in zip(pairs, expected):
        torch.testing.assert_close(slow.data, value.data)
    assert torch.equal(run.average.standardise.mean, run.generator.standardise.mean)
    groups = {event.key: event.count for event in seen.key_averages() if "foreach" in event.key}
    names = ("sub_", "mul_", "add_", "copy_")
    assert groups == {f"aten::_foreach_{name}": 1 for name in names}


def test_without_average_the_generator_is_shown(small):
    run = Run.start(small, list("abc"), CPU)
    assert run.average is None
    assert run.shown is run.generator
