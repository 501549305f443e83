"""Which stages there are, what each may take, and what it goes through one by one.

Imports nothing heavy: whoever starts the stages must not wait for PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# In the order in which they are gone through; a test compares them with config.RECIPES.
RECIPES = ("sn-wgan-gp", "best", "cgan", "frequency-quest", "wavegan", "lofi-wgan")
# Calls of ten minutes on a lent machine, and for a machine of one's own.
FIRST, SECOND, LONG = "first", "second", "long"
BUDGETS = {FIRST: 300, SECOND: 370}  # s that the stages of a call have together


@dataclass(frozen=True)
class Stage:
    """Some findings of one kind, made in processes of their own."""

    name: str
    call: str
    budget: int  # s, the start of its processes included
    limit: int  # s for one item; it is ended where it takes longer
    work: str  # module:function below gpu_stages, called with each item
    about: str
    items: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Variant:
    """A recipe whose step is timed with something else about it."""

    recipe: str
    changes: Mapping[str, object] = field(default_factory=dict)  # of constants
    way: str = ""  # what else is done: a function of variants.py


DEFAULT, BEST = RECIPES[:2]
VARIANTS = {
    "norm: formula": Variant(DEFAULT, {"compile": False}),
    "norm: own kernel": Variant(DEFAULT, {"compile": True}),
    "channels last": Variant(DEFAULT, way="channels_last"),
    "no TF32": Variant(DEFAULT, {"tf32": False}),
    "cuDNN's first choice": Variant(DEFAULT, way="no_search"),
    "best: bf16": Variant(BEST, {"optimiser.precision": "bf16"}),
    "best: fp32 with TF32": Variant(BEST, {"optimiser.precision": "fp32"}),
    "best: fp32": Variant(BEST, {"optimiser.precision": "fp32", "tf32": False}),
    "best: R1, R2 by differences": Variant(BEST, {"objective.r1_r2_by": "difference"}),
    "batch 64": Variant(DEFAULT, {"batch_size": 64}),
    "batch 256": Variant(DEFAULT, {"batch_size": 256}),
    "norm: Inductor": Variant(DEFAULT, {"compile": False}, way="inductor"),
}
WHOLE = (f"{DEFAULT}: auto", f"{DEFAULT}: every 10 epochs")
COMMANDS = ("seeds", "speed", "ranks", "sizes", "ablation")

STAGES = (
    Stage("machine", FIRST, 30, 30, "machine:machine", "card, versions, Triton, C compiler"),
    Stage(
        *("onestep", FIRST, 70, 45, "correct:one_step_of"),
        "one replayed step beside one plain step, from one state and noise",
        RECIPES,
    ),
    Stage(
        *("steps", FIRST, 85, 60, "steps:steps"),
        "ms a step: the plain script, operation by operation, replayed",
        RECIPES,
    ),
    Stage(  # not beside the timing: once it has looked, the profiler slows a process
        *("kernels", FIRST, 45, 45, "steps:kernels"),
        "kernels a step and busy time, replayed and one by one",
        RECIPES,
    ),
    Stage(
        *("variants", FIRST, 70, 45, "variants:variant"),
        "ms a replayed step with other kernels, layout, precision, batch",
        (*VARIANTS,),
    ),
    Stage(
        *("score", SECOND, 185, 180, "training:score"),
        "`best` trained for two minutes with fold 2 held out, and its scores",
        (BEST,),
    ),
    Stage(
        *("whole", SECOND, 105, 100, "training:whole"),
        "the default from beginning to end",
        WHOLE,
    ),
    Stage(
        *("exact", SECOND, 35, 30, "correct:exact"),
        "deterministic runs, plain twice and replayed, bit for bit",
        RECIPES,
    ),
    Stage("tests", SECOND, 45, 150, "correct:tests", "the tests that need CUDA"),
    Stage(
        *("commands", LONG, 40 * 3600, 30 * 3600, "commands:command"),
        "what takes hours: three seeds of all six recipes, ranks, data sets, the ablation",
        COMMANDS,
    ),
)
NAMES = tuple(stage.name for stage in STAGES)


def chosen(only: Sequence[str]) -> list[Stage]:
    """The stages that names of stages and of calls stand for; none: those of the ten minutes.

    Raises ValueError with the name that is none.
    """
    for name in only:
        if name not in (*NAMES, FIRST, SECOND, LONG, *COMMANDS):
            raise ValueError(name)
    asked = only or (FIRST, SECOND)
    stages = []
    for stage in STAGES:
        own = tuple(name for name in stage.items if stage.call == LONG and name in asked)
        if stage.name in asked or stage.call in asked:
            stages.append(stage)
        elif own:  # a command by its own name
            stages.append(Stage(**vars(stage) | {"items": own}))
    return stages


def of_recipe(item: str) -> str:
    """The recipe that an item belongs to; "" where it is none's."""
    if item in VARIANTS:
        return VARIANTS[item].recipe
    name = item.partition(":")[0]
    return name if name in RECIPES else ""


def items_of(stage: Stage, recipes: Sequence[str]) -> list[str]:
    """What a stage goes through where only these recipes (none: all) are asked for."""
    own = [(item, of_recipe(item)) for item in stage.items]
    return [item for item, recipe in own if not (recipes and recipe) or recipe in recipes]


def table(stages: Sequence[Stage]) -> str:
    """The stages with their budgets, and what each call has together."""
    lines = [f"{s.name:9} {s.budget:6} s  {s.about}" for s in stages]
    for call in (FIRST, SECOND, LONG):
        if own := [s for s in stages if s.call == call]:
            together = sum(stage.budget for stage in own)
            lines.append(f"{call:9} {together:6} s  {', '.join(stage.name for stage in own)}")
    return "\n".join(lines)
