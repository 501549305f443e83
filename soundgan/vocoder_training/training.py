"""The training of a vocoder from beginning to end: clips, steps, what is written between them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing, suppress

import torch
from torch import Tensor

from soundgan import dataset, files, run_folder
from soundgan.console import Progress, duration, progress, shell_path
from soundgan.dataset import Clips
from soundgan.errors import Interrupted
from soundgan.settings import Config
from soundgan.training import checkpoints, continuing
from soundgan.training.batches import Batches
from soundgan.training.devices import explain_memory, pick_device
from soundgan.training.log import Log, packed_rows
from soundgan.training.signals import StopSignal
from soundgan.vocoder_training import folder
from soundgan.vocoder_training.run import METRICS, Run, refuse_changes
from soundgan.vocoder_training.settings import Common, check, waveforms_of
from soundgan.vocoder_training.steps import full_step
from soundgan.vocoder_training.validation import Validation

COLUMNS = ("step", "epoch", "seconds", *METRICS, "held_out_mel")
SHORT_METRICS = ("D", "G", "adv", "fm", "mel")  # in the progress bar


def train(options: Common, recipes: Mapping[str, Config], demo: bool = False) -> Run:
    """Train, or continue, a vocoder for the clips of one of `recipes`; returns the run, finished.

    `demo`: whether the synthetic set may be written where there are no sounds. Raises UserError
    (something to mend), Diverged, or Interrupted after saving.
    """
    check(options, recipes)
    recipe = recipes[options.recipe]
    cfg = waveforms_of(options, recipe)
    device = pick_device(cfg)
    continuing.refuse_folder(cfg.run_dir, "--from")
    found = dataset.find_clips(cfg, demo)
    with files.locked(cfg.run_dir):
        kept = checkpoints.find_checkpoint(cfg.run_dir)
        state = kept.state if kept else None
        if state:
            refuse_changes(options, cfg.run_dir, state)
        clips = dataset.load(cfg, found, demo=demo)
        advice = f"lower batch_size (now {options.batch_size}) or, in a run of its own with "
        advice += f"--run-name NAME, segment (now {options.segment})"
        with StopSignal() as stop, explain_memory(advice):
            run = start_or_continue(options, recipe, clips, device, state)
            split = continuing.prepare_folder(cfg, clips, kept, run.step, unit="step")
            run.held_out, run.held_out_digests = [list(row) for row in split.record], split.digests
            folder.prepare(run, clips, split)
            if kept and kept.path.name == "last.pt":  # a kill may have come before it was written
                folder.write_vocoder(run)
            batches = Batches(clips, split.training, cfg, device)
            validation = Validation(cfg, clips, split, options.judge_clips)
            validation.write_originals(run.run_dir)
            rows = state.get("log") if state else None
            log = Log(run.run_dir / "log.csv", COLUMNS, run.step, by="step", saved=rows)
            if run.step >= options.steps:
                print(f"{run.run_dir} is finished after step {run.step}. {_what_next(run)}")
                return run
            train_steps(run, batches, validation, log, stop)
    print(f"Finished after step {run.step}. {_what_next(run)}")
    return run


def start_or_continue(
    options: Common, recipe: Config, clips: Clips, device: torch.device, state: dict | None
) -> Run:
    """A fresh run, or the one that a checkpoint holds."""
    run = Run.start(options, recipe, device)
    if state:
        run.restore(state)
        print(f"Continuing {run.run_dir} after step {run.step}.", flush=True)
        if dataset.differ(run.data, clips.fingerprint):
            print("The files are not those of the checkpoint: it goes on with what is there now.")
    elif options.source:
        folder.load_source(options.source, run.kind, run.generator)
    run.data = clips.fingerprint
    return run


def train_steps(
    run: Run, batches: Batches, validation: Validation, log: Log, stop: StopSignal
) -> None:
    """All steps that are left, with what is written between them. Raises Diverged, Interrupted."""
    steps = run.options.steps
    if run.step_in_epoch >= batches.steps:  # there are fewer clips than when it was stopped
        run.epoch, run.step_in_epoch = run.epoch + 1, 0
    with progress(steps, "step", initial=run.step) as bar:
        shown = time.perf_counter()
        while run.step < steps:
            with closing(batches.epoch(run.epoch, run.step_in_epoch)) as coming:
                for x, _ in coming:
                    took = count_step(run, x, batches.steps)
                    if look := time.perf_counter() - shown > 1:
                        shown = time.perf_counter()
                    means = run.means() if look else {}
                    write_due(run, validation, log)
                    # Before anything is shown: the terminal may be closed by what stops the run.
                    if stop.name and run.step < steps:
                        save_and_stop(run, log, stop.name)
                    _show(run, bar, means, took)
                    if run.step == steps:
                        break


def count_step(run: Run, x: Tensor, steps_an_epoch: int) -> float:
    """One step, counted; returns the seconds it took the host."""
    began = time.perf_counter()
    run.sums += full_step(run, x)
    run.step, run.since = run.step + 1, run.since + 1
    run.step_in_epoch += 1
    if run.step_in_epoch == steps_an_epoch:
        run.epoch, run.step_in_epoch = run.epoch + 1, 0
    took = time.perf_counter() - began
    run.seconds += took
    return took


def write_due(run: Run, validation: Validation, log: Log) -> None:
    """What is due after a step; the checkpoint last, so that a kill in between loses nothing."""
    options = run.options
    last = run.step == options.steps
    if last or run.step % options.sample_every == 0:
        validation.write(run)
        run_folder.clear_old(run.run_dir)
    if last or run.step % options.save_every == 0:
        row = {"step": run.step, "epoch": run.epoch, "seconds": run.seconds} | run.means()
        log.add(row | {"held_out_mel": validation.distance(run)})
        log.write()
        run.sums.zero_()
        run.since, run.seconds = 0, 0.0
        save(run, log)


def save(run: Run, log: Log) -> None:
    """The checkpoint, then the vocoder as any run can play through it.

    Weights without a checkpoint would be taken for a run's remains.
    """
    rows = {"log": packed_rows(log.rows, log.columns)}
    checkpoints.save_checkpoint(run.run_dir, run.state() | rows)
    folder.write_vocoder(run)


def save_and_stop(run: Run, log: Log, signal: str) -> None:
    """Raises Interrupted after saving."""
    if run.since:
        run.means()  # never save what has diverged
    save(run, log)
    raise Interrupted(
        f"{signal} after step {run.step}: saved in {run.run_dir}; the same command continues."
    )


# ---- messages -----------------------------------------------------------------------------------


def _show(run: Run, bar: Progress, means: dict[str, float], took: float) -> None:
    with suppress(OSError):  # the terminal may be gone
        if means:
            short = {k: f"{means[name]:.3g}" for k, name in zip(SHORT_METRICS, METRICS)}
            bar.set_postfix(short, refresh=False)
        bar.update()
        if run.device.type == "cpu" and bar.n - bar.initial == 3:
            bar.write(_estimate(run, took))


def _estimate(run: Run, seconds: float) -> str:
    left = duration((run.options.steps - run.step) * seconds)
    return (
        f"On this CPU a step takes {seconds:.2g} s: the run needs another {left}. Shorter: "
        f"--steps; smaller: {run.kind.smaller}. A CUDA GPU is far quicker."
    )


def _what_next(run: Run) -> str:
    return (
        f"Listen in {run.run_dir / 'samples'}; let a run play through it with --vocoder "
        f"{shell_path(run.run_dir)}; longer training: the same command with --steps "
        f"{2 * run.step}."
    )
