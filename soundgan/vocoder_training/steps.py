"""What one batch brings: pure tensor work, nothing here reads a number back from the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from soundgan.audio import compress
from soundgan.vocoder_training.run import Run


def segments(run: Run, x: Tensor) -> tuple[Tensor, Tensor]:
    """A random segment of each clip `x (B, 1, L)`: `(B, 1, segment)`, and its log-mels `(B, M, T)`.

    The mels are those of the whole clip, with what lies before and after the segment in their
    windows, as when the vocoder is used: frame t is centred on the segment's sample t * hop.
    """
    cfg, length = run.transform.cfg, run.options.segment
    edge = cfg.sound.n_fft // 2
    clips = nn.functional.pad(x[:, 0], (edge, edge), mode="reflect")  # (B, L + n_fft)
    starts = torch.randint(x.shape[2] - length + 1, (len(x), 1), device=x.device)
    wide = clips.gather(1, starts + torch.arange(length + 2 * edge, device=x.device))
    mel = compress(run.transform.mel_within(wide), cfg)[..., : length // cfg.sound.hop]
    return wide[:, None, edge : edge + length], mel


def full_step(run: Run, x: Tensor) -> Tensor:
    """One update of the discriminators and one of the generator on clips `x (B, 1, L)`; METRICS."""
    real, mel = segments(run, x)
    rate = run.options.learning_rate * run.options.decay ** (run.step // run.options.decay_every)
    for optimiser in (run.generator_optimiser, run.critic_optimiser):
        for group in optimiser.param_groups:
            group["lr"] = rate
    fake = run.generator(mel)  # (B, 1, segment)
    scores_real, scores_fake = run.critic(real)[0], run.critic(fake.detach())[0]
    critic_loss = run.losses.critic(scores_real, scores_fake)
    _update(run.critic_optimiser, critic_loss)
    run.critic.requires_grad_(False)  # a measure only: no gradients of its weights
    with torch.no_grad():
        on_real = run.critic(real)
    whole, *parts = run.losses.generator(fake, real, run.critic(fake), on_real)
    _update(run.generator_optimiser, whole)
    run.critic.requires_grad_(True)
    return torch.stack([critic_loss, whole, *parts]).detach()


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
