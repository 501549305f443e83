"""What the two networks minimise: one class an objective, with its constants, losses and papers.

Critics give clips scores: one number a clip, or one a patch of it, whose mean is the clip's score.
An objective turns the scores of real and generated clips into the critic's and the generator's
loss, adds its penalty, and holds the critic's weights to what it needs. Shapes: B clips `(1, *S)`;
scores are `(B,)` or `(B, P)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, softplus

from soundgan import settings
from soundgan.models.layers import inputs_only
from soundgan.models.residual import CriticOutput
from soundgan.parts import Need, within
from soundgan.settings import Config


@dataclass(frozen=True, kw_only=True)
class Objective(settings.Objective):
    """The terms that every objective can have."""

    abstract: ClassVar[bool] = True
    relative: ClassVar[bool] = False  # whether the generator's loss compares with real clips

    r1_r2_by: Literal["gradient", "difference"] = "gradient"
    """gradient: exact; difference: estimated from how much scores change under small noise, which
    needs no second derivatives and is true on average only."""
    r1_r2_step: float = 0.5
    """Standard deviation of that noise, in a clip's own unit (natural logarithms: nepers). Smaller
    is nearer to the gradient on average, with more noise in what the critic learns from it."""

    def check(self, cfg: Config, need: Need) -> None:
        super().check(cfg, need)
        within(self, need, 1e-3, 100, ["r1_r2_step"])
        random = any(getattr(cfg.critic, "dropout", ())) or getattr(cfg.critic, "phase_shuffle", 0)
        fixed = self.r1_r2_by == "gradient" or not random
        why = "must be gradient: scores of this critic are random (critic.dropout, phase_shuffle)"
        need(fixed, "r1_r2_by", why)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the critic from its scores of real and generated clips, a scalar."""
        raise NotImplementedError

    def generator_loss(self, fake: Tensor, real: Tensor | None) -> Tensor:
        """Loss of the generator from the scores of its clips; `real` only where `relative`."""
        raise NotImplementedError

    def penalty(self, critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """What is added to the critic's loss at each of its updates, a scalar; here 0."""
        return torch.zeros((), device=real.device)

    def constrain(self, critic: nn.Module) -> None:
        """What is done to the critic's weights after each of its updates; here nothing."""

    def r1_r2_due(self, step: int) -> bool:
        """Whether the critic updates of a step have the zero-centred penalty (lazily, as Karras et
        al. 2020, StyleGAN2, section 3.1)."""
        return self.r1_r2_weight > 0 and step % self.r1_r2_every == 0

    def r1_r2(self, critic: nn.Module, scores: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """The zero-centred penalty at the clips x that have been given the scores, a scalar."""
        weight = self.r1_r2_weight * self.r1_r2_every
        if self.r1_r2_by == "difference":
            return difference_penalty(critic, x, labels, self.r1_r2_step, weight)
        return zero_centred_penalty(scores, x, weight)

    def auxiliary_loss(self, output: CriticOutput, labels: Tensor, z: Tensor) -> Tensor | float:
        """What both networks lose where the critic cannot tell class and latent, a scalar.

        `class_weight` times the cross-entropy of the first B clips' classes (Odena, Olah & Shlens
        2017, equation 3), for the critic real ones; and `latent_weight` times the squared error of
        the latents of the last B clips, which are generated: what cannot be told apart is no
        variety (Chen et al. 2016, InfoGAN, equation 6, of normal latents).
        """
        loss, count = 0.0, len(z)
        if self.class_weight:
            logits = output.class_logits[:count].float()
            loss = self.class_weight * cross_entropy(logits, labels)
        if self.latent_weight:
            loss = loss + self.latent_weight * mse_loss(output.latents[-count:].float(), z)
        return loss


@dataclass(frozen=True, kw_only=True)
class Wasserstein(Objective):
    """The difference of mean scores (Arjovsky, Chintala & Bottou 2017, equation 2)."""

    abstract: ClassVar[bool] = True

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator_loss(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()


@dataclass(frozen=True, kw_only=True)
class WassersteinGP(Wasserstein):
    """WGAN-GP: the critic's gradient is pulled to norm 1 (Gulrajani et al. 2017, equation 3)."""

    gp_weight: float
    """Weight of the gradient penalty."""

    def penalty(self, critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        return gradient_penalty(critic, real, fake, labels, self.gp_weight)

    def check(self, cfg: Config, need: Need) -> None:
        super().check(cfg, need)
        need(self.gp_weight > 0, "gp_weight", "must be a positive number")
        alone = not cfg.critic.batch_norm
        need(alone, "gp_weight", "needs a critic that scores each clip by itself (critic.norm)")


@dataclass(frozen=True, kw_only=True)
class WassersteinClip(Wasserstein):
    """WGAN: the critic's weights are clipped (Arjovsky, Chintala & Bottou 2017, algorithm 1)."""

    weight_clip: float
    """Largest absolute value of the critic's weights."""

    @torch.no_grad()
    def constrain(self, critic: nn.Module) -> None:
        for weight in critic.parameters():
            weight.clamp_(-self.weight_clip, self.weight_clip)

    def check(self, cfg: Config, need: Need) -> None:
        super().check(cfg, need)
        need(0 < self.weight_clip < float("inf"), "weight_clip", "must be a positive number")


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """The first GAN: `-E[log s(real)] - E[log(1 - s(fake))]` with s the sigmoid, and for the
    generator `-E[log s(fake)]`, which does not saturate (Goodfellow et al. 2014, equation 1 and
    section 3)."""

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-real).mean() + softplus(fake).mean()

    def generator_loss(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return softplus(-fake).mean()


@dataclass(frozen=True, kw_only=True)
class Relativistic(Objective):
    """Pairs of a real and a generated clip with the same label: `-E[log s(real - fake)]` for the
    critic, `-E[log s(fake - real)]` for the generator (Jolicoeur-Martineau 2018, equation 4; Huang
    et al. 2024, R3GAN, equation 2)."""

    relative: ClassVar[bool] = True

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(fake - real).mean()

    def generator_loss(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return softplus(real - fake).mean()


# ---- gradient penalties -------------------------------------------------------------------------


def gradient_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, weight: float
) -> Tensor:
    """`weight * E[(|grad_x critic(x)| - 1)^2]` at points x between real and fake, a scalar.

    Each x lies at a uniformly drawn place on the line between a real and a generated clip; the norm
    is taken over the whole clip (Gulrajani et al. 2017, "Improved Training of Wasserstein GANs",
    equation 3).
    """
    shape = (len(real), *[1] * (real.dim() - 1))
    place = torch.rand(shape, dtype=real.dtype, device=real.device)  # (B, 1, ...)
    x = torch.lerp(fake, real, place).requires_grad_()  # (B, 1, *S)
    return weight * (score_gradient(critic(x, labels), x).norm(dim=1) - 1).square().mean()


def zero_centred_penalty(scores: Tensor, x: Tensor, weight: float) -> Tensor:
    """`weight * E[|grad_x score|^2]` at the clips x that have been given the scores, a scalar.

    Of real clips it is R1, of generated ones R2 (Mescheder, Geiger & Nowozin 2018, equations 9 and
    10, with weight gamma / 2); of both in equal parts, half the weighted sum of the two.
    """
    return weight * score_gradient(scores, x).square().sum(1).mean()


def difference_penalty(
    critic: nn.Module, x: Tensor, labels: Tensor, step: float, weight: float
) -> Tensor:
    """`weight * E[((critic(x + step e) - critic(x - step e)) / (2 step))^2]`, e normal, a scalar.

    Without second derivatives, and on average `zero_centred_penalty` as far as the critic is linear
    within a step: `E[<gradient, e>^2]` is the squared norm. Each clip has noise of its own, so that
    errors average out: of one clip's value the deviation is sqrt(2) times that value (chi-square).
    Lin et al. 2025 ("Diffusion Adversarial Post-Training for One-Step Video Generation",
    approximated R1) compare x + step e with x, and leave out the division.

    A critic of leaky units bends between the two points, and the smaller the step, the more noise
    that adds to the gradient of this term. With `best` after 200 steps on the synthetic clips, one
    draw's gradient was 9.6 times as long as the exact one at a step of 0.1 nepers, 4.9 times at 0.5
    (from x on one side only 18 times at 0.1), while the term itself was 1.07 and 0.93 of the exact
    (standard errors 0.07 and 0.09; from one side 1.53 at 0.1).

    In single precision: a difference of scores is small beside them, and in bf16 it is rounding.
    """
    noise = step * torch.randn_like(x)
    scores = critic(torch.cat([x + noise, x - noise]), torch.cat([labels, labels]))
    above, below = scores.view(2, len(x), -1).mean(2)  # (B,) each
    return weight * ((above - below) / (2 * step)).square().mean()


def score_gradient(scores: Tensor, x: Tensor) -> Tensor:
    """Gradient of each clip's score with respect to the clip, `(B, all of *S)`, differentiable."""
    score = scores.view(len(x), -1).mean(1)  # (B,)
    with inputs_only():
        (gradient,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return gradient.flatten(1)
