"""Learn your sounds: folders of WAVs in, new sounds out.

    python train.py [RECIPE] [--field value ...]

From top to bottom the way of the data: files become one tensor on the device; a batch of it and
fresh latents go through the losses; the steps turn losses into updates; every few epochs fixed
latents become pictures and WAVs; a checkpoint holds everything that makes a continued run the same
run. `train()` at the end ties them together.

Exit codes: 0 finished, 2 something to mend before training (data, constants, disk), 3 the numbers
diverged, 75 interrupted and saved: the same command continues.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn.utils import get_total_norm, parametrize
from tqdm.auto import tqdm

import audio
import config
import demo
import models
import report
import runs
from config import Config, UserError

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


class Interrupted(UserError):
    """Stopped by a signal, after saving."""

    heading = "Interrupted"
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again


# ---- dataset ------------------------------------------------------------------------------------
# Decoding happens once, in audio.py. Here the clips lie on the device as one tensor and a batch is
# an index into it: no worker processes, no transfer within an epoch. A set too large for the device
# stays in the memory map, and each batch is copied over.


def find_clips(cfg: Config) -> audio.Found:
    """The audio files of `data_dir`; raises UserError where there is nothing to train on."""
    found = audio.find_files(cfg.data_dir)
    if found.files:
        return found
    if not found.root.is_dir() and cfg.data_dir != Config.data_dir:
        raise UserError(f"data_dir = {cfg.data_dir!r}: there is no such folder (--data-dir).")
    if found.left_out:
        reasons = [f"{path}: {reason}" for path, reason in found.left_out[:3]]
        raise UserError(
            f"No sound in a class folder below {found.root}. Put the files of each class into a "
            f"folder of its own, {found.root}/<class>/*.wav ({'; '.join(reasons)})."
        )
    return found


def load_data(cfg: Config, run_dir: Path | None) -> audio.Clips:
    """Find, decode (or open the cache) and report; where there is no sound, write the demo set.

    With `run_dir` None nothing is written. Raises UserError when what is left cannot be trained on.
    """
    found = find_clips(cfg)
    if not found.files:
        print(
            f"No class folders below {cfg.data_dir}/: writing a synthetic set to learn with "
            f"({len(demo.CLASSES)} classes, {config.DEMO_CLIPS} clips each). When you bring your "
            f"own, put them into {cfg.data_dir}/<class>/ and delete these.",
            flush=True,
        )
        demo.write(cfg.data_dir)
        found = find_clips(cfg)
    start = time.perf_counter()
    clips = audio.load_clips(cfg, found, keep=run_dir is not None)
    print(audio.describe(clips, found))
    if (found.root / demo.MARK).exists():
        own = sorted(set(clips.classes) - set(demo.CLASSES))
        beside = f", beside your {', '.join(own)}: delete the synthetic ones" if own else ""
        print(
            f"The folders named in {found.root / demo.MARK} are synthetic, not recordings{beside}."
        )
    print(f"Data ready in {time.perf_counter() - start:.2f} s", flush=True)
    if run_dir is not None:
        runs.write_csv(run_dir / "left_out.csv", [("file", "reason"), *clips.left_out])
        if clips.left_out:
            print(f"Every file left out, with its reason: {run_dir / 'left_out.csv'}")
    if len(clips) < cfg.batch_size:
        raise UserError(
            f"{len(clips)} usable clips below {found.root} are fewer than one batch of "
            f"{cfg.batch_size}: bring more sounds, or lower batch_size "
            f"(--batch-size {max(1, len(clips))})."
        )
    return clips


class Batches:
    """Batches `x (B, 1, M, T)`, `labels (B,)` of a data set, on the device.

    The order of an epoch depends on seed and epoch alone, so that a run continued in the middle of
    an epoch sees the batches it has not yet seen.
    """

    def __init__(self, clips: audio.Clips, cfg: Config, device: torch.device) -> None:
        self.seed, self.batch_size, self.device = cfg.seed, cfg.batch_size, device
        self.steps = len(clips) // cfg.batch_size  # the last short batch is dropped
        self.labels = torch.tensor(clips.labels, device=device)
        self.mels = clips.mels
        self.resident: Tensor | None = None
        if device.type == "cuda" and clips.mels.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            self.resident = torch.from_numpy(np.array(clips.mels)).to(device)

    def order(self, epoch: int) -> Tensor:
        """Indices `(steps, B)` of an epoch, on the CPU."""
        generator = torch.Generator().manual_seed((self.seed + 1_000_003 * epoch) % 2**63)
        shuffled = torch.randperm(len(self.labels), generator=generator)
        return shuffled[: self.steps * self.batch_size].view(self.steps, self.batch_size)

    def get(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        on_device = indices.to(self.device)
        if self.resident is not None:
            return self.resident[on_device], self.labels[on_device]
        x = torch.from_numpy(self.mels[indices.numpy()])
        return x.to(self.device), self.labels[on_device]


# ---- losses -------------------------------------------------------------------------------------


def gradient_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, weight: float
) -> Tensor:
    """`weight * E[(|grad_x critic(x)| - 1)^2]` at points x between real and fake, a scalar.

    Each x lies at a uniformly drawn place on the line between a real and a generated clip; the norm
    is taken over the whole clip (Gulrajani et al. 2017, "Improved Training of Wasserstein GANs",
    equation 3).
    """
    place = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)  # (B, 1, 1, 1)
    x = torch.lerp(fake, real, place).requires_grad_()  # (B, 1, M, T)
    (slope,) = torch.autograd.grad(critic(x, labels).sum(), x, create_graph=True)
    return weight * (slope.flatten(1).norm(dim=1) - 1).square().mean()


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
    sums: Tensor  # of METRICS over the steps of this epoch, on the device
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps, over all epochs
    step_in_epoch: int = 0
    seconds: float = 0.0  # spent on this epoch

    @classmethod
    def start(cls, cfg: Config, classes: list[str], device: torch.device) -> Run:
        """Seed every random state and build the networks and their Adam optimisers."""
        runs.seed_everything(cfg.seed)
        networks = [net.to(device) for net in models.build(cfg, len(classes))]
        # Two time scales (Heusel et al. 2017): here the generator is the faster one.
        optimisers = [
            torch.optim.Adam(net.parameters(), lr=lr, betas=cfg.betas, fused=True)
            for net, lr in zip(networks, (cfg.generator_lr, cfg.critic_lr))
        ]
        sums = torch.zeros(len(METRICS), device=device)
        return cls(cfg, classes, device, *networks, *optimisers, sums)

    def latents(self, count: int) -> Tensor:
        """Fresh `z (count, latent_dim)` ~ N(0, 1) from the device's random state."""
        return torch.randn(count, self.cfg.latent_dim, device=self.device)


def critic_step(run: Run, real: Tensor, labels: Tensor) -> Tensor:
    """One critic update on `real (B, 1, M, T)`; returns the first four METRICS, detached.

    Loss: `E[critic(fake)] - E[critic(real)] + penalty` (Gulrajani et al. 2017, equation 3).
    """
    with torch.no_grad():  # the generator is only a source of clips here: no graph of it
        fake = run.generator(run.latents(len(real)), labels)
    # Cached: one power iteration and one set of normalised weights for scores and penalty alike.
    with parametrize.cached():
        scores = run.critic(torch.cat([real, fake]), torch.cat([labels, labels]))  # (2B,)
        penalty = gradient_penalty(run.critic, real, fake, labels, run.cfg.gp_weight)
    wasserstein = scores[: len(real)].mean() - scores[len(real) :].mean()
    loss = penalty - wasserstein
    norm = _update(run.critic, run.critic_optimiser, loss)
    return torch.stack([loss, wasserstein, penalty, norm]).detach()


def generator_step(run: Run, real: Tensor, labels: Tensor) -> Tensor:
    """One generator update; returns the last three METRICS, detached.

    Loss: `-E[critic(fake)] + l1_weight * L1(fake, real)`, where real clips of the same labels stand
    beside the generated ones.
    """
    run.critic.requires_grad_(False)  # the critic only judges here: no gradients of its weights
    fake = run.generator(run.latents(len(real)), labels)
    l1 = nn.functional.l1_loss(fake, real)
    loss = run.cfg.l1_weight * l1 - run.critic(fake, labels).mean()
    norm = _update(run.generator, run.generator_optimiser, loss)
    run.critic.requires_grad_(True)
    return torch.stack([loss, l1, norm]).detach()


def _update(network: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Backward and one optimiser step; returns the norm of the whole gradient."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = get_total_norm([p.grad for p in network.parameters()])
    optimiser.step()
    return norm


def full_step(run: Run, real: Tensor, labels: Tensor) -> Tensor:
    """`critic_steps` critic updates on one batch with fresh latents, then one of the generator."""
    critic = [critic_step(run, real, labels) for _ in range(run.cfg.critic_steps)]
    return torch.cat([torch.stack(critic).mean(0), generator_step(run, real, labels)])


# ---- samples ------------------------------------------------------------------------------------
# The same latents every time, so that what changes from set to set is the model. A set is made
# beside its place and renamed into it: a folder that exists is complete.


class Samples:
    """Writes the sets of sounds and pictures below `samples/`."""

    def __init__(self, run: Run, clips: audio.Clips, vocoder: audio.Vocoder) -> None:
        self.run, self.vocoder = run, vocoder
        self.folder = run.cfg.run_dir / "samples"
        first = [clips.labels.index(k) for k in range(len(run.classes))]
        self.real = torch.from_numpy(np.array(clips.mels[first]))  # (K, 1, M, T)
        generator = torch.Generator().manual_seed(run.cfg.seed)
        self.z = draw_latents(run.cfg, len(run.classes), generator).to(
            run.device
        )  # (K, latent_dim)

    def path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:04d}"

    def lacking(self) -> bool:
        """Whether a set is due after the run's last finished epoch and does not stand there yet."""
        run = self.run
        between = run.step_in_epoch > 0
        return not between and is_sampled(run.cfg, run.epoch) and not self.path(run.epoch).is_dir()

    def write_real(self) -> None:
        """One real clip a class through the vocoder: the best that the vocoder can do."""
        panels = [{f"{name}: real": x[0].numpy()} for name, x in zip(self.run.classes, self.real)]
        self._write(self.folder / "real", self.real, panels)

    def write(self) -> None:
        """What the generator makes now, each picture beside the real clip on one colour scale."""
        run = self.run
        fake = generate(run.generator, self.z, torch.arange(len(run.classes), device=run.device))
        panels = [
            {f"{name}: real": x[0].numpy(), f"generated, epoch {run.epoch}": y[0].numpy()}
            for name, x, y in zip(run.classes, self.real, fake)
        ]
        self._write(self.path(run.epoch), fake, panels)

    def _write(self, folder: Path, mels: Tensor, panels: list[dict[str, np.ndarray]]) -> None:
        unfinished = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        waves = self.vocoder(mels)  # (K, T * hop)
        for name, wave, panel in zip(self.run.classes, waves, panels):
            audio.write_wav(unfinished / f"{name}.wav", wave, self.run.cfg.sample_rate)
            report.draw_spectrograms(unfinished / f"{name}.png", panel, self.run.cfg)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)


def is_sampled(cfg: Config, epoch: int) -> bool:
    """Whether a set of samples belongs to an epoch: the first, the last, every `sample_every`."""
    return epoch in (1, cfg.epochs) or (epoch > 0 and epoch % cfg.sample_every == 0)


def draw_latents(cfg: Config, count: int, generator: torch.Generator) -> Tensor:
    """`z (count, latent_dim)` on the CPU, row by row: a higher count keeps the first ones."""
    return torch.stack([torch.randn(cfg.latent_dim, generator=generator) for _ in range(count)])


@torch.no_grad()
def generate(generator: nn.Module, z: Tensor, labels: Tensor) -> Tensor:
    """Spectrograms `(B, 1, M, T)` on the CPU, in evaluation mode; the mode is restored after."""
    training = generator.training
    generator.eval()
    fake = generator(z, labels).cpu()
    generator.train(training)
    return fake


# ---- checkpoints --------------------------------------------------------------------------------
# What is saved is all that a step reads and changes; what can be derived from the constants (the
# order of an epoch, the latents of the samples) is not.

NETWORKS = ("generator", "critic", "generator_optimiser", "critic_optimiser")
COUNTERS = ("epoch", "step", "step_in_epoch", "seconds")


def save_checkpoint(run: Run) -> None:
    state = {name: getattr(run, name).state_dict() for name in NETWORKS}
    state |= {name: getattr(run, name) for name in (*COUNTERS, "sums", "classes")}
    state |= {"config": config.to_dict(run.cfg), "random": runs.random_state(run.device)}
    runs.save_checkpoint(run.cfg.run_dir, state)


def restore(run: Run, state: dict) -> None:
    """Put a run where a checkpoint left it; raises UserError naming whatever differs."""
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
        getattr(run, name).load_state_dict(state[name])
    for name in COUNTERS:
        setattr(run, name, state[name])
    run.sums.copy_(state["sums"])
    runs.set_random_state(state["random"], run.device)


def save_generator(run: Run) -> None:
    """Write `generator.safetensors`: the weights for use, beside config.json."""
    weights = {k: v.detach().cpu().contiguous() for k, v in run.generator.state_dict().items()}
    # One entry: safetensors writes several in an order of its own, and equal runs would differ.
    metadata = {"trained": f"{run.cfg.recipe}, epoch {run.epoch}, step {run.step}"}
    runs.write_bytes(run.cfg.run_dir / "generator.safetensors", to_safetensors(weights, metadata))


# ---- train --------------------------------------------------------------------------------------


def train(cfg: Config) -> Run:
    """Train, or continue, the run that `cfg` describes; returns it finished.

    Raises UserError (something to mend), Diverged, or Interrupted after saving.
    """
    device = runs.pick_device(cfg)
    clips = load_data(cfg, cfg.run_dir)
    with runs.locked(cfg.run_dir):
        run = start_or_continue(cfg, clips, device, runs.load_checkpoint(cfg.run_dir))
        vocoder, note = audio.load_vocoder(cfg, device)
        if note:
            print(note, flush=True)
        with runs.StopSignal() as stop, runs.explain_memory(cfg):
            batches = Batches(clips, cfg, device)
            samples = Samples(run, clips, vocoder)
            log = runs.Log(
                cfg.run_dir / "log.csv", ("epoch", "step", "seconds", *METRICS), run.epoch
            )
            if not _has_real(samples):
                samples.write_real()
            runs.write_config(cfg, run.classes, vocoder_used=vocoder.name, device=str(device))
            if samples.lacking():  # the run was stopped before they were whole
                write_set(run, samples, log)
            if run.epoch >= cfg.epochs:
                print(f"{cfg.run_dir} is finished after epoch {run.epoch}. {_what_next(run)}")
                return run
            train_epochs(run, batches, samples, log, stop)
    print(
        f"Finished after epoch {run.epoch}: listen in {samples.path(run.epoch)}. {_what_next(run)}"
    )
    return run


def start_or_continue(
    cfg: Config, clips: audio.Clips, device: torch.device, state: dict | None
) -> Run:
    """A fresh run, or the one that a checkpoint holds."""
    run = Run.start(cfg, clips.classes, device)
    if state:
        restore(run, state)
        within = f" and {run.step_in_epoch} steps" if run.step_in_epoch else ""
        print(f"Continuing {cfg.run_dir} after epoch {run.epoch}{within}.", flush=True)
    return run


def train_epochs(
    run: Run, batches: Batches, samples: Samples, log: runs.Log, stop: runs.StopSignal
) -> None:
    """All epochs that are left, with their log rows, checkpoints and samples.

    Log before checkpoint before samples: on continuing, a row too many is dropped and a set of
    samples that lacks is made, so that a kill between any two of them loses nothing.
    """
    cfg = run.cfg
    total = cfg.epochs * batches.steps
    with tqdm(total=total, initial=run.step, unit="step", mininterval=0.5) as bar:
        while run.epoch < cfg.epochs:
            train_epoch(run, batches, bar, stop)
            means = read_means(run)
            run.epoch += 1
            log.add({"epoch": run.epoch, "step": run.step, "seconds": run.seconds} | means)
            run.step_in_epoch, run.seconds = 0, 0.0
            run.sums.zero_()
            last = run.epoch == cfg.epochs
            if last or stop.name or run.epoch % cfg.checkpoint_every == 0:
                save_checkpoint(run)
            if stop.name and not last:
                raise _interrupted(run, stop)
            if samples.lacking():
                write_set(run, samples, log)


def train_epoch(run: Run, batches: Batches, bar: tqdm, stop: runs.StopSignal) -> None:
    """The steps of one epoch, from wherever the run stands in it.

    The running means are read from the device and shown once a second; that is also when numbers
    that are none are found. Raises Diverged; Interrupted after saving.
    """
    order = batches.order(run.epoch)
    bar.set_description(f"Epoch {run.epoch + 1}/{run.cfg.epochs}")
    before, began = run.seconds, time.perf_counter()
    shown = began
    while run.step_in_epoch < batches.steps:
        run.sums += full_step(run, *batches.get(order[run.step_in_epoch]))
        run.step += 1
        run.step_in_epoch += 1
        now = time.perf_counter()
        if now - shown > 1 or run.step_in_epoch == batches.steps:
            shown = now
            bar.set_postfix(_in_short(read_means(run)), refresh=False)
        bar.update()
        if run.device.type == "cpu" and bar.n - bar.initial == 3:
            bar.write(_estimate(run, batches.steps, bar.format_dict["elapsed"] / 3))
        run.seconds = before + time.perf_counter() - began
        if stop.name and run.step_in_epoch < batches.steps:
            read_means(run)  # never save what has diverged
            save_checkpoint(run)
            save_generator(run)
            raise _interrupted(run, stop)


def read_means(run: Run) -> dict[str, float]:
    """Means of METRICS over this epoch's steps so far; raises Diverged if one is NaN or Inf."""
    means = dict(zip(METRICS, (run.sums / max(1, run.step_in_epoch)).tolist()))
    bad = [name for name, value in means.items() if not math.isfinite(value)]
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


def write_set(run: Run, samples: Samples, log: runs.Log) -> None:
    """What a listener gets every few epochs: weights for use, curves, sounds and pictures."""
    save_generator(run)
    if log.rows:
        report.draw_curves(run.cfg.run_dir / "losses.png", log.rows)
    samples.write()


# ---- what is said -------------------------------------------------------------------------------


def _has_real(samples: Samples) -> bool:
    """Whether samples/real stands there and was made by the vocoder that is used now."""
    try:
        used = runs.read_config(samples.run.cfg.run_dir).get("vocoder_used")
    except UserError:
        return False
    return used == samples.vocoder.name and (samples.folder / "real").is_dir()


def _in_short(means: dict[str, float]) -> dict[str, str]:
    """METRICS under names that fit into one line of a terminal."""
    return {short: f"{means[name]:.3g}" for short, name in zip(SHORT_METRICS, METRICS)}


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _estimate(run: Run, steps: int, seconds: float) -> str:
    left = (run.cfg.epochs * steps - run.step) * seconds
    few = run.epoch + max(1, round(600 / (seconds * steps)))
    text = f"On this CPU a step takes {seconds:.2g} s: the run needs another {_duration(left)}."
    if few < run.cfg.epochs:
        text += f" --epochs {few} makes that {_duration((few - run.epoch) * steps * seconds)}."
    return text + " A CUDA GPU is far quicker."


def _what_next(run: Run) -> str:
    return (
        f"More sounds: python generate.py {run.cfg.run_dir}. "
        f"Longer training: the same command with --epochs {2 * run.epoch}."
    )


def _interrupted(run: Run, stop: runs.StopSignal) -> Interrupted:
    return Interrupted(
        f"{stop.name} after step {run.step}: saved in {run.cfg.run_dir}; the same command "
        "continues."
    )


# ---- the command --------------------------------------------------------------------------------


def dry_run(cfg: Config) -> None:
    """Check data, vocoder, memory and one step; say what a run would do and take; write nothing."""
    device = runs.pick_device(cfg)
    if find_clips(cfg).files:
        clips = load_data(cfg, None)
    else:
        print(f"No class folders below {cfg.data_dir}/: a run would write the synthetic set there.")
        with tempfile.TemporaryDirectory() as folder:
            demo.write(folder)
            clips = load_data(replace(cfg, data_dir=folder), None)
    run = start_or_continue(cfg, clips, device, runs.load_checkpoint(cfg.run_dir, put_aside=False))
    vocoder, note = audio.load_vocoder(cfg, device, fetch=False)
    print(note or f"Vocoder {vocoder.name}: loaded and tried.")
    epoch, step, batches = run.epoch, run.step, Batches(clips, cfg, device)
    x = torch.from_numpy(np.array(clips.mels[: cfg.batch_size])).to(device)
    labels = batches.labels[: cfg.batch_size]
    with runs.explain_memory(cfg):
        for _ in range(2):  # the first one also pays for warming up
            start = time.perf_counter()
            run.sums = full_step(run, x, labels)
            run.step_in_epoch = 1
            read_means(run)  # waits for the device
            seconds = time.perf_counter() - start
    steps = max(0, cfg.epochs * batches.steps - step)
    sets = sum(is_sampled(cfg, e) for e in range(epoch + 1, cfg.epochs + 1))
    print(_space(run, sets))
    print(
        f"Would train {cfg.recipe} into {cfg.run_dir} on {device}: epochs {epoch + 1} to "
        f"{cfg.epochs} of {batches.steps} steps, {sets} sets of samples.\n"
        f"A step takes {seconds:.3g} s, the whole run about {_duration(steps * seconds)} and its "
        "samples and checkpoints.\nNothing was written."
    )


def _space(run: Run, sets: int) -> str:
    """Memory that a step took and disk that the run will take, each beside what is free."""
    cfg, device = run.cfg, run.device
    if device.type == "cuda":
        used, free = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[0]
        memory = f"GPU memory: {used / 2**30:.2f} GiB used at most, {free / 2**30:.1f} GiB free."
    else:
        free = runs.free_memory()
        memory = f"Memory: {runs.peak_memory() / 2**30:.2f} GiB used at most"
        memory += f", {free / 2**30:.1f} GiB free." if free else "."
    weights = sum(p.numel() for net in (run.generator, run.critic) for p in net.parameters())
    a_set = len(run.classes) * (2 * cfg.wav_samples + 60_000)  # a WAV and a picture a class
    needed = 2 * 3 * 4 * weights + sets * a_set  # two checkpoints of weights, Adam
    there = next(p for p in (cfg.run_dir.resolve(), *cfg.run_dir.resolve().parents) if p.exists())
    free_disk = shutil.disk_usage(there).free
    warning = " That is too little: choose another --output-dir." if needed > free_disk else ""
    return (
        f"{memory}\nDisk: the run needs about {needed / 2**20:.0f} MiB, {free_disk / 2**30:.1f} "
        f"GiB are free below {there}.{warning}"
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with runs.friendly() as outcome:
        cfg = config.parse(argv)
        dry_run(cfg) if cfg.dry_run else train(cfg)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
