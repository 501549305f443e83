"""Everything that needs a GPU, the most important things first: is it right, how quick is it.

    python benchmarks/gpu.py --data-dir esc10 --out gpu             ten minutes
    python benchmarks/gpu.py --only first --data-dir esc10 --out gpu      five of them
    python benchmarks/gpu.py --show gpu/findings.jsonl              the tables for docs/speed.md

Goes through stages (--plan prints them), each in processes of its own, with seconds of its own. One
that fails or hangs stops no other. A finding is printed as a line of JSON as soon as it is there,
and added to OUT/findings.jsonl, the one file that is written (but by what takes hours, `--only
long`). What a stage leaves of its seconds, the next ones may use. Nothing is fetched; samples are
played by Griffin-Lim. `--device cpu --tiny` goes through all of it without a GPU, in the sizes of
the tests.

Exit codes: 0 all was found, 1 something failed or no time was left for it, 2 something to mend.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from gpu_stages import child, children, plan, show  # noqa: E402

FINDINGS = "findings.jsonl"


@dataclass(frozen=True)
class Options:
    """Find out what a GPU does, in stages."""

    data_dir: str = str(ROOT / "data")
    """Class folders; for `score` with ESC-10's names, which begin with the fold."""
    out: str = "gpu"
    """Folder for findings.jsonl."""
    only: tuple[str, ...] = ()
    """Stages, or calls (first, second, long); none: first and second."""
    recipes: tuple[str, ...] = ()
    """Recipes to go through; none: all."""
    budget: float = 0.0
    """Seconds in all; 0: what the stages have together."""
    device: str = "auto"
    """auto, cuda, cpu."""
    tiny: bool = False
    """The sizes of the tests: is every stage well, nothing else."""
    plan: bool = False
    """Print the stages and what they may take, and do nothing."""
    show: tuple[str, ...] = ()
    """Files of findings to print tables of; nothing else is done."""


def run_stage(stage: plan.Stage, options: Options, seconds: float, tell: children.Tell) -> bool:
    """One stage, for so many seconds at most; whether all of it was found."""
    start = time.monotonic()
    asked = {"stage": stage.name, "limit": stage.limit, "device": options.device}
    asked |= {"tiny": options.tiny, "data_dir": str(Path(options.data_dir).resolve())}
    asked |= {"out": str(Path(options.out).resolve())}

    def command(items: list[str], spare: float) -> list[str]:
        words = asked | {"items": items, "last": time.time() + spare}
        return [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--child", json.dumps(words)]

    def tell_own(row: dict) -> None:
        tell({"stage": stage.name} | row)

    items = plan.items_of(stage, options.recipes)
    limit = min(stage.limit, seconds)
    failed, left_out = children.run_items(command, items, seconds, limit, tell_own)
    tell(
        {"stage": stage.name, "end": "stage", "seconds": round(time.monotonic() - start, 1)}
        | {"budget": round(seconds), "failed": failed, "left_out": left_out}
    )
    return not failed and not left_out


def run_stages(
    stages: list[plan.Stage], options: Options, started: float, tell: children.Tell
) -> bool:
    """The stages one after the other, the time counted from `started` on; whether all was found."""
    budget = options.budget or sum(stage.budget for stage in stages)
    last, spare, well = started + budget, 0.0, True
    for stage in stages:
        start = time.monotonic()
        seconds = min(stage.budget + spare, last - start)
        well &= run_stage(stage, options, seconds, tell)
        spare = max(0.0, seconds - (time.monotonic() - start))
    return well


def misuse(options: Options) -> str:
    """What is wrong with the options; "" where nothing is."""
    try:
        stages = plan.chosen(options.only)
    except ValueError as error:
        known = ", ".join((*plan.NAMES, *plan.COMMANDS, plan.FIRST, plan.SECOND, plan.LONG))
        return f"--only {error}: there are {known}."
    if unknown := sorted({*options.recipes} - {*plan.RECIPES}):
        return f"--recipes {' '.join(unknown)}: there are {', '.join(plan.RECIPES)}."
    of_sounds = [stage.name for stage in stages if stage.call != plan.FIRST]
    if {*of_sounds} & {"score", "whole", "commands"} and not Path(options.data_dir).is_dir():
        return f"--data-dir {options.data_dir} is no folder; without one: --only first."
    if options.device != "cpu":
        import torch  # which takes seconds: not before it is needed

        if not torch.cuda.is_available():
            return "PyTorch sees no CUDA GPU here: --device cpu --tiny tries the stages without."
    return ""


def main() -> int:
    started = time.monotonic()
    if sys.argv[1:2] == ["--child"]:
        return child.main(sys.argv[2])
    import tyro

    options = tyro.cli(Options, description=__doc__)
    if options.show:
        print(show.tables(show.read(options.show)))
        return 0
    if options.plan:
        print(plan.table(plan.chosen(options.only) if options.only else plan.STAGES))
        return 0
    if why := misuse(options):
        print(f"Error: {why}", file=sys.stderr)
        return 2
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / FINDINGS, "a", buffering=1) as file:

        def tell(row: dict) -> None:
            print(json.dumps(row), flush=True)
            file.write(f"{json.dumps(row)}\n")

        return 0 if run_stages(plan.chosen(options.only), options, started, tell) else 1


if __name__ == "__main__":
    sys.exit(main())
