"""What became of trials, and the table of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

SURVIVED, LOST, SILENT, TRACEBACK = "survived", "lost", "silent", "traceback"


@dataclass(frozen=True)
class Trial:
    """One thing that was done to the program, and what came of it."""

    part: str  # of the table, as --only names it
    number: int  # within the part: with the seed, it says all that was random
    kind: str  # row of the table
    outcome: str = SURVIVED  # or LOST, SILENT, TRACEBACK
    how: str = ""  # identical, said, refused ...
    note: str = ""  # of a failure: what was done, and what came instead
    seconds: float = 0.0


@dataclass
class Row:
    """All trials of one kind."""

    kind: str
    part: str
    counts: dict[str, int] = field(default_factory=dict)
    ways: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def trials(self) -> int:
        return sum(self.counts.values())


class Results:
    """Collects the trials of all parts, with the seconds that each took."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.figures: dict[str, str] = {}  # what a part measured, by its name

    def collect(self, trials: Iterable[Trial], show: Callable[[Trial], None]) -> None:
        """Run through the trials of a part, and time those that did not do it themselves."""
        began = time.perf_counter()
        for trial in trials:
            now = time.perf_counter()
            trial = trial if trial.seconds else replace(trial, seconds=now - began)
            began = now
            self.trials.append(trial)
            show(trial)

    def rows(self) -> list[Row]:
        """The table, a row a kind, in the order of their first trials."""
        rows: dict[str, Row] = {}
        for trial in self.trials:
            row = rows.setdefault(trial.kind, Row(trial.kind, trial.part))
            row.counts[trial.outcome] = row.counts.get(trial.outcome, 0) + 1
            if trial.how:
                row.ways[trial.how] = row.ways.get(trial.how, 0) + 1
            row.seconds += trial.seconds
        return list(rows.values())

    def failures(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.outcome != SURVIVED]


HEAD = ("what is done", "trials", "survived", "lost", "silent wrong results", "tracebacks")
HEAD += ("how", "seconds", "command")


def markdown(results: Results, commands: dict[str, str]) -> str:
    """The table, and below it what was measured. `commands`: by part."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    rows = results.rows()
    for row in rows:
        counts = [row.counts.get(k, 0) for k in (SURVIVED, LOST, SILENT, TRACEBACK)]
        ways = ", ".join(f"{n} {how}" for how, n in sorted(row.ways.items()))
        cells = (row.kind, row.trials, *counts, ways, f"{row.seconds:.0f}")
        lines.append("| " + " | ".join(map(str, cells)) + f" | `{commands[row.part]}` |")
    sums = [sum(r.counts.get(k, 0) for r in rows) for k in (SURVIVED, LOST, SILENT, TRACEBACK)]
    seconds = sum(row.seconds for row in rows)
    cells = ("all", sum(sums), *sums, "", f"{seconds:.0f}", "")
    lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [""] if results.figures else []
    lines += [f"- {name}: {figure}" for name, figure in results.figures.items()]
    return "\n".join(lines) + "\n"


def numbered(seed: int, part: str, count: int, only: int) -> Iterator[tuple[int, random.Random]]:
    """Trials of a part with a random generator of their own, so that each can be done again.

    `only`: the number of the one that is wanted; -1: all `count`.
    """
    for number in range(count) if only < 0 else [only]:
        yield number, random.Random(f"{seed}/{part}/{number}")
