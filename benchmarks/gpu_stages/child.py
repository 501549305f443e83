"""What runs in a child: the items of a stage, one after the other."""

from __future__ import annotations

import importlib
import json
import time
import traceback

from gpu_stages.plan import STAGES


def main(words: str) -> int:
    """Do what `words` (Asked, as JSON) say; returns the exit code.

    After an item that fails the process is left: an error of CUDA stays, and what an item changed
    for its own sake may not have been set back.
    """
    from gpu_stages.asked import Asked, say  # which imports PyTorch

    asked = Asked(**json.loads(words))
    stage = next(s for s in STAGES if s.name == asked.stage)
    module, _, function = stage.work.partition(":")
    for item in asked.items:
        start = time.perf_counter()
        try:
            work = getattr(importlib.import_module(f"gpu_stages.{module}"), function)
            work(item, asked)
        except (Exception, SystemExit) as error:
            said = traceback.format_exc().splitlines()[-6:]
            why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            taken = time.perf_counter() - start
            say(asked.stage, item, end="failed", why=why, said=said, seconds=taken)
            return 1
        say(asked.stage, item, end="done", seconds=time.perf_counter() - start)
    return 0
