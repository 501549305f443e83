"""CSV logs of a run, one row an epoch, which a continued run goes on with.

Between two starts a person may have opened a log in a spreadsheet and saved it. What that makes of
it is read where it can be. A checkpoint holds the rows, too: where the file says something else, or
cannot be read, it is kept under another name before a new one is written, and that is said.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from soundgan import files
from soundgan.console import plural
from soundgan.training.tensorboard import Events

MAX_BYTES = 1 << 28  # of a log; a million epochs take half of it
COUNTED = ("epoch", "step")  # columns of whole numbers


class Log:
    """A CSV file with rows by epoch; opening drops those after `epoch` (the checkpoint's).

    What is added is kept in memory until it is written, and goes to `events`, if there are any.
    `by`: another column, in whose unit `epoch` is then. `every`: whether every epoch has a row, so
    that one which lacks is worth a word. `saved`: the rows that a checkpoint holds (`packed_rows`);
    where the file has others, these are taken, and rows after them are the file's. Columns that the
    file has beside `columns` stay in it; those that it lacks are NaN.

    Opening writes only where rows are dropped. Raises OSError where the file cannot be read.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        epoch: int,
        events: Events | None = None,
        by: str = "epoch",
        every: bool = False,
        saved: Mapping | None = None,
    ) -> None:
        self.path, self.columns, self.events = path, tuple(columns), events
        self.rows: list[dict[str, float]] = []
        self._by = by
        self._more: list[str] = []  # columns of the file that are not ours,
        self._beside: dict[float, list[str]] = {}  # and their cells, by epoch
        self._written = True
        problems = self._read(epoch)
        if saved is not None:
            problems += self._compare(unpacked_rows(saved, self.columns, epoch, by))
        if problems and os.path.lexists(path):
            self._set_aside(problems)
        if every:
            self._say_gaps(epoch)
        self.write()

    def add(self, values: Mapping[str, float]) -> None:
        """Add a row: `values` of all columns, rounded to what the file holds."""
        self.rows.append({name: number(_text(values[name])) for name in self.columns})
        self._written = False
        if self.events:
            self.events.scalars(self.path.stem, self.rows[-1])

    def write(self) -> None:
        """Bring what was added to the disk."""
        if self._written:
            return
        none = [""] * len(self._more)
        rows = [
            [*(_text(row[name]) for name in self.columns), *self._beside.get(row[self._by], none)]
            for row in self.rows
        ]
        files.write_csv(self.path, [[*self.columns, *self._more], *rows])
        self._written = True

    def _read(self, epoch: int) -> list[str]:
        """Take over the rows up to `epoch`; returns why others cannot be read."""
        problems = []
        try:
            table = read_table(self.path)
        except FileNotFoundError:
            return []
        except NotReadable as reason:
            table, problems = Table(), [str(reason)]
        if table.names and self._by not in table.names:
            problems.append(f"no column is called {self._by}")
            table = Table()
        self._more = [name for name in table.names if name not in self.columns]
        seen = set()
        for line, cells in table.rows:
            try:
                row = _numbers(cells, self.columns)
                at = row[self._by]
                if at in seen:
                    raise ValueError(f"{self._by} {at} stands there twice")
            except ValueError as reason:
                problems.append(f"line {line}: {reason}")
                continue
            seen.add(at)
            if at <= epoch:
                self.rows.append(row)
                self._beside[at] = [cells[name] for name in self._more]
            else:
                self._written = False
        self.rows.sort(key=lambda row: row[self._by])
        return [*table.problems, *problems]

    def _compare(self, saved: list[dict[str, float]]) -> list[str]:
        """Let the rows be those that were `saved`, and what the file has after them; returns where
        it has others."""
        last = max((row[self._by] for row in saved), default=0)
        known = {row[self._by]: row for row in self.rows if row[self._by] <= last}
        own = {row[self._by]: row for row in saved}
        other = sorted(n for n in own.keys() | known.keys() if not _same(own.get(n), known.get(n)))
        if not other:
            return []
        self.rows = saved + [row for row in self.rows if row[self._by] > last]
        self._written = False
        if not os.path.lexists(self.path):
            print(f"{self.path} is gone: written again from the checkpoint.", flush=True)
        return [f"{self._by} {n}: not what the checkpoint has" for n in other]

    def _set_aside(self, problems: Sequence[str]) -> None:
        kept = files.set_aside(self.path)
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        print(
            f"{self.path} is damaged or was changed ({problems[0]}{more}): it is kept as "
            f"{kept.name}, and a new one begins with the {plural(len(self.rows), 'row')} that are "
            "known.",
            flush=True,
        )
        self._written = False

    def _say_gaps(self, epoch: int) -> None:
        there = {row[self._by] for row in self.rows}
        lacking = [n for n in range(1, epoch + 1) if n not in there]
        if lacking:
            which = f"{lacking[0]}" if len(lacking) == 1 else f"{lacking[0]} to {lacking[-1]}"
            what = "row" if len(lacking) == 1 else f"{len(lacking)} rows"
            print(
                f"{self.path} lacks the {what} of {self._by} {which}: the run goes on, and its "
                "curves have a gap there. Copy the file back from a backup to mend that.",
                flush=True,
            )


def read_log(path: Path, epoch: int, by: str = "epoch") -> list[dict[str, float]]:
    """Rows of a log up to `epoch`, all with the same columns; nothing is written or raised.

    A cell that holds no number is NaN; rows that an interruption cut, and columns without any
    number, are left out. `by`: another column, in whose unit `epoch` is then.
    """
    try:
        table = read_table(path)
    except (OSError, NotReadable):
        return []
    rows = []
    for _, cells in table.rows:
        row = {}
        for name, cell in cells.items():
            with suppress(ValueError):
                row |= {name: number(cell)} if cell.strip() else {}
        if row.get(by, math.nan) <= epoch:
            rows.append(row)
    known = [name for name in table.names if any(name in row for row in rows)]
    return [{name: row.get(name, math.nan) for name in known} for row in rows]


# ---- in a checkpoint -----------------------------------------------------------------------------


def packed_rows(rows: Sequence[Mapping[str, float]], columns: Sequence[str]) -> dict:
    """Rows of a log as a checkpoint holds them: names of columns, and float64 `(rows, columns)`."""
    values = [[row.get(name, math.nan) for name in columns] for row in rows]
    shape = (len(rows), len(columns))
    return {
        "columns": list(columns),
        "rows": torch.tensor(values, dtype=torch.float64).reshape(shape),
    }


def unpacked_rows(
    saved: Mapping, columns: Sequence[str], epoch: int, by: str = "epoch"
) -> list[dict[str, float]]:
    """The rows up to `epoch` that `packed_rows` made, with these columns (NaN: unknown then)."""
    rows = [dict(zip(saved["columns"], values)) for values in saved["rows"].tolist()]
    made = [{name: _typed(name, row.get(name, math.nan)) for name in columns} for row in rows]
    return [row for row in made if row[by] <= epoch]


def misfit_of_log(saved: object) -> str:
    """Why what a checkpoint holds of a log cannot be used, or ""; None: an older version's."""
    if saved is None:
        return ""
    if not isinstance(saved, Mapping) or {"columns", "rows"} - saved.keys():
        return "it is no table"
    columns, rows = saved["columns"], saved["rows"]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        return "its columns have no names"
    if not isinstance(rows, torch.Tensor) or rows.dim() != 2 or rows.shape[1] != len(columns):
        return "its rows are no numbers of its columns"
    return ""


def _typed(name: str, value: float) -> float:
    return int(value) if name in COUNTED and math.isfinite(value) else value


def _same(one: Mapping[str, float] | None, other: Mapping[str, float] | None) -> bool:
    """Whether two rows hold the same numbers; NaN is none, also of a column that one lacked."""
    if one is None or other is None:
        return False
    return all(a == other[k] or (a != a and other[k] != other[k]) for k, a in one.items())


# ---- what is in a file ---------------------------------------------------------------------------


class NotReadable(Exception):
    """Why a file is no table at all."""


@dataclass
class Table:
    """The cells of a log as text, and what of the file is not among them."""

    names: list[str] = field(default_factory=list)  # of the columns
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # line, cells by name
    problems: list[str] = field(default_factory=list)


def read_table(path: Path) -> Table:
    """What a log holds, be it as it was written or as a spreadsheet saved it.

    Cells may be apart by commas, semicolons or tabs, quoted or not, in UTF-8 or UTF-16; a quote too
    many does no harm where the cells can still be told. Raises NotReadable where it is no regular
    file or far too large, OSError.
    """
    try:
        if os.stat(path).st_size > MAX_BYTES:
            raise NotReadable(f"it is larger than {MAX_BYTES / 1e6:.0f} MB")
        content = files.read_bytes(path)
    except OSError as error:
        if error.errno:
            raise
        raise NotReadable("it is no regular file") from error
    return _table(files.decoded(content))


def number(cell: str) -> float:
    """The number in a cell; NaN where it is empty or a spreadsheet's error. Raises ValueError."""
    text = cell.strip().removeprefix("'")
    if not text or text.startswith("#"):
        return math.nan
    if "," in text and "." not in text:
        text = text.replace(",", ".")  # a decimal comma; two of them are no number
    return int(text) if text.isascii() and text.isdigit() else float(text)


def _table(text: str) -> Table:
    """The table in a text."""
    lines = [(k, line) for k, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)]
    ended = not lines[-1][1]
    lines = [(k, line) for k, line in lines if line.strip(' \t,;"')]
    if lines and lines[0][1].lower().startswith("sep="):  # a line of Excel's own
        lines = lines[1:]
    if not lines:
        return Table()
    apart = max(",;\t", key=lines[0][1].count)
    names = [cell.strip().removeprefix("'") for cell in _cells(lines[0][1], apart)]
    while names and not names[-1]:
        names.pop()
    if len(set(names)) < len(names) or "" in names:
        return Table(problems=["two of its columns have one name, or one has none"])
    table = Table(names)
    for line, words in lines[1:]:
        cells, last = _cells(words, apart), line == lines[-1][0]
        if len(cells) < len(names) or any(cell.strip() for cell in cells[len(names) :]):
            table.problems.append(f"line {line}: {len(cells)} cells, not {len(names)}")
        elif last and not ended:
            table.problems.append(f"line {line} has no end, and its last number may be cut")
        else:
            table.rows.append((line, dict(zip(names, cells))))
    return table


def _cells(line: str, apart: str) -> list[str]:
    if line.count('"') % 2:  # one too many: without any, the cells can be told, or are too many
        return line.replace('"', "").split(apart)
    with suppress(csv.Error):
        cells = next(csv.reader([line], delimiter=apart))
        return cells if len(cells) > 1 else cells[0].split(apart)  # all of a line in one cell
    return []


def _numbers(cells: Mapping[str, str], columns: Sequence[str]) -> dict[str, float]:
    """The row of these columns, NaN where the table lacks one. Raises ValueError."""
    row = {}
    for name in columns:
        try:
            row[name] = number(cells[name]) if name in cells else math.nan
            if name in COUNTED and name in cells:
                if row[name] != int(row[name]):
                    raise ValueError
                row[name] = int(row[name])
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{cells[name]!r} is no number of column {name}") from error
    return row


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
