"""CSV logs of a run, one row an epoch, which a continued run goes on with."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from soundgan import files
from soundgan.training.tensorboard import Events


class Log:
    """A CSV file with rows by epoch; opening drops those after `epoch` (the checkpoint's).

    What is added is kept in memory until it is written, and goes to `events`, if there are any.
    `by`: another column, in whose unit `epoch` is then.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        epoch: int,
        events: Events | None = None,
        by: str = "epoch",
    ) -> None:
        self.path, self.columns, self.events = path, tuple(columns), events
        self.rows = read_log(path, epoch, columns, by)
        self._written = False
        self.write()

    def add(self, values: Mapping[str, float]) -> None:
        """Add a row: `values` of all columns, rounded to what the file holds."""
        self.rows.append({name: _number(_text(values[name])) for name in self.columns})
        self._written = False
        if self.events:
            self.events.scalars(self.path.stem, self.rows[-1])

    def write(self) -> None:
        """Bring what was added to the disk."""
        if self._written:
            return
        rows = [[_text(row[name]) for name in self.columns] for row in self.rows]
        files.write_csv(self.path, [self.columns, *rows])
        self._written = True


def read_log(
    path: Path, epoch: int, columns: Sequence[str] = (), by: str = "epoch"
) -> list[dict[str, float]]:
    """Rows of a log up to `epoch` (`columns`: all), those left out that an interruption cut.

    `by`: another column, in whose unit `epoch` is then.
    """
    rows = []
    with (
        suppress(FileNotFoundError),
        open(path, newline="", encoding="utf-8-sig", errors="replace") as file,
    ):
        reader = csv.DictReader(file)
        for row in reader:
            try:
                values = {name: _number(row[name]) for name in columns or reader.fieldnames}
                if values[by] <= epoch:
                    rows.append(values)
            except (KeyError, TypeError, ValueError, AttributeError):  # cut short
                continue
    return rows


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)
