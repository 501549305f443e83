"""Learn your sounds: folders of WAVs in, new sounds out.

    python train.py [RECIPE] [--field value ...]
    torchrun --nproc-per-node N train.py [RECIPE] [--field value ...]

From top to bottom the way of the data: a batch of clips (`batches.py`) and fresh latents go through
the losses; the steps turn losses into updates; a checkpoint holds everything that makes a continued
run the same run; what is due after an epoch (pictures, WAVs, scores) is handed in at the desk
(`desk.py`). `train()` at the end ties them together.

In several processes (`ranks.py`) each computes a part of every batch, and rank 0 does the rest.

Exit codes: 0 finished, 2 something to mend before training (data, constants, disk), 3 the numbers
diverged, 75 interrupted and saved: the same command continues; 1 a fault, or another rank is gone.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
import time
import warnings
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import get_total_norm, parametrize
from tqdm.auto import tqdm

import audio
import config
import dataset
import demo
import graph
import layers
import models
import ranks
import runs
from augment import augment, vary
from batches import Batches
from config import Config, UserError
from desk import (
    SCORES,
    Desk,
    Samples,
    Snapshot,
    interrupted,
    less_memory,
    samples_of,
    weights_file,
)
from residual import Opinion

METRICS = (
    "critic_loss",
    "wasserstein",
    "gradient_penalty",
    "critic_grad_norm",
    "generator_loss",
    "l1",
    "generator_grad_norm",
)
SHORT_METRICS = ("C", "W", "gp", "|dC|", "G", "L1", "|dG|")  # in the progress bar


class Diverged(UserError):
    """A loss or gradient became NaN or Inf."""

    exit_code = 3
    heading = "Diverged"


# ---- losses -------------------------------------------------------------------------------------
# A score is one number a clip, or one a patch of it; a clip's score is the mean of its patches.


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
    return weight * (slope(critic(x, labels), x).norm(dim=1) - 1).square().mean()


def critic_loss(cfg: Config, real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the critic from the scores of real and generated clips, without penalty.

    Wasserstein: `E[fake] - E[real]` (Arjovsky, Chintala & Bottou 2017, equation 2). Cross-entropy:
    `-E[log s(real)] - E[log(1 - s(fake))]` with s the sigmoid (Goodfellow et al. 2014, equation 1).
    Relativistic: `-E[log s(real - fake)]`, of pairs with the same label (Jolicoeur-Martineau 2018,
    equation 4; Huang et al. 2024, equation 2).
    """
    if cfg.objective == "bce":
        return nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()
    if cfg.objective == "relativistic":
        return nn.functional.softplus(fake - real).mean()
    return fake.mean() - real.mean()


def generator_loss(cfg: Config, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """Loss of the generator from the scores of its clips.

    Wasserstein: `-E[fake]`. Cross-entropy: `-E[log s(fake)]`, which does not saturate (Goodfellow
    et al. 2014, section 3). Relativistic: `-E[log s(fake - real)]`, the only one to need `real`.
    """
    if cfg.objective == "relativistic":
        return nn.functional.softplus(real - fake).mean()
    return nn.functional.softplus(-fake).mean() if cfg.objective == "bce" else -fake.mean()


def zero_penalty(scores: Tensor, x: Tensor, weight: float) -> Tensor:
    """`weight * E[|grad_x score|^2]` at the clips x that have been given the scores, a scalar.

    Of real clips it is R1, of generated ones R2 (Mescheder, Geiger & Nowozin 2018, equations 9 and
    10, with weight gamma / 2); of both in equal parts, half the weighted sum of the two.
    """
    return weight * slope(scores, x).square().sum(1).mean()


def told_loss(cfg: Config, opinion: Opinion, labels: Tensor, z: Tensor) -> Tensor | float:
    """What both networks lose where the critic cannot tell class and latent, a scalar.

    `aux_weight` times the cross-entropy of the first B clips' classes (Odena, Olah & Shlens 2017,
    equation 3), for the critic real ones; and `recall_weight` times the squared error of the
    latents of the last B clips, which are generated: what cannot be told apart is no variety (Chen
    et al. 2016, InfoGAN, equation 6, of normal latents).
    """
    loss, count = 0.0, len(z)
    if cfg.aux_weight:
        loss = cfg.aux_weight * cross_entropy(opinion.classes[:count].float(), labels)
    if cfg.recall_weight:
        loss = loss + cfg.recall_weight * mse_loss(opinion.latents[-count:].float(), z)
    return loss


def slope(scores: Tensor, x: Tensor) -> Tensor:
    """Gradient of each clip's score with respect to the clip, `(B, all of *S)`, differentiable."""
    score = scores.view(len(x), -1).mean(1)  # (B,)
    with layers.inputs_only():
        (gradient,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return gradient.flatten(1)


# ---- steps --------------------------------------------------------------------------------------
# Pure tensor work: nothing here reads a number back from the device, so the host can run ahead.


@dataclass
class Run:
    """Everything that training changes, and that a checkpoint therefore holds."""

    cfg: Config
    classes: list[str]
    device: torch.device
    generator: nn.Module
    critic: nn.Module
    generator_optimiser: torch.optim.Optimizer
    critic_optimiser: torch.optim.Optimizer
    average: nn.Module | None  # of the generator's weights over its updates
    scaler: torch.amp.GradScaler  # of fp16; does nothing otherwise
    sums: Tensor  # of METRICS over the updates of this epoch, on the device
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps, over all epochs
    step_in_epoch: int = 0
    generator_updates: int = 0  # in this epoch
    seconds: float = 0.0  # spent on this epoch
    data: str = ""  # fingerprint of the files
    others: list[dict] = field(default_factory=list)  # random states of ranks 1, 2, ..., on rank 0

    @classmethod
    def start(cls, cfg: Config, classes: list[str], device: torch.device) -> Run:
        """Seed every random state and build the networks and their optimisers."""
        runs.seed_everything(cfg.seed)
        networks = [models.place(net, device) for net in models.build(cfg, len(classes))]
        # Each network has a learning rate of its own (two time scales, Heusel et al. 2017).
        rates = (cfg.generator_lr, cfg.critic_lr)
        optimisers = [build_optimiser(cfg, net, rate) for net, rate in zip(networks, rates)]
        half = cfg.precision == "fp16" and device.type == "cuda"
        scaler = torch.amp.GradScaler(device.type, enabled=half)
        average = copy.deepcopy(networks[0]).requires_grad_(False) if cfg.average else None
        sums = torch.zeros(len(METRICS), device=device)
        return cls(cfg, classes, device, *networks, *optimisers, average, scaler, sums)

    @property
    def networks(self) -> list[nn.Module]:
        return [self.generator, self.critic] + ([self.average] if self.average else [])

    @property
    def shown(self) -> nn.Module:
        """The generator that is listened to."""
        return self.average or self.generator

    def latents(self, count: int) -> Tensor:
        """Fresh `z (count, latent_dim)` from the device's random state."""
        shape = (count, self.cfg.latent_dim)
        if self.cfg.latent == "uniform":
            return torch.rand(shape, device=self.device) * 2 - 1
        return torch.randn(shape, device=self.device)

    def mixed_precision(self, wanted: bool = True) -> torch.autocast:
        """The precision of forward passes; fp16 is a matter of CUDA, a CPU computes in fp32."""
        dtype = torch.float16 if self.cfg.precision == "fp16" else torch.bfloat16
        here = self.device.type == "cuda" or self.cfg.precision == "bf16"
        enabled = wanted and here and self.cfg.precision != "fp32"
        return torch.autocast(self.device.type, dtype, enabled=enabled)


def build_optimiser(cfg: Config, network: nn.Module, rate: float) -> torch.optim.Optimizer:
    weights = list(network.parameters())
    captured = weights[0].is_cuda  # counts its steps on the device, as a graph must
    warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
    if cfg.optimiser == "rmsprop":
        return torch.optim.RMSprop(weights, lr=rate, alpha=cfg.betas[1], capturable=captured)
    return torch.optim.Adam(weights, lr=rate, betas=cfg.betas, fused=True, capturable=captured)


def critic_step(run: Run, real: Tensor, labels: Tensor) -> Tensor:
    """One critic update on `real (B, 1, *S)`; returns the first four METRICS, detached."""
    cfg, critic, z = run.cfg, run.critic, run.latents(len(real))
    with torch.no_grad(), run.mixed_precision():  # a source of clips only: no graph of it
        fake = run.generator(z, labels).to(real.dtype)
    real, fake = augment(real, cfg.augment), augment(fake, cfg.augment)
    both, twice = torch.cat([real, fake]), torch.cat([labels, labels])
    penalty, told = torch.zeros((), device=run.device), 0.0
    # Cached: one power iteration and one set of normalised weights for penalty and scores alike.
    with parametrize.cached():
        # Penalties are never in half precision: squares of small slopes vanish.
        if cfg.objective == "wgan-gp":
            penalty = gradient_penalty(critic, real, fake, labels, cfg.gp_weight)
        due = zero_due(run)
        both.requires_grad_(due)
        with run.mixed_precision(not due):
            if cfg.critic_norm == "batch":  # real and generated have statistics of their own
                scores = torch.cat([critic(real, labels), critic(fake, labels)])
            else:  # one pass is quicker, and exact where each clip is judged by itself
                opinion = critic.judge(both, twice)
                scores, told = opinion.scores, told_loss(cfg, opinion, labels, z)
        if due:
            penalty = penalty + zero_penalty(scores, both, cfg.zero_weight * cfg.zero_every)
    on_real, on_fake = scores.to(real.dtype).chunk(2)
    loss = critic_loss(cfg, on_real, on_fake) + penalty + told
    norm = _update(run, critic, run.critic_optimiser, loss)
    if cfg.objective == "wgan-clip":  # Arjovsky, Chintala & Bottou 2017, algorithm 1
        with torch.no_grad():
            for weight in critic.parameters():
                weight.clamp_(-cfg.weight_clip, cfg.weight_clip)
    return torch.stack([loss, on_real.mean() - on_fake.mean(), penalty, norm]).detach()


def generator_step(run: Run, real: Tensor, labels: Tensor) -> Tensor:
    """One generator update; returns the last three METRICS, detached.

    To the loss of the objective come `l1_weight * L1(fake, real)`, where real clips of the same
    labels stand beside the generated ones, and what `told_loss` adds.
    """
    cfg, on_real, z = run.cfg, None, run.latents(len(real))
    run.critic.requires_grad_(False)  # the critic only judges here: no gradients of its weights
    with run.mixed_precision():
        fake = run.generator(z, labels)
        opinion = run.critic.judge(augment(fake, cfg.augment), labels)
        if cfg.objective == "relativistic":
            on_real = run.critic(augment(real, cfg.augment), labels).to(real.dtype)
    l1 = torch.zeros((), device=run.device)
    if cfg.l1_weight:
        l1 = nn.functional.l1_loss(fake.to(real.dtype), real)
    loss = generator_loss(cfg, opinion.scores.to(real.dtype), on_real) + cfg.l1_weight * l1
    loss = loss + told_loss(cfg, opinion, labels, z)
    norm = _update(run, run.generator, run.generator_optimiser, loss)
    run.critic.requires_grad_(True)
    if run.average:
        follow(run)
    return torch.stack([loss, l1, norm]).detach()


@torch.no_grad()
def follow(run: Run) -> None:
    """Move the averaged weights towards the generator's (Yazici et al. 2019, section 3.2).

    The first updates count more, so that the average forgets the weights of the beginning. Their
    number is the optimiser's own, which lies on the device and is saved with it.
    """
    done = next(iter(run.generator_optimiser.state.values()))["step"]
    keep = ((1 + done) / (10 + done)).clamp(max=0.5 ** (1 / run.cfg.average))
    for slow, now in zip(run.average.parameters(), run.generator.parameters()):
        slow.lerp_(now, (1 - keep).to(now.dtype))
    for slow, now in zip(run.average.buffers(), run.generator.buffers()):
        slow.copy_(now)


def _update(run: Run, network: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Backward and one optimiser step; returns the norm of the whole gradient."""
    optimiser.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    ranks.average(network)  # before the scaler looks: all ranks take this step or none does
    run.scaler.unscale_(optimiser)
    norm = get_total_norm([p.grad for p in network.parameters()])
    run.scaler.step(optimiser)
    run.scaler.update()
    # The scaler looks for the largest factor that does not overflow, by trying: then the update is
    # left out, and the norm of that gradient is no number of this run.
    return norm.nan_to_num(0.0, 0.0, 0.0) if run.scaler.is_enabled() else norm


def full_step(run: Run, real: Tensor, labels: Tensor) -> Tensor:
    """What one batch brings: critic updates, and the generator's where it is due; METRICS.

    Either all `critic_steps` updates use this batch with fresh latents and the generator follows,
    or (`fresh_batches`) each batch is one critic update, and every `critic_steps`-th of them also
    one of the generator.
    """
    real = vary(real, run.cfg.vary, run.cfg.quietest)
    updates = 1 if run.cfg.fresh_batches else run.cfg.critic_steps
    critic = torch.stack([critic_step(run, real, labels) for _ in range(updates)]).mean(0)
    if not generator_due(run):
        return torch.cat([critic, torch.zeros(3, device=run.device)])
    return torch.cat([critic, generator_step(run, real, labels)])


def generator_due(run: Run) -> bool:
    """Whether the coming step updates the generator too."""
    return not run.cfg.fresh_batches or (run.step + 1) % run.cfg.critic_steps == 0


def zero_due(run: Run) -> bool:
    """Whether the coming step's critic updates have the zero-centred penalty (lazily, as Karras et
    al. 2020, StyleGAN2, section 3.1)."""
    return run.cfg.zero_weight > 0 and run.step % run.cfg.zero_every == 0


def kind_of_step(run: Run) -> tuple[bool, bool]:
    """All that a step asks of the host."""
    return generator_due(run), zero_due(run)


# ---- checkpoints --------------------------------------------------------------------------------
# What is saved is all that a step reads and changes; what can be derived from the constants (the
# order of an epoch, the latents of the samples) is not.

NETWORKS = ("generator", "critic", "generator_optimiser", "critic_optimiser", "scaler")
COUNTERS = ("epoch", "step", "step_in_epoch", "generator_updates", "seconds", "data")


def state_of(run: Run) -> dict:
    """The content of a checkpoint."""
    state = {name: getattr(run, name).state_dict() for name in NETWORKS}
    state["average"] = run.average.state_dict() if run.average else None
    state |= {name: getattr(run, name) for name in (*COUNTERS, "sums", "classes")}
    state |= {"config": config.to_dict(run.cfg), "random": runs.random_state(run.device)}
    return state | {"random_others": run.others}


def restore(run: Run, state: dict) -> None:
    """Put a run where a checkpoint left it; raises UserError naming whatever differs."""
    if lacking := [n for n in (*NETWORKS, *COUNTERS, "sums", "random") if n not in state]:
        raise UserError(
            f"The checkpoint in {run.cfg.run_dir} was written by another version of this program "
            f"(it lacks {', '.join(lacking)}): start another run with --run-name NAME."
        )
    differing = config.must_match(state["config"], config.to_dict(run.cfg))
    changes = [f"{n} {state['config'].get(n)} -> {getattr(run.cfg, n)}" for n in differing]
    if state["classes"] != run.classes:
        gone = sorted(set(state["classes"]) - set(run.classes))
        new = sorted(set(run.classes) - set(state["classes"]))
        changes.append(f"classes (gone: {gone or 'none'}, new: {new or 'none'})")
    if changes:
        raise UserError(
            f"{run.cfg.run_dir} was trained with other values: {'; '.join(changes)}. Continue it "
            "with the old ones, or start another run beside it with --run-name NAME."
        )
    for name in NETWORKS:
        for group in state[name].get("param_groups", ()):  # it may come from another device
            group["capturable"] = run.device.type == "cuda"
        if state[name]:  # a scaler that does nothing has no state
            getattr(run, name).load_state_dict(state[name])
    for optimiser in (run.generator_optimiser, run.critic_optimiser):
        lay_out(optimiser)
    if run.average:
        run.average.load_state_dict(state["average"])
    for name in COUNTERS:
        setattr(run, name, state[name])
    run.sums.copy_(state["sums"])
    runs.set_random_state(state["random"], run.device)


def lay_out(optimiser: torch.optim.Optimizer) -> None:
    """Give what was loaded the order in memory of the weights it belongs to.

    Kernels lie otherwise on another device (`models.place`), and fused steps go by places: they
    refuse moments in another order, or take those of other weights.
    """
    for weight, moments in optimiser.state.items():
        for name, value in moments.items():
            if value.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(value)


# ---- train --------------------------------------------------------------------------------------


def train(cfg: Config) -> Run:
    """Train, or continue, the run that `cfg` describes; returns it finished.

    Raises UserError (something to mend), Diverged, or Interrupted after saving.
    """
    device = ranks.after_first(runs.pick_device, ranks.placed(cfg))
    ranks.check_kind(device)
    found = ranks.first_alone(dataset.find_clips, cfg)
    with ranks.first_holds(runs.locked, cfg.run_dir):
        clips = load_clips(cfg, found)
        state = ranks.on_first(runs.load_checkpoint, cfg.run_dir)
        with runs.StopSignal() as stop, runs.explain_memory(less_memory(cfg)):
            run = ranks.after_first(start_or_continue, cfg, clips, device, state)
            run.others = ranks.from_others(runs.random_state, device)
            split = ranks.on_first(make_room, run, clips, state)
            if state is None:
                ranks.first_alone(set_standard, run, clips, split.training)
            ranks.broadcast(*run.networks)
            batches = Batches(clips, split.training, cfg, device)
            with ranks.first_holds(open_desk, run, clips, split, state, stop) as desk:
                ranks.first_alone(write_what_lacks, run, desk)
                if run.epoch >= cfg.epochs:
                    print(f"{cfg.run_dir} is finished after epoch {run.epoch}. {_what_next(run)}")
                    return run
                train_epochs(run, batches, desk, stop)
    place = Samples.path(cfg, run.epoch)
    print(f"Finished after epoch {run.epoch}: listen in {place}. {_what_next(run)}")
    return run


def load_clips(cfg: Config, found: dataset.Found | None) -> dataset.Clips:
    """The data set: rank 0 decodes `found` where need be, then the others open what it keeps."""
    clips = ranks.first_alone(dataset.load, cfg, found)
    where = ranks.from_first((clips.root, clips.fingerprint) if clips is not None else None)
    return dataset.open_clips(cfg, *where) if clips is None else clips


def make_room(run: Run, clips: dataset.Clips, state: dict | None) -> dataset.Split:
    """Clear the run's folder of what comes after its checkpoint; part the clips."""
    cfg = run.cfg
    runs.forget_after(cfg.run_dir, run.epoch, fresh=state is None)
    dataset.list_left_out(clips, cfg.run_dir)
    split = dataset.split(cfg, clips, known=state is not None)
    print(split.said, flush=True)
    return split


def open_desk(
    run: Run,
    clips: dataset.Clips,
    split: dataset.Split,
    state: dict | None,
    stop: runs.StopSignal,
) -> Desk:
    """What the run is written with, at rank 0; the others have none."""
    columns = ("epoch", "step", "seconds", *METRICS)
    same_files = state is not None and state["data"] == run.data
    return Desk.open(
        run.cfg, run.classes, clips, split, run.device, run.epoch, columns, same_files, stop
    )


def start_or_continue(
    cfg: Config, clips: dataset.Clips, device: torch.device, state: dict | None
) -> Run:
    """A fresh run, or the one that a checkpoint holds."""
    run = Run.start(cfg, clips.classes if cfg.conditional else [], device)
    if state:
        restore(run, state)
        within = f" and {run.step_in_epoch} steps" if run.step_in_epoch else ""
        print(f"Continuing {cfg.run_dir} after epoch {run.epoch}{within}.", flush=True)
        if run.data != clips.fingerprint:
            print("The files are not those of the checkpoint: it goes on with what is there now.")
    run.data = clips.fingerprint
    own_noise(run, state)
    return run


def set_standard(run: Run, clips: dataset.Clips, rows: np.ndarray) -> None:
    """Tell the networks the mean and deviation of each band, where they ask for them."""
    if not run.cfg.standardise:
        return
    mean, deviation = map(torch.from_numpy, dataset.band_statistics(clips, rows))
    for network in run.networks:
        network.standard.mean.copy_(mean)
        network.standard.deviation.copy_(deviation)


def own_noise(run: Run, state: dict | None) -> None:
    """Give ranks 1, 2, ... random states of their own: the saved ones, if so many were saved."""
    if not (rank := ranks.rank()):
        return
    runs.seed_everything(ranks.noise_seed(run.cfg.seed, run.step))
    saved = state.get("random_others", []) if state else []  # older checkpoints have none
    if rank <= len(saved):
        runs.set_random_state(saved[rank - 1], run.device)


def train_epochs(run: Run, batches: Batches, desk: Desk | None, stop: runs.StopSignal) -> None:
    """All epochs that are left, with what is written after each."""
    cfg = run.cfg
    total = run.step - run.step_in_epoch + (cfg.epochs - run.epoch) * batches.steps
    quiet = ranks.rank() > 0
    step = stepper(run)
    with tqdm(total=total, initial=run.step, unit="step", mininterval=0.5, disable=quiet) as bar:
        while run.epoch < cfg.epochs:
            train_epoch(run, batches, step, bar, desk, stop)
            means = ranks.on_first(read_means, run)
            run.epoch += 1
            row = {"epoch": run.epoch, "step": run.step, "seconds": run.seconds} | means
            run.step_in_epoch, run.generator_updates, run.seconds = 0, 0, 0.0
            run.sums.zero_()
            run.others = ranks.from_others(runs.random_state, run.device)
            ranks.first_alone(write_epoch, run, desk, stop, row)


def stepper(run: Run) -> graph.Plain | graph.Steps:
    """What makes one step of a run on a batch and adds its METRICS to the sums of the epoch."""
    if run.cfg.compile:
        layers.fuse()

    def work(x: Tensor, labels: Tensor) -> None:
        try:
            run.sums += ranks.mean(full_step(run, x, labels))
        except RuntimeError:  # of a capture, perhaps: what is done half stands in no step's way
            run.critic.requires_grad_(True)
            if run.scaler.is_enabled():
                run.scaler._per_optimizer_states.clear()
            raise

    return graph.steps(work, run.cfg, run.device)


def train_epoch(
    run: Run,
    batches: Batches,
    step: graph.Plain | graph.Steps,
    bar: tqdm,
    desk: Desk | None,
    stop: runs.StopSignal,
) -> None:
    """The steps of one epoch, from wherever the run stands in it.

    The running means are read from the device and shown once a second; that is also when numbers
    that are none are found. Raises Diverged; Interrupted after saving.
    """
    bar.set_description(f"Epoch {run.epoch + 1}/{run.cfg.epochs}")
    before, began, first = run.seconds, time.perf_counter(), run.step
    shown = began
    with closing(batches.epoch(run.epoch, run.step_in_epoch, step.batch)) as coming:
        for x, labels in coming:
            step(x, labels, kind=kind_of_step(run))
            run.generator_updates += generator_due(run)
            run.step += 1
            run.step_in_epoch += 1
            now = time.perf_counter()
            run.seconds = before + now - began
            # Before anything is shown: the terminal may have been closed by what stops the run.
            asked, look = ranks.agree(stop.name, now - shown > 1)
            if asked and run.step_in_epoch < batches.steps:
                run.others = ranks.from_others(runs.random_state, run.device)
                stop.name = asked  # it may have come to another rank
                ranks.first_alone(save_and_stop, run, desk, asked)
            if look or run.step_in_epoch == batches.steps:
                shown = now
                means = ranks.on_first(read_means, run)
                with suppress(OSError):
                    bar.set_postfix(_in_short(means), refresh=False)
            with suppress(OSError):
                bar.update()
                if not bar.disable and run.device.type == "cpu" and bar.n - bar.initial == 3:
                    bar.write(_estimate(run, batches.steps, (now - began) / (run.step - first)))


def read_means(run: Run) -> dict[str, float]:
    """Means of METRICS over this epoch's updates so far; raises Diverged if one is NaN or Inf.

    Those of the generator are NaN, and that is no divergence, before its first update of the epoch.
    """
    sums = dict(zip(METRICS, run.sums.tolist()))
    counts = [run.step_in_epoch] * 4 + [run.generator_updates] * 3
    means = {k: s / n if n else math.nan for (k, s), n in zip(sums.items(), counts)}
    bad = [name for name, value in sums.items() if not math.isfinite(value)]
    if bad:
        saved = run.cfg.run_dir / "checkpoints" / "last.pt"
        intact = f"{saved} holds the last good state. " if saved.exists() else ""
        raise Diverged(
            f"{', '.join(bad)} became NaN or Inf in epoch {run.epoch + 1}, at step {run.step} "
            f"or just before; training stops. {intact}Start another run (--run-name NAME) with a "
            f"lower --critic-lr (now {run.cfg.critic_lr:g}) or --generator-lr "
            f"(now {run.cfg.generator_lr:g})."
        )
    return means


def save_and_stop(run: Run, desk: Desk, signal: str) -> None:
    """Raises Interrupted after saving."""
    read_means(run)  # never save what has diverged
    desk.save_checkpoint(state_of(run))
    runs.write_bytes(run.cfg.run_dir / "generator.safetensors", snapshot_of(run).weights)
    raise interrupted(run.cfg, signal, run.step)


def write_epoch(run: Run, desk: Desk, stop: runs.StopSignal, row: dict[str, float]) -> None:
    """What is written after an epoch; `row` is its row of the log.

    Log before checkpoint before samples before scores: on continuing, a row too many is dropped and
    samples or scores that lack are made, so that a kill between any two of them loses nothing.
    """
    desk.add(row)
    parts, last = desk.lacking(run.epoch), run.epoch == run.cfg.epochs
    if parts or last:
        desk.wait()  # one piece of work at a time
    if stop.name and not last:
        save_and_stop(run, desk, stop.name)
    if last or SCORES in parts or desk.owes_checkpoint(run.epoch):
        desk.save_checkpoint(state_of(run))
    if parts:
        desk.hand_in(snapshot_of(run), parts)
    if last:
        desk.wait()


def write_what_lacks(run: Run, desk: Desk) -> None:
    """The samples and the scores that a stopped run's last epoch lacks."""
    parts = [] if run.step_in_epoch else desk.lacking(run.epoch)
    if SCORES in parts:
        desk.save_checkpoint(state_of(run))  # what it continues from may have been previous.pt
    if parts:
        desk.hand_in(snapshot_of(run), parts)


def snapshot_of(run: Run) -> Snapshot:
    """The generator as it is now, for whoever writes while training goes on."""
    weights = weights_file(run.cfg, run.shown, run.epoch, run.step)
    return Snapshot(run.epoch, run.step, weights)


# ---- what is said -------------------------------------------------------------------------------


def _in_short(means: dict[str, float]) -> dict[str, str]:
    """METRICS under names that fit into one line of a terminal."""
    return {short: f"{means[name]:.3g}" for short, name in zip(SHORT_METRICS, METRICS)}


def _estimate(run: Run, steps: int, seconds: float) -> str:
    left = (run.cfg.epochs * steps - run.step) * seconds
    few = run.epoch + max(1, round(600 / (seconds * steps)))
    text = f"On this CPU a step takes {seconds:.2g} s: the run needs another {runs.duration(left)}."
    if few < run.cfg.epochs:
        text += f" --epochs {few} makes that {runs.duration((few - run.epoch) * steps * seconds)}."
    return text + " A CUDA GPU is far quicker."


def _what_next(run: Run) -> str:
    return (
        f"More sounds: python generate.py {run.cfg.run_dir}. "
        f"Longer training: the same command with --epochs {2 * run.epoch}."
    )


# ---- the command --------------------------------------------------------------------------------


def time_of_step(run: Run, x: Tensor, labels: Tensor) -> float:
    """Mean seconds of a step on a batch, from one of each kind, as often as it comes."""

    def seconds(step: int) -> float:
        run.step = step
        start = time.perf_counter()
        run.sums = full_step(run, x, labels)
        run.step_in_epoch = run.generator_updates = 1
        read_means(run)  # waits for the device
        return time.perf_counter() - start

    cfg, kinds = run.cfg, {}
    cycle = math.lcm(cfg.critic_steps if cfg.fresh_batches else 1, cfg.zero_every)
    for run.step in range(cycle):
        kinds.setdefault(kind_of_step(run), []).append(run.step)
    for steps in kinds.values():
        seconds(steps[0])  # pays for warming up
    return sum(len(steps) * seconds(steps[0]) for steps in kinds.values()) / cycle


def dry_run(cfg: Config) -> None:
    """Check data, vocoder, memory and one step; say what a run would do; write nothing."""
    device = runs.pick_device(cfg)
    found = dataset.find_clips(cfg)
    if found.files:
        clips = dataset.load(cfg, found, keep=False)
    else:
        print(f"No class folders below {cfg.data_dir}/: a run would write the synthetic set there.")
        with tempfile.TemporaryDirectory() as folder:
            demo.write(folder)
            there = replace(cfg, data_dir=folder)
            clips = dataset.load(there, dataset.find_clips(there), keep=False)
    with runs.explain_memory(less_memory(cfg)):
        state = runs.load_checkpoint(cfg.run_dir, put_aside=False)
        run = start_or_continue(cfg, clips, device, state)
        vocoder, note = audio.load_vocoder(cfg, device, fetch=False)
        print(note or f"Vocoder {vocoder.name}: loaded and tried.")
        epoch, step = run.epoch, run.step
        split = dataset.split(cfg, clips, known=state is not None, keep=False)
        print(split.said)
        if epoch >= cfg.epochs:
            print(f"{cfg.run_dir} is finished after epoch {epoch}. {_what_next(run)}")
            return
        set_standard(run, clips, np.arange(min(len(clips.data), cfg.batch_size)))
        x = torch.from_numpy(np.array(clips.data[: cfg.batch_size])).to(device)
        labels = torch.tensor(clips.labels[: cfg.batch_size], device=device)
        seconds = time_of_step(run, x, labels)
    an_epoch = len(split.training) // cfg.batch_size
    steps = cfg.epochs * an_epoch - step
    sets = sum(cfg.is_sampled(e) for e in range(epoch + 1, cfg.epochs + 1))
    weights = sum(p.numel() for net in (run.generator, run.critic) for p in net.parameters())
    a_set = len(samples_of(run.classes)) * (2 * cfg.wav_samples + 60_000)  # WAVs and pictures
    # The cache; two checkpoints and the next one, each weights and Adam's two moments.
    disk = 4 * len(clips) * math.prod(cfg.shape) + 3 * 3 * 4 * weights + sets * a_set
    print(runs.space(device, disk, cfg.run_dir))
    print(
        f"Would train {cfg.recipe} into {cfg.run_dir} on {device}: epochs {epoch + 1} to "
        f"{cfg.epochs} of {an_epoch} steps, {sets} sets of samples.\n"
        f"A step takes {seconds:.3g} s, the whole run about {runs.duration(steps * seconds)} and "
        "its samples and checkpoints.\nNothing was written."
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with runs.friendly() as outcome, ranks.group():
        cfg = ranks.on_first(lambda: ranks.checked(config.parse(argv)))
        dry_run(cfg) if cfg.dry_run else train(cfg)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
