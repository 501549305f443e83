"""Sentences that training says to the person who runs it."""

from __future__ import annotations

from collections.abc import Sequence

from soundgan.console import duration, shell_path
from soundgan.report import pace
from soundgan.report.pace import Pace
from soundgan.settings import Config
from soundgan.training.run import Run


def estimate(run: Run, steps: int, seconds: float) -> str:
    """How long a run on a CPU takes, at `seconds` a step and so many steps an epoch."""
    left = ((run.cfg.epochs - run.epoch) * steps - run.step_in_epoch) * seconds
    few = run.epoch + max(1, round(600 / (seconds * steps)))
    text = f"On this CPU a step takes {seconds:.2g} s: the run needs another {duration(left)}."
    if few < run.cfg.epochs:
        text += f" --epochs {few} makes that {duration((few - run.epoch) * steps * seconds)}."
    return text + " A CUDA GPU is far quicker."


def what_next(run: Run) -> str:
    """What to do with a finished run."""
    return (
        f"More sounds: python generate.py {shell_path(run.cfg.run_dir)}. "
        f"Longer training: the same command with --epochs {2 * run.epoch}."
    )


def where_to_listen(run: Run) -> str:
    """Of a run that begins or goes on."""
    page = run.cfg.run_dir / "index.html"
    text = f"Sounds and pictures while it learns: {page} (at first they are loud noise)."
    return f"{text} {how_often(run.cfg)}".rstrip()


def how_often(cfg: Config) -> str:
    """When samples and scores come, as far as these constants are `auto`, or ""."""
    share, when, flags = 0.0, [], []
    for part, word in ((pace.SAMPLES, "sounds"), (pace.SCORES, "scores")):
        if pace.every(cfg, part) == "auto":
            rule = pace.rule_of(part)
            share += rule.share
            when.append(f"{word} every {rule.epochs} epochs or {rule.seconds / 60:.0f} min")
            flags.append(f"--{'sample' if part == pace.SAMPLES else 'score'}-every N")
    if not when:
        return ""
    return (
        f"There are {' and '.join(when)}; later where that would take more than "
        f"{100 * share:.0f} % of the time ({', '.join(flags)}: every N epochs)."
    )


def scores_put_off(now: Pace) -> str:
    """Why an epoch that would have scores, with `auto`, has none."""
    if pace.SCORES in now.last:
        cost = (
            f"scorings have taken {duration(now.costs[pace.SCORES])} so far, "
            f"the last one {duration(now.last[pace.SCORES])}"
        )
    else:
        cost = f"a scoring is expected to take {duration(pace.FIRST_SCORING)}"
    return (
        f"The scores of epoch {now.epoch} are put off until {duration(now.needed(pace.SCORES))} "
        f"are trained, at the latest to the last epoch: {cost}, and they may take "
        f"{100 * pace.SCORE_SHARE:.0f} % of the time (SCORE_SHARE in soundgan/report/pace.py; "
        f"--score-every {pace.SCORE_EPOCHS}: every {pace.SCORE_EPOCHS} epochs)."
    )


def scoring(epoch: int, seconds: float) -> str:
    """Before a scoring that is not the first; `seconds`: of the last one."""
    return f"Scoring epoch {epoch}: the last scoring took {duration(seconds)}."


def finished(run: Run) -> str:
    """Of a run that was trained to its last epoch."""
    page = run.cfg.run_dir / "index.html"
    return f"Finished after epoch {run.epoch}: open {page} to listen. {what_next(run)}"


def finished_before(run: Run) -> str:
    """Of a run that has nothing left to train."""
    return f"{run.cfg.run_dir} is finished after epoch {run.epoch}. {what_next(run)}"


def diverged(run: Run, metrics: Sequence[str]) -> str:
    """Why training stops: these metrics are no numbers any more."""
    saved, own = run.cfg.run_dir / "checkpoints" / "last.pt", run.cfg.optimiser
    intact = f"{saved} holds the last good state. " if saved.exists() else ""
    return (
        f"{', '.join(metrics)} became NaN or Inf in epoch {run.epoch + 1}, at step {run.step} "
        f"or just before; training stops. {intact}Start another run (--run-name NAME) with a "
        f"lower --optimiser.critic-lr (now {own.critic_lr:g}) or --optimiser.generator-lr "
        f"(now {own.generator_lr:g})."
    )
