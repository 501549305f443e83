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
    """The tests that need CUDA, with what each failure says.

    Each is shown when it is over, so that something is known where time runs out in the middle.
    """
    command = [sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=line", "-o", "addopts="]
    command += ["-p", "no:cacheprovider", "-k", "cuda and not stub", *TESTS]
    lines = []
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=both, text=True) as process:
        for line in process.stdout:
            lines.append(line.rstrip())
            print(lines[-1], flush=True)
    for line in lines:
        if line.startswith(("FAILED ", "ERROR ")):
            say(asked.stage, item, test=line.partition(" ")[2][:300])
    last = next((line for line in reversed(lines) if re.search(r"\d+ \w+.* in [\d.]+", line)), "")
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    if not counts:
        said = " | ".join(lines[-3:])
        raise RuntimeError(f"pytest: exit code {process.returncode}: {said}")
    say(asked.stage, item, asked.on(), **counts)
