"""Learn your sounds: folders of WAVs in, new sounds out.

    python train.py [RECIPE] [--field value ...]
    torchrun --nproc-per-node N train.py [RECIPE] [--field value ...]

The story of a run, from top to bottom: how a batch of clips becomes an update of the critic and of
the generator; the loop over epochs, and what is written after each; `train()`, which ties data,
networks and files together. What training changes, and a checkpoint therefore holds, is a `Run`
(`soundgan/training/run.py`). The losses are those of the recipe's objective
(`soundgan/training/objectives.py`), the networks those of `soundgan/models/`.

In several processes (`soundgan/training/distributed.py`) each computes a part of every batch, and
rank 0 does the rest.

Exit codes: 0 finished, 2 something to mend before training (data, constants, disk), 3 the numbers
diverged, 75 interrupted and saved: the same command continues; 1 a fault, or another rank is gone.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import closing, suppress
from types import ModuleType

if __name__ == "__main__":
    from soundgan import startup

    startup.leave_on_interrupt()  # during the imports below, which take seconds

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.nn.utils import get_total_norm, parametrize

from soundgan import command_line, config_io, dataset
from soundgan.console import Progress, friendly, progress
from soundgan.dataset.demo import HOME as DEMO_FOLDER
from soundgan.errors import Diverged
from soundgan.files import locked, write_bytes
from soundgan.models import layers
from soundgan.models.augmentation import augment, jitter
from soundgan.report import messages
from soundgan.report.dry_run import dry_run
from soundgan.report.recorder import (
    SCORES,
    Recorder,
    Snapshot,
    interrupted,
    less_memory,
    weights_file,
)
from soundgan.run_folder import changed_before
from soundgan.settings import Config
from soundgan.training import checkpoints, continuing, cuda_graph, distributed
from soundgan.training.batches import Batches
from soundgan.training.devices import explain_memory, pick_device
from soundgan.training.initialise import Source, find_source, initialise, with_doubts
from soundgan.training.random_state import random_state
from soundgan.training.run import (
    CRITIC_METRICS,
    GENERATOR_METRICS,
    METRICS,
    SHORT_METRICS,
    Run,
)
from soundgan.training.signals import StopSignal

# ---- steps --------------------------------------------------------------------------------------
# Pure tensor work: nothing here reads a number back from the device, so the host can run ahead.


def critic_step(run: Run, real: Tensor, labels: Tensor) -> Tensor:
    """One critic update on `real (B, 1, *S)`; returns CRITIC_METRICS, detached."""
    cfg, critic, objective = run.cfg, run.critic, run.cfg.objective
    z = run.latents(len(real))  # (B, latent_dim)
    with torch.no_grad(), run.mixed_precision():  # a source of clips only: no graph of it
        fake = run.generator(z, labels).to(real.dtype)  # (B, 1, *S)
    both = augment(torch.cat([real, fake]), cfg.critic.augment)  # (2 B, 1, *S)
    (real, fake), both_labels = both.chunk(2), torch.cat([labels, labels])
    auxiliary = 0.0
    # Cached: one power iteration and one set of normalised weights for penalty and scores alike.
    with parametrize.cached():
        # Penalties are never in half precision: squares of small slopes vanish.
        penalty = objective.penalty(critic, real, fake, labels)
        r1_r2 = objective.r1_r2_due(run.step)
        both.requires_grad_(slope := r1_r2 and objective.r1_r2_by == "gradient")
        with run.mixed_precision(not slope):
            if cfg.critic.batch_norm:  # real and generated have statistics of their own
                scores = torch.cat([critic(real, labels), critic(fake, labels)])
            else:  # one pass is quicker, and exact where each clip is scored by itself
                output = critic.outputs(both, both_labels)
                scores = output.scores  # (2 B,) or (2 B, P)
                auxiliary = objective.auxiliary_loss(output, labels, z)
        if r1_r2:
            penalty = penalty + objective.r1_r2(critic, scores, both, both_labels)
    on_real, on_fake = scores.to(real.dtype).chunk(2)
    loss = objective.critic_loss(on_real, on_fake) + penalty + auxiliary
    norm = update(run, critic, run.critic_optimiser, loss)
    objective.constrain(critic)
    return torch.stack([loss, on_real.mean() - on_fake.mean(), penalty, norm]).detach()


def generator_step(run: Run, real: Tensor, labels: Tensor) -> Tensor:
    """One generator update beside `real (B, 1, *S)`; returns GENERATOR_METRICS, detached."""
    cfg, objective, on_real = run.cfg, run.cfg.objective, None
    z = run.latents(len(real))
    run.critic.requires_grad_(False)  # the critic only scores here: no gradients of its weights
    with run.mixed_precision():
        fake = run.generator(z, labels)  # (B, 1, *S)
        output = run.critic.outputs(augment(fake, cfg.critic.augment), labels)
        if objective.relative:
            on_real = run.critic(augment(real, cfg.critic.augment), labels).to(real.dtype)
        denoising = run.generator.denoising_loss(real, labels)  # apart: of weights of its own
    l1 = torch.zeros((), device=run.device)
    if objective.l1_weight:  # real clips of the same labels stand beside the generated ones
        l1 = l1_loss(fake.to(real.dtype), real)
    loss = objective.generator_loss(output.scores.to(real.dtype), on_real)
    loss = loss + objective.l1_weight * l1
    loss = loss + objective.auxiliary_loss(output, labels, z) + denoising
    norm = update(run, run.generator, run.generator_optimiser, loss)
    run.critic.requires_grad_(True)
    if run.average:
        update_average(run)
    return torch.stack([loss, l1, norm]).detach()


def update(run: Run, network: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Backward and one optimiser step; returns the norm of the whole gradient."""
    optimiser.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    distributed.average(network)  # before the scaler looks: all ranks take this step or none does
    run.scaler.unscale_(optimiser)
    norm = get_total_norm([p.grad for p in network.parameters()])
    run.scaler.step(optimiser)
    run.scaler.update()
    # The scaler looks for the largest factor that does not overflow, by trying: then the update is
    # left out, and the norm of that gradient is no number of this run.
    return norm.nan_to_num(0.0, 0.0, 0.0) if run.scaler.is_enabled() else norm


@torch.no_grad()
def update_average(run: Run) -> None:
    """Move the averaged weights towards the generator's (Yazici et al. 2019, section 3.2).

    The first updates count more, so that the average forgets the weights of the beginning. Their
    number is the optimiser's own, which lies on the device and is saved with it.
    """
    done = next(iter(run.generator_optimiser.state.values()))["step"]
    keep = ((1 + done) / (10 + done)).clamp(max=0.5 ** (1 / run.cfg.optimiser.ema_half_life))
    slow, now = list(run.average.parameters()), list(run.generator.parameters())
    torch._foreach_sub_(slow, now)  # all weights at once, in place: now + keep * (slow - now)
    torch._foreach_mul_(slow, keep.to(now[0].dtype))
    torch._foreach_add_(slow, now)
    if buffers := list(run.average.buffers()):
        torch._foreach_copy_(buffers, list(run.generator.buffers()))


def full_step(run: Run, real: Tensor, labels: Tensor) -> Tensor:
    """What one batch brings: critic updates, and the generator's where it is due; METRICS.

    Either all `critic_steps` updates use this batch with fresh latents and the generator follows,
    or (`fresh_batches`) each batch is one critic update, and every `critic_steps`-th of them also
    one of the generator.
    """
    own, sound = run.cfg.optimiser, run.cfg.sound
    if sound.jitter:
        real = jitter(real, sound.jitter, sound.quietest)
    updates = 1 if own.fresh_batches else own.critic_steps
    critic = torch.stack([critic_step(run, real, labels) for _ in range(updates)]).mean(0)
    if not generator_due(run):
        return torch.cat([critic, torch.zeros(len(GENERATOR_METRICS), device=run.device)])
    return torch.cat([critic, generator_step(run, real, labels)])


def generator_due(run: Run) -> bool:
    """Whether the coming step updates the generator too."""
    own = run.cfg.optimiser
    return not own.fresh_batches or (run.step + 1) % own.critic_steps == 0


def kind_of_step(run: Run) -> cuda_graph.Kind:
    """All that a step asks of the host."""
    return cuda_graph.Kind(generator_due(run), run.cfg.objective.r1_r2_due(run.step))


def make_stepper(run: Run) -> cuda_graph.Stepper:
    """What makes one step of a run on a batch and adds its METRICS to the sums of the epoch."""

    def work(x: Tensor, labels: Tensor) -> None:
        try:
            with layers.compiled(run.cfg.compile):
                run.sums += distributed.mean(full_step(run, x, labels))
        except RuntimeError:  # of a capture, perhaps: what is done half stands in no step's way
            run.critic.requires_grad_(True)
            for network in run.networks:
                network.zero_grad(set_to_none=True)  # they lie in the memory of the graph
            if run.scaler.is_enabled():
                run.scaler._per_optimizer_states.clear()
            raise

    return cuda_graph.steps(work, run.cfg, run.device)


# ---- the loop -----------------------------------------------------------------------------------


def train_epochs(run: Run, batches: Batches, recorder: Recorder | None, stop: StopSignal) -> None:
    """All epochs that are left, with what is written after each; `recorder`: at rank 0 only."""
    cfg = run.cfg
    total = run.step - run.step_in_epoch + (cfg.epochs - run.epoch) * batches.steps
    quiet = distributed.rank() > 0
    step = make_stepper(run)
    with progress(total, "step", initial=run.step, disable=quiet) as bar:
        while run.epoch < cfg.epochs:
            train_epoch(run, batches, step, bar, recorder, stop)
            means = distributed.on_first(read_means, run)
            run.epoch += 1
            row = {"epoch": run.epoch, "step": run.step, "seconds": run.seconds} | means
            run.step_in_epoch, run.generator_updates, run.seconds = 0, 0, 0.0
            run.sums.zero_()
            run.others = distributed.from_others(random_state, run.device)
            distributed.first_alone(write_epoch, run, recorder, stop, row)


def train_epoch(
    run: Run,
    batches: Batches,
    step: cuda_graph.Stepper,
    bar: Progress,
    recorder: Recorder | None,
    stop: StopSignal,
) -> None:
    """The steps of one epoch, from wherever the run stands in it.

    The running means are read from the device and shown once a second; that is also when numbers
    that are none are found. Raises Diverged; Interrupted after saving.
    """
    bar.set_description(f"Epoch {run.epoch + 1}/{run.cfg.epochs}", refresh=False)
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
            asked, look = distributed.agree(stop.name, now - shown > 1)
            if asked and run.step_in_epoch < batches.steps:
                run.others = distributed.from_others(random_state, run.device)
                stop.name = asked  # it may have come to another rank
                distributed.first_alone(save_and_stop, run, recorder, asked)
            if look or run.step_in_epoch == batches.steps:
                shown = now
                means = distributed.on_first(read_means, run)
                with suppress(OSError):
                    short = {s: f"{means[name]:.3g}" for s, name in zip(SHORT_METRICS, METRICS)}
                    bar.set_postfix(short, refresh=False)
            with suppress(OSError):
                bar.update()
                if not bar.disable and run.device.type == "cpu" and bar.n - bar.initial == 3:
                    seconds = (now - began) / (run.step - first)
                    bar.write(messages.estimate(run, batches.steps, seconds))


def read_means(run: Run) -> dict[str, float]:
    """Means of METRICS over this epoch's updates so far; raises Diverged if one is NaN or Inf.

    Those of the generator are NaN, and that is no divergence, before its first update of the epoch.
    """
    sums = dict(zip(METRICS, run.sums.tolist()))
    counts = [run.step_in_epoch] * len(CRITIC_METRICS)
    counts += [run.generator_updates] * len(GENERATOR_METRICS)
    means = {k: s / n if n else math.nan for (k, s), n in zip(sums.items(), counts)}
    if bad := [name for name, value in sums.items() if not math.isfinite(value)]:
        raise Diverged(messages.diverged(run, bad))
    return means


def write_epoch(run: Run, recorder: Recorder, stop: StopSignal, row: dict[str, float]) -> None:
    """What is written after an epoch; `row` is its row of the log.

    Log before checkpoint before samples before scores: on continuing, a row too many is dropped and
    samples or scores that are missing are made, so that a kill between any two loses nothing. The
    first samples come with a checkpoint: weights without one would be taken for a run's remains.
    """
    recorder.add(row)
    parts, last = recorder.missing(run.epoch), run.epoch == run.cfg.epochs
    if parts or last:
        recorder.wait()  # one piece of work at a time
    if stop.name and not last:
        save_and_stop(run, recorder, stop.name)
    first = bool(parts) and not checkpoints.is_saved(run.cfg.run_dir)
    needed = last or first or recorder.checkpoint_needed(parts)
    if needed or recorder.checkpoint_due(run.epoch):
        recorder.save_checkpoint(run.state())
    if parts:
        recorder.submit(snapshot_of(run), parts)
    if last:
        recorder.wait()


def write_missing(run: Run, recorder: Recorder) -> None:
    """The samples and the scores that a stopped run's last epoch has not got yet."""
    parts = [] if run.step_in_epoch else recorder.missing(run.epoch)
    if SCORES in parts:
        recorder.save_checkpoint(run.state())  # it may have continued from previous.pt
    if parts:
        recorder.submit(snapshot_of(run), parts)


def save_and_stop(run: Run, recorder: Recorder, signal: str) -> None:
    """Raises Interrupted after saving."""
    read_means(run)  # never save what has diverged
    recorder.save_checkpoint(run.state())
    write_bytes(run.cfg.run_dir / "generator.safetensors", snapshot_of(run).weights)
    raise interrupted(run.cfg, signal, run.step)


def snapshot_of(run: Run) -> Snapshot:
    """The generator as it is now, for whoever writes while training goes on."""
    weights = weights_file(run.cfg, run.shown, run.epoch, run.step)
    return Snapshot(run.epoch, run.step, weights)


# ---- all of it ----------------------------------------------------------------------------------


def train(cfg: Config, changed: dict | None = None, demo: bool = False) -> Run:
    """Train, or continue, the run that `cfg` describes; returns it finished.

    `changed`: constants that differ from the recipe as config.py has it, by their full names; None:
    they are compared here. `demo`: whether the synthetic set may be written where there are no
    sounds. Raises UserError (something to mend), Diverged, or Interrupted after saving.
    """
    if changed is None:
        usual = command_line.imported("config").RECIPES.get(cfg.recipe)
        changed = config_io.changes(usual, cfg) if usual else changed_before(cfg.run_dir)
    device = distributed.after_first(pick_device, distributed.placed(cfg))
    distributed.connect(device)
    distributed.first_alone(continuing.refuse_folder, cfg.run_dir, "--init-from")
    found = distributed.first_alone(dataset.find_clips, cfg, demo)
    with distributed.first_holds(locked, cfg.run_dir):
        kept = distributed.on_first(continuing.find_checkpoint, cfg)
        source = distributed.first_alone(find_source, cfg, kept)
        clips = load_clips(cfg, found, demo)
        state = kept.state if kept else None
        with StopSignal() as stop, explain_memory(less_memory(cfg)):
            run = distributed.after_first(start_or_continue, cfg, clips, device, state, source)
            run.others = distributed.from_others(random_state, device)
            split = distributed.on_first(continuing.prepare_folder, cfg, clips, kept, run.epoch)
            if source:
                split = with_doubts(source, cfg, split, run.data)
            run.held_out, run.held_out_digests = [list(row) for row in split.record], split.digests
            if state is None and cfg.sound.standardise and not cfg.init_from:
                distributed.first_alone(run.standardise, clips, split.training)
            distributed.broadcast(*run.networks)
            batches = Batches(clips, split.training, cfg, device)
            opened = (run, clips, split, state, stop, changed)
            with distributed.first_holds(open_recorder, *opened) as recorder:
                distributed.first_alone(write_missing, run, recorder)
                if run.epoch >= cfg.epochs:
                    print(messages.finished_before(run))
                    return run
                print(messages.where_to_listen(run), flush=True)
                train_epochs(run, batches, recorder, stop)
    print(messages.finished(run))
    return run


def load_clips(cfg: Config, found: dataset.Found | None, demo: bool) -> dataset.Clips:
    """The data set: rank 0 decodes `found` where need be, then the others open what it keeps."""
    clips = distributed.first_alone(dataset.load, cfg, found, True, demo)
    kept = (clips.root, clips.fingerprint) if clips is not None else None
    where = distributed.from_first(kept)
    return dataset.open_clips(cfg, *where) if clips is None else clips


def start_or_continue(
    cfg: Config,
    clips: dataset.Clips,
    device: torch.device,
    state: dict | None,
    source: Source | None = None,
) -> Run:
    """A fresh run, with the networks of `source` if there is one, or what a checkpoint holds."""
    run = Run.start(cfg, clips.classes if cfg.conditional else [], device)
    if state:
        run.restore(state)
        within = f" and {run.step_in_epoch} steps" if run.step_in_epoch else ""
        print(f"Continuing {cfg.run_dir} after epoch {run.epoch}{within}.", flush=True)
        if dataset.differ(run.data, clips.fingerprint):
            print("The files are not those of the checkpoint: it goes on with what is there now.")
    elif source:  # at rank 0: the others get its networks
        initialise(run, source)
    run.data = clips.fingerprint
    run.set_own_noise(state)
    return run


def open_recorder(
    run: Run,
    clips: dataset.Clips,
    split: dataset.Split,
    state: dict | None,
    stop: StopSignal,
    changed: dict,
) -> Recorder:
    """What the run is written with, at rank 0; the others have none."""
    columns = ("epoch", "step", "seconds", *METRICS)
    same_files = state is not None and state["data"] == run.data
    about = (run.cfg, run.classes, clips, split, run.device, run.epoch)
    return Recorder.open(*about, columns, same_files, stop, changed, state or {})


# ---- the command --------------------------------------------------------------------------------


def asked(argv: list[str], config: ModuleType) -> tuple[Config, bool]:
    """The configuration that a command line asks for, and whether the synthetic set may be written.

    A run that is continued has its own sounds, unless the command line names others.
    """
    cfg = command_line.parse(argv, config.RECIPES, config.SUMMARIES, config.RECIPE)
    named = [name for name in continuing.OF_DATA if command_line.given(argv, name)]
    own, fresh = continuing.own_data(cfg.run_dir, cfg.data_dir, named)
    demo = fresh and "data_dir" not in named and cfg.data_dir == DEMO_FOLDER
    return distributed.checked(config_io.change(cfg, own)), demo


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with friendly() as outcome, distributed.group():
        config = command_line.imported("config")
        argv = sys.argv[1:] if argv is None else argv
        cfg, demo = distributed.on_first(asked, argv, config)
        if cfg.dry_run:
            dry_run(cfg, start_or_continue, make_stepper, kind_of_step, demo)
        else:
            train(cfg, config_io.changes(config.RECIPES[cfg.recipe], cfg), demo)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
