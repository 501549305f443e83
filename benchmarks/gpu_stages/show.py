"""Findings as tables in markdown, with the card's name, so that no figure is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

Row = dict[str, object]


def read(paths: Sequence[str]) -> list[Row]:
    """The findings of these files; lines that are no JSON (of a terminal, say) are left out."""
    rows = []
    for path in paths:
        for line in Path(path).read_text().splitlines():
            if line.startswith("{"):
                try:
                    rows.append(json.loads(line))
                except ValueError:  # cut off
                    continue
    return rows


def figure(value: object, digits: int = 3) -> str:
    """A cell: "-" for what was not found."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; "" where it would be empty."""
    cells = [[figure(cell) for cell in row] for row in rows]
    if not cells:
        return ""
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def largest(row: Row, name: str) -> float | None:
    """The largest distance of a part, of those that a step changes."""
    return max((v for v in row[name].values() if v is not None), default=None)


def ratio(a: object, b: object) -> float | None:
    return a / b if a and b else None


def machine(rows: list[Row]) -> str:
    about = {k: v for row in rows for k, v in row.items() if k not in ("stage", "item", "on")}
    shown = {k: v if isinstance(v, (str, bool, float)) else json.dumps(v) for k, v in about.items()}
    return markdown(["", "found"], shown.items())


def one_step(rows: list[Row]) -> str:
    heads = ["recipe", "step", "captured", "replayed", "again", "rounded", "noise", "bit for bit"]
    return markdown(
        [*heads, "the plain one repeats", "wrong"],
        [
            (
                *(row["item"], row["kind"], row["captured"]),
                *(largest(row, name) for name in ("replayed", "again", "rounded")),
                *(row["noise"], row["equal"], row["repeats"], " ".join(row["wrong"])),
            )
            for row in rows
        ],
    )


def steps(rows: list[Row]) -> str:
    heads = ["recipe", "step", "share", "batch", "plain ms", "one by one ms", "replayed ms"]
    return markdown(
        [*heads, "of plain", "clips/s", "GiB", "captured"],
        [
            (
                *(row["item"], row["kind"], f"{row['share']:.0%}", row["batch"]),
                *(row.get("plain_ms"), row["eager_ms"], row["ms"]),
                *(ratio(row.get("plain_ms"), row["ms"]), ratio(1e3 * row["batch"], row["ms"])),
                row.get("gib"),
                row["captured"] or row["failed_capture"] or False,
            )
            for row in rows
        ],
    )


def kernels(rows: list[Row]) -> str:
    heads = ["recipe", "step", "kernels replayed", "busy ms", "kernels one by one", "busy ms"]
    names = ("kernels", "busy_ms", "kernels_one_by_one", "busy_one_by_one_ms")
    return markdown(
        [*heads, "longest kinds, ms"],
        [
            (
                *(row["item"], row["kind"], *(row[name] for name in names)),
                ", ".join(f"{k} {figure(ms)}" for k, ms in [*row["by_kind_ms"].items()][:4]),
            )
            for row in rows
        ],
    )


def variants(rows: list[Row]) -> str:
    heads = ["variant", "of", "step", "batch", "replayed ms", "clips/s", "GiB", "first step s"]
    return markdown(
        heads,
        [
            (
                *(row["item"], row["recipe"], row["kind"], row["batch"], row["ms"]),
                *(ratio(1e3 * row["batch"], row["ms"]), row.get("gib"), row["first_s"]),
            )
            for row in rows
        ],
    )


SCORES = ("accuracy", "frechet", "kernel", "coverage", "cas", "copy_ratio", "diversity")


def score(rows: list[Row]) -> str:
    heads = ["", "trained s", "steps", *SCORES, "scored in s"]
    trained = {row["item"]: row["trained_s"] for row in rows if "trained_s" in row}
    return markdown(
        heads,
        [
            (
                *(f"{row['item']}: {row['row']}", trained.get(row["item"]), row["step"]),
                *(*(row.get(name) for name in SCORES), row["scored_s"]),
            )
            for row in rows
            if "row" in row
        ],
    )


WHOLE = ("epochs", "steps", "seconds", "begun_s", "in_steps_s", "waiting_s", "sets", "scorings")


def whole(rows: list[Row]) -> str:
    heads = ["run", "finished", *(name.replace("_s", " s") for name in WHOLE)]
    return markdown(
        heads,
        [(row["item"], row["finished"], *(row.get(name) for name in WHOLE)) for row in rows],
    )


def tests(rows: list[Row]) -> str:
    names = ("passed", "failed", "skipped", "error")
    counted = [row for row in rows if any(name in row for name in names)]
    failing = [f"- {row['test']}" for row in rows if "test" in row]
    table = markdown(names, [[row.get(name, 0) for name in names] for row in counted])
    return "\n\n".join(filter(None, [table, "\n".join(failing)]))


TABLES: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
    "machine": ("The machine", machine),
    "onestep": ("One replayed step beside a plain one (largest relative distance)", one_step),
    "steps": ("Milliseconds of a step", steps),
    "kernels": ("Kernels of a step", kernels),
    "variants": ("Variants", variants),
    "score": ("Scores after two minutes, fold 2 held out", score),
    "whole": ("Whole runs", whole),
    "exact": ("Deterministic steps", one_step),
    "tests": ("Tests that need CUDA", tests),
}


def tables(rows: list[Row]) -> str:
    """All tables, of each machine by itself, and what failed or was left out."""
    parts = []
    for on in dict.fromkeys(row["on"] for row in rows if "on" in row):
        parts.append(f"## {on}")
        for stage, (title, table) in TABLES.items():
            own = [r for r in rows if r.get("stage") == stage and r.get("on") == on]
            own += [r for r in rows if r.get("stage") == stage == "tests" and "test" in r]
            if shown := table(own) if own else "":
                parts.append(f"{title}:\n\n{shown}")
    failed = [
        f"- {row['stage']} {row['item']}: {row['why']}".replace(" :", ":")
        for row in rows
        if row.get("end") == "failed"
    ]
    left = [f"- {r['stage']}: {', '.join(r['left_out'])}" for r in rows if r.get("left_out")]
    for title, lines in (("Failed", failed), ("No time was left for", left)):
        if lines:
            parts.append(f"{title}:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)
