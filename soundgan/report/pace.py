"""Which samples and scores are due after an epoch: by a number of epochs, or as time allows (auto).

Nothing here reads a clock: what epochs took and what was made of them has cost is handed in. So the
same history always gives the same epochs. What is decided goes into the checkpoint that is written
before it is made (`Pace.state`): a run that is killed and continued does not decide again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from soundgan.settings import Config

SAMPLES, SCORES = "samples", "scores"  # what may be due after an epoch, made in this order

# With `auto`: samples come after the first and the last epoch, scores after the last, and both in
# between as long as all of them, the next one included, cost no more than a share of the time
# trained. What the next one costs is what the last one cost.
SAMPLE_SHARE, SCORE_SHARE = 0.03, 0.07  # of the seconds trained
SAMPLE_EPOCHS, SCORE_EPOCHS = 10, 50  # one after each multiple of so many epochs, where
SAMPLE_SECONDS, SCORE_SECONDS = 600.0, 3600.0  # s trained without one: after any epoch (long ones)
FIRST_SCORING = 60.0  # s that a scoring is assumed to cost before there was one


@dataclass(frozen=True)
class Rule:
    """What `auto` means for a part: the constants above."""

    epochs: int
    seconds: float
    share: float
    first: float  # s


def rule_of(part: str) -> Rule:
    """The constants of SAMPLES or SCORES, as they are now."""
    if part == SAMPLES:
        return Rule(SAMPLE_EPOCHS, SAMPLE_SECONDS, SAMPLE_SHARE, 0.0)
    return Rule(SCORE_EPOCHS, SCORE_SECONDS, SCORE_SHARE, FIRST_SCORING)


def every(cfg: Config, part: str) -> int | str:
    """`sample_every` or `score_every`."""
    return cfg.sample_every if part == SAMPLES else cfg.score_every


def is_always_due(cfg: Config, part: str, epoch: int) -> bool:
    """Whether a part belongs to an epoch whatever the time: samples to the first and the last,
    scores to the last (`score_every` 0: to none), and both to multiples of a number of epochs."""
    number = every(cfg, part)
    if number == 0 or epoch < 1:
        return False
    ends = (1, cfg.epochs) if part == SAMPLES else (cfg.epochs,)
    return epoch in ends or (number != "auto" and epoch % number == 0)


@dataclass
class Pace:
    """What was decided after `epoch`, and all that the next decision rests on.

    Costs and times are seconds by part: of all that were made, of the last one, and how long had
    been trained when it was due.
    """

    cfg: Config
    trained: float = 0.0  # s, over all epochs
    epoch: int = 0
    parts: list[str] = field(default_factory=list)  # due after it
    costs: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    due_at: dict[str, float] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)  # epochs whose samples, set aside, are made again

    @classmethod
    def restore(
        cls, cfg: Config, epoch: int, seconds: Sequence[float], saved: Mapping | None
    ) -> Pace:
        """As a checkpoint of `epoch` left it; `seconds`: of the epochs in the log (NaN: unknown).

        `saved`: what `state` returned; None: a fresh run, or an older version's, which made samples
        and scores after each multiple of the same numbers of epochs.
        """
        pace = cls(cfg, epoch=epoch)
        for one in seconds:
            pace.add_epoch(one)
        if saved is None:
            parts = [p for p in (SAMPLES, SCORES) if epoch % rule_of(p).epochs == 0]
            pace.parts = parts if epoch else []
        else:
            pace.parts = list(saved["due"])
            pace.costs, pace.last, pace.due_at = (dict(saved[n]) for n in ("costs", "last", "at"))
        return pace

    def state(self) -> dict:
        """What a checkpoint holds of it, which `checkpoints.misfit_of_pace` knows."""
        costs = {"costs": self.costs, "last": self.last, "at": self.due_at}
        return {"due": list(self.parts)} | {name: dict(own) for name, own in costs.items()}

    def add_epoch(self, seconds: float) -> None:
        """Count the seconds that an epoch was trained; NaN: nobody knows them any more."""
        if math.isfinite(seconds):
            self.trained += seconds

    def add_cost(self, part: str, seconds: float) -> None:
        """Count what the making of a part took."""
        self.costs[part] = self.costs.get(part, 0.0) + seconds
        self.last[part] = seconds

    def add_unknown(self, part: str) -> None:
        """Count a part that was made after the checkpoint, which has no cost of it, as the last."""
        seconds = self.last.get(part, rule_of(part).first)
        self.costs[part] = self.costs.get(part, 0.0) + seconds

    def due(self, epoch: int, busy: bool = False) -> list[str]:
        """The parts that are due after an epoch, decided the first time that this is asked.

        `busy`: whether parts of an earlier epoch are still being made. Nobody knows yet what they
        cost, and training would wait for them: in between, nothing more is due by time then.
        """
        if epoch != self.epoch:
            self.epoch = epoch
            self.parts = [part for part in (SAMPLES, SCORES) if self._decide(part, busy)]
            self.due_at |= dict.fromkeys(self.parts, self.trained)
        # Numbers of epochs may have been changed since a checkpoint was written.
        return [
            part
            for part in (SAMPLES, SCORES)
            if is_always_due(self.cfg, part, epoch)
            or (every(self.cfg, part) == "auto" and part in self.parts)
        ]

    def needed(self, part: str) -> float:
        """Seconds that must have been trained before the next one in between may be made."""
        rule = rule_of(part)
        return (self.costs.get(part, 0.0) + self.last.get(part, rule.first)) / rule.share

    def is_put_off(self, part: str) -> bool:
        """Whether this epoch would have a part, were its cost not too large a share by now."""
        regular = self.epoch > 0 and self.epoch % rule_of(part).epochs == 0
        left_out = every(self.cfg, part) == "auto" and part not in self.parts
        return regular and left_out and self.needed(part) > self.trained

    def _decide(self, part: str, busy: bool) -> bool:
        if is_always_due(self.cfg, part, self.epoch):
            return True
        if every(self.cfg, part) != "auto":
            return False
        if part == SAMPLES and self.epoch in self.again:
            return True
        rule = rule_of(part)
        since = self.trained - self.due_at.get(part, 0.0)
        wanted = self.epoch % rule.epochs == 0 or since >= rule.seconds
        return wanted and not busy and self.needed(part) <= self.trained


def most(cfg: Config, part: str, first: int, seconds: float) -> int:
    """How often a part is due from epoch `first` to the last one, or, with `auto`, may be at most.

    `seconds`: about how long an epoch takes.
    """
    number, left = every(cfg, part), cfg.epochs - first + 1
    if number == 0 or left < 1:
        return 0
    if number == "auto":
        rule = rule_of(part)
        number = rule.epochs
        gap = max(1, math.ceil(rule.seconds / seconds)) if seconds > 0 else number
        if gap < number:  # epochs are so long that one comes between two multiples
            return min(left, left // gap + left // number + 2)
    multiples = cfg.epochs // number - (first - 1) // number
    ends = {1, cfg.epochs} if part == SAMPLES else {cfg.epochs}
    return multiples + sum(epoch >= first and epoch % number > 0 for epoch in ends)
