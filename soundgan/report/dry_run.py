"""`--dry-run`: what a run would do and take, found out without writing anything."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from soundgan import audio, dataset
from soundgan.config_io import change
from soundgan.console import duration
from soundgan.dataset import demo, stale
from soundgan.errors import Diverged
from soundgan.report import messages, pace
from soundgan.report.pace import SAMPLES, SCORES
from soundgan.report.recorder import check_scoring, less_memory
from soundgan.report.samples import samples_of
from soundgan.settings import Config
from soundgan.training import continuing, cuda_graph
from soundgan.training.devices import explain_memory, pick_device, space
from soundgan.training.initialise import Source, find_source
from soundgan.training.run import METRICS, Run

Start = Callable[[Config, dataset.Clips, torch.device, "dict | None", "Source | None"], Run]
Stepper = Callable[[Run], cuda_graph.Stepper]
Kind = Callable[[Run], cuda_graph.Kind]

GPU_STEPS = 20  # timed ones of a kind: the host runs ahead of a GPU, as it does in training


def dry_run(cfg: Config, start: Start, stepper: Stepper, kind: Kind, may_write: bool) -> None:
    """Check data, vocoder, memory and one step; say what a run would do; write nothing.

    `start` makes a run (`train.start_or_continue`), `stepper` what makes its steps
    (`make_stepper`), and `kind` says which kind of step comes next (`kind_of_step`). `may_write`:
    whether a run would write the demo set where there are no sounds.
    """
    device = pick_device(cfg)
    continuing.refuse_folder(cfg.run_dir, "--init-from")
    kept = continuing.find_checkpoint(cfg)
    source = find_source(cfg, kept)
    clips = decode(cfg, may_write)
    check_scoring(cfg, clips)
    state = kept.state if kept else None
    with explain_memory(less_memory(cfg)):
        run = start(cfg, clips, device, state, source)
        vocoder, note = audio.load_vocoder(cfg, device, fetch=False)
        print(note or f"Vocoder {vocoder.name}: loaded and tried.")
        done = run.epoch, run.step_in_epoch
        saved = state.get("held_out") if state else None
        split = dataset.split(cfg, clips, known=state is not None, keep=False, saved=saved)
        print(split.said)
        if run.epoch >= cfg.epochs:
            print(messages.finished_before(run))
            return
        if cfg.sound.standardise:
            run.standardise(clips, np.arange(min(len(clips.data), cfg.batch_size)))
        x = torch.from_numpy(np.array(clips.data[: cfg.batch_size])).to(device)
        labels = torch.tensor(clips.labels[: cfg.batch_size], device=device)
        seconds = time_of_step(run, x, labels, stepper(run), kind)
    report(run, clips, len(split.training) // cfg.batch_size, done, seconds)


def decode(cfg: Config, may_write: bool) -> dataset.Clips:
    """The clips, decoded and checked but not kept; of the demo set where there are none, and a run
    would write it. Raises UserError where there are none, and it would not."""
    found = dataset.find_clips(cfg, may_write)
    if found.files:
        return dataset.load(cfg, found, keep=False)
    print(f"No class folders below {cfg.data_dir}/: a run would write the synthetic set there.")
    with tempfile.TemporaryDirectory() as folder:
        demo.write(folder)
        there = change(cfg, {"data_dir": folder})
        return dataset.load(there, dataset.find_clips(there), keep=False)


def time_of_step(
    run: Run, x: Tensor, labels: Tensor, step: cuda_graph.Stepper, kind: Kind
) -> float:
    """Mean seconds of a step on a batch, from each kind as often as it comes.

    Steps are made as training makes them: first those that warm up and are captured, then the timed
    ones, replays where there is a graph.
    """
    first, timed = 1, 1
    if run.device.type == "cuda" or step.batch:
        first, timed = cuda_graph.WARM_UPS + 1, GPU_STEPS
    if step.batch:  # where training puts its batches
        for there, value in zip(step.batch, (x, labels)):
            there.copy_(value)
        x, labels = step.batch

    def seconds(number: int, count: int) -> float:
        run.step = number
        start = time.perf_counter()
        for _ in range(count):
            step(x, labels, kind=kind(run))
        sums = run.sums.tolist()  # waits for the device
        if bad := [name for name, value in zip(METRICS, sums) if not math.isfinite(value)]:
            raise Diverged(messages.diverged(run, bad))
        return (time.perf_counter() - start) / count

    kinds, cycle = {}, run.cycle
    for run.step in range(cycle):
        kinds.setdefault(kind(run), []).append(run.step)
    for steps in kinds.values():
        seconds(steps[0], first)
    return sum(len(steps) * seconds(steps[0], timed) for steps in kinds.values()) / cycle


def report(
    run: Run, clips: dataset.Clips, an_epoch: int, done: tuple[int, int], seconds: float
) -> None:
    """Print what the run would do and take; `done`: its epochs, and steps in the
    one that is begun, before the timing."""
    cfg, (epoch, step) = run.cfg, done
    steps = (cfg.epochs - epoch) * an_epoch - step
    about = (epoch + 1, seconds * an_epoch)
    sets, scorings = (pace.most(cfg, part, *about) for part in (SAMPLES, SCORES))
    up_to = {part: "up to " * (pace.every(cfg, part) == "auto") for part in (SAMPLES, SCORES)}
    weights = sum(p.numel() for net in (run.generator, run.critic) for p in net.parameters())
    a_set = len(samples_of(run.classes)) * (2 * cfg.sound.wav_samples + 60_000)  # WAVs, pictures
    # The cache; two checkpoints and the next one, each weights and Adam's two moments.
    disk = 4 * len(clips) * math.prod(cfg.shape) + 3 * 3 * 4 * weights + sets * a_set
    print(space(run.device, disk, cfg.run_dir))
    print(stale.held(cfg.cache_dir))
    print(
        f"Would train {cfg.recipe} into {cfg.run_dir} on {run.device}: epochs {epoch + 1} to "
        f"{cfg.epochs} of {an_epoch} steps, {up_to[SAMPLES]}{sets} sets of samples.\n"
        f"A step takes {seconds:.3g} s, the whole run about {duration(steps * seconds)} and "
        f"its samples, checkpoints and {up_to[SCORES]}{scorings} scorings."
    )
    if often := messages.how_often(cfg):
        print(f"auto: {often[0].lower()}{often[1:]}")
    print("Nothing was written.")
