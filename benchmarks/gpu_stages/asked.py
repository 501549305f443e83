"""What a child is asked to do, how it says what it found, and the recipe that it is about."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from timing import name_of

from config import RECIPES
from soundgan.config_io import change
from soundgan.settings import Config
from soundgan.training.devices import pick_device

ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS = 5  # of a figure


@dataclass(frozen=True)
class Asked:
    """A stage, and where and how large."""

    stage: str
    items: list[str]
    last: float  # on the clock time.time(), when the child will be ended
    limit: float  # s for an item
    device: str
    tiny: bool  # sizes of the tests
    data_dir: str
    out: str

    def left(self) -> float:
        """Seconds until this child is ended at the latest."""
        return self.last - time.time()

    def config(self, recipe: str, **changes: object) -> Config:
        """A recipe on the device asked for; in the tests' sizes where it shall be tiny."""
        cfg = RECIPES[recipe]
        if self.tiny:
            cfg = shrunk(cfg, Path(self.data_dir), Path(self.out))
        return change(cfg, {"device": self.device, **changes})

    def on(self) -> torch.device:
        """The device asked for."""
        return pick_device(self.config("sn-wgan-gp"))


def shrunk(cfg: Config, data: Path, outputs: Path) -> Config:
    """A recipe with all its parts and tiny numbers."""
    return _tests().shrunk(cfg, data, outputs)


def flags(cfg: Config) -> list[str]:
    """What follows `train.py RECIPE` on a command line to get these constants."""
    return _tests().flags(cfg)


@cache
def _tests():
    """The tests' own module, which has the tiny sizes."""
    sys.path.append(str(ROOT / "tests"))
    import conftest

    return conftest


def say(stage: str, item: str, device: torch.device | None = None, **found: object) -> None:
    """One finding as a line of JSON; `device`: that it was found on, which the line names."""
    on = {"on": name_of(device)} if device else {}
    print(json.dumps({"stage": stage, "item": item, **on, **_plain(found)}), flush=True)


def _plain(value: object) -> object:
    """What JSON knows: figures of a few digits, and None for those that are no number."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value if isinstance(value, (bool, int, str, type(None))) else str(value)
