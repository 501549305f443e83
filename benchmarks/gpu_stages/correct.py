"""Whether steps are right on this device: replayed beside plain, bit for bit, and the tests."""

from __future__ import annotations

import re
import subprocess
import sys

import one_step

from gpu_stages.asked import ROOT, Asked, say

TESTS = ("tests/training/test_cuda.py", "tests/models/test_kernels.py")


def one_step_rows(recipe: str, asked: Asked, **changes: object) -> None:
    """Compare a step of each kind, with these constants changed."""
    device = asked.on()
    for row in one_step.compare(asked.config(recipe, **changes), device):
        for way in one_step.WAYS[1:]:  # in few words: the part that is farthest, and those wrong
            apart = row[way]
            part = max(apart, key=apart.get)
            row[way] = {part: apart[part]} | {wrong: apart[wrong] for wrong in row["wrong"]}
        say(asked.stage, recipe, device, **row)


def one_step_of(recipe: str, asked: Asked) -> None:
    """A replayed step of each kind beside a plain one, with the settings that a run has."""
    one_step_rows(recipe, asked)


def exact(recipe: str, asked: Asked) -> None:
    """The same with `deterministic`: all three ways are to be equal bit for bit."""
    one_step_rows(recipe, asked, deterministic=True)


def tests(item: str, asked: Asked) -> None:
    """The tests that need CUDA, with what each failure says."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=line", "-o", "addopts="]
    command += ["-p", "no:cacheprovider", "-k", "cuda", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    for line in lines:
        if line.startswith(("FAILED ", "ERROR ")):
            say(asked.stage, item, test=line.partition(" ")[2][:300])
    last = next((line for line in reversed(lines) if re.search(r"\d+ \w+.* in [\d.]+", line)), "")
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    if not counts:
        raise RuntimeError(f"pytest: exit code {done.returncode}: {' | '.join(lines[-3:])}")
    say(asked.stage, item, asked.on(), **counts)
