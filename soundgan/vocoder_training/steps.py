"""What one batch brings: pure tensor work, nothing here reads a number back from the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from soundgan.audio import compress
from soundgan.vocoder_training.run import Run


def segments(run: Run, x: Tensor) -> tuple[Tensor, Tensor]:
    """A random segment of each clip `x (B, 1, L)`: `(B, 1, segment)`, and its clips `(B, M, T)`.

    The mels are those of the whole clip, with what lies before and after the segment in their
    windows, as when the vocoder is used: frame t is centred on the segment's sample t * hop.
    Decibels are those below the segment's own maximum, and its sound is raised to that level.
    """
    cfg, length = run.transform.cfg, run.options.segment
    edge = cfg.sound.n_fft // 2
    clips = nn.functional.pad(x[:, 0], (edge, edge), mode="reflect")  # (B, L + n_fft)
    starts = torch.randint(x.shape[2] - length + 1, (len(x), 1), device=x.device)
    at = starts + torch.arange(length + 2 * edge, device=x.device)
    wide = clips.gather(1, at)
    mel = run.transform.mel_within(wide)[..., : length // cfg.sound.hop + run.kind.more_frames]
    if cfg.sound.compression == "db":
        wide = wide / mel.amax((1, 2))[:, None].clamp(min=1e-9) ** (1 / cfg.sound.power)
    return wide[:, None, edge : edge + length], compress(mel, cfg)


def full_step(run: Run, x: Tensor) -> Tensor:
    """One update of the discriminators and one of the generator on clips `x (B, 1, L)`; METRICS."""
    real, mel = segments(run, x)
    rate = run.options.learning_rate * run.options.decay ** (run.step // run.options.decay_every)
    for optimiser in filter(None, (run.generator_optimiser, run.critic_optimiser)):
        for group in optimiser.param_groups:
            group["lr"] = rate
    fake = run.generator(mel)  # (B, 1, segment)
    if run.critic is None:
        critic_loss, on_fake, on_real = fake.new_zeros(()), ([], []), ([], [])
    else:
        critic_loss = _critic_step(run, real, fake.detach())
        run.critic.requires_grad_(False)  # a measure only: no gradients of its weights
        with torch.no_grad():
            on_real = run.critic(real)
        on_fake = run.critic(fake)
    whole, *parts = run.losses.generator(fake, real, on_fake, on_real)
    _update(run.generator_optimiser, whole)
    if run.critic is not None:
        run.critic.requires_grad_(True)
    return torch.stack([critic_loss, whole, *parts]).detach()


def _critic_step(run: Run, real: Tensor, fake: Tensor) -> Tensor:
    scores_real, scores_fake = run.critic(real)[0], run.critic(fake)[0]
    critic_loss = run.losses.critic(scores_real, scores_fake)
    _update(run.critic_optimiser, critic_loss)
    return critic_loss


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
