"""Losses and steps against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import train


class Linear(nn.Module):
    """A critic whose score is <a, x>: its gradient is a everywhere."""

    def __init__(self, a: torch.Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (x * self.a).sum(dim=(1, 2, 3))


@pytest.fixture
def run(small):
    return train.Run.start(small, ["high", "low", "mid"], torch.device("cpu"))


@pytest.fixture
def batch(small):
    torch.manual_seed(1)
    return torch.randn(4, *small.shape), torch.tensor([0, 1, 2, 0])


def test_penalty_of_a_linear_critic():
    a = torch.randn(1, 4, 6)
    real, fake = torch.randn(2, 3, 1, 4, 6).unbind()
    penalty = train.gradient_penalty(Linear(a), real, fake, torch.zeros(3).long(), weight=4.0)
    assert penalty.item() == pytest.approx(4 * (a.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_reaches_the_critics_weights():
    critic = Linear(torch.full((1, 2, 2), 1.0))  # |a| = 2: d/da 4 (|a| - 1)^2 = 8 (|a| - 1) a / |a|
    real, fake = torch.randn(2, 3, 1, 2, 2).unbind()
    train.gradient_penalty(critic, real, fake, torch.zeros(3).long(), 4.0).backward()
    torch.testing.assert_close(critic.a.grad, torch.full((1, 2, 2), 4.0))


def test_penalty_is_taken_between_real_and_fake():
    class Square(nn.Module):
        def forward(self, x, labels):
            self.seen = x.detach()
            return x.square().sum(dim=(1, 2, 3))

    critic, real, fake = Square(), torch.ones(64, 1, 2, 2), torch.zeros(64, 1, 2, 2)
    torch.manual_seed(0)
    train.gradient_penalty(critic, real, fake, torch.zeros(64).long(), 1.0)
    place = critic.seen[:, 0, 0, 0]
    assert (critic.seen == place[:, None, None, None]).all()  # one place a clip
    assert 0 <= place.min() < 0.1
    assert 0.9 < place.max() <= 1


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
        penalty = train.gradient_penalty(run.critic, real, fake, labels, 4.0)
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
    assert stats.shape == (len(train.METRICS),)


def test_two_time_scales(default):
    run = train.Run.start(default, list("ab"), torch.device("cpu"))
    for optimiser, rate in ((run.generator_optimiser, 1e-4), (run.critic_optimiser, 2e-5)):
        (group,) = optimiser.param_groups
        assert (group["lr"], tuple(group["betas"])) == (rate, (0.0, 0.99))
