"""Ten minutes on a GPU: no stage can take more than its time or stop another, and what is found is
kept as it comes."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gpu
import pytest
import torch
from gpu_stages import children, plan, variants

import config
from soundgan.config_io import change

# ---- the plan -----------------------------------------------------------------------------------


def test_two_calls_fit_fourteen_minutes() -> None:
    """With the start of a machine before each of them, which takes a minute or more."""
    for call, seconds in plan.BUDGETS.items():
        assert sum(stage.budget for stage in plan.STAGES if stage.call == call) == seconds
    assert plan.BUDGETS == {"first": 300, "second": 370}
    assert sum(plan.BUDGETS.values()) + 2 * 85 <= 14 * 60
    # The tests may use what the stages before them leave: they are the last ones.
    usual = [stage for stage in plan.STAGES if stage.name != "tests"]
    assert all(0 < stage.limit <= stage.budget for stage in usual)
    *_, first, second, _ = plan.table(plan.STAGES).splitlines()
    assert first == "first        300 s  machine, onestep, steps, kernels, variants"
    assert second == "second       370 s  score, whole, exact, tests"


def test_the_docs_have_the_same_seconds() -> None:
    text = (gpu.ROOT / "docs" / "benchmarks.md").read_text()
    for stage in plan.STAGES:
        if stage.call != plan.LONG:
            assert f"| `{stage.name}` | {stage.budget} |" in text


def test_the_plan_names_what_there_is() -> None:
    assert sorted(plan.RECIPES) == sorted(config.RECIPES)
    assert config.RECIPE == plan.DEFAULT
    for stage in plan.STAGES:
        module, _, function = stage.work.partition(":")
        assert callable(getattr(importlib.import_module(f"gpu_stages.{module}"), function))
    for own in plan.VARIANTS.values():
        cfg = change(config.RECIPES[own.recipe], own.changes)
        cfg.check()
        assert not own.way or callable(getattr(variants, own.way))


def test_stages_are_chosen_by_name_and_by_call() -> None:
    names = lambda *only: [stage.name for stage in plan.chosen(only)]  # noqa: E731
    assert names() == [*names("first"), *names("second")]
    assert names("tests", "machine") == ["machine", "tests"]
    assert [*plan.NAMES] == [*names(), "commands"]
    (ablation,) = plan.chosen(["ablation"])
    assert ablation.items == ("ablation",)
    with pytest.raises(ValueError, match="nothing"):
        plan.chosen(["nothing"])


def test_recipes_leave_out_what_belongs_to_others() -> None:
    stages = {stage.name: stage for stage in plan.STAGES}
    assert plan.items_of(stages["steps"], ["cgan", "best"]) == ["best", "cgan"]
    assert plan.items_of(stages["tests"], ["cgan"]) == [""]
    assert plan.items_of(stages["whole"], ["cgan"]) == []
    own = plan.items_of(stages["variants"], ["best"])
    assert own
    assert all(plan.VARIANTS[name].recipe == "best" for name in own)


# ---- children -----------------------------------------------------------------------------------

CHILD = """
import json, os, signal, subprocess, sys, time
say = lambda **row: print(json.dumps(row), flush=True)
for item in sys.argv[1:]:
    say(item=item, found=1)
    if item == "fails":
        say(item=item, end="failed", why="as it should")
        sys.exit(1)
    if item == "crashes":
        print("its last words", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "leaves":
        sys.exit(0)
    if item == "hangs":
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); "
        deaf = [sys.executable, "-c", deaf + "time.sleep(600)"]
        child = subprocess.Popen(deaf, stdout=subprocess.PIPE)
        child.stdout.readline()
        say(item=item, pid=child.pid)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if item == "orphans":  # a process that goes on holding the child's output
        say(pid=subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
    say(item=item, end="done")
print("a warning")
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "GRACE", 0.5)
    monkeypatch.setattr(children, "LEAST", 1.0)


def gone_through(items: list[str], seconds: float = 60.0, limit: float = 30.0) -> tuple:
    rows: list[dict] = []
    command = lambda left, spare: [sys.executable, "-c", CHILD, *left]  # noqa: E731
    failed, left = children.run_items(command, items, seconds, limit, rows.append)
    return rows, failed, left


def alive(pid: int) -> bool:
    """Whether a process runs (one that ended, and that nobody waited for, does not)."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def ends(pid: int) -> bool:
    last = time.monotonic() + 5
    while alive(pid) and time.monotonic() < last:
        time.sleep(0.05)
    return not alive(pid)


def test_an_item_that_fails_or_crashes_stops_no_other(quick: None) -> None:
    rows, failed, left = gone_through(["a", "fails", "b", "crashes", "leaves", "c"])
    assert failed == ["fails", "crashes", "leaves"]
    assert left == []
    ends = {row["item"]: row for row in rows if "end" in row}
    assert {item: row["end"] for item, row in ends.items()} == {
        **dict.fromkeys("abc", "done"),
        **dict.fromkeys(failed, "failed"),
    }
    assert ends["crashes"]["why"] == "its process ended with exit code -11"
    assert ends["crashes"]["said"] == ["its last words"]
    assert ends["leaves"]["why"] == "its process ended with exit code 0"
    assert rows[-1] == {"said": ["a warning"]}
    assert [row["item"] for row in rows if "found" in row] == [
        *("a", "fails", "b", "crashes", "leaves", "c")
    ]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_an_item_that_hangs_is_ended_with_all_it_started(quick: None) -> None:
    start = time.monotonic()
    rows, failed, left = gone_through(["a", "hangs", "b"], limit=3.0)
    assert time.monotonic() - start < 30
    assert (failed, left) == (["hangs"], [])
    assert {"item": "hangs", "end": "failed", "why": "it took longer than 3 s", "said": []} in rows
    assert ends(next(row["pid"] for row in rows if "pid" in row))
    assert {"item": "b", "end": "done"} in rows


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_left_behind_is_not_waited_for(quick: None) -> None:
    start = time.monotonic()
    rows, failed, left = gone_through(["orphans"])
    assert time.monotonic() - start < 20  # and not 60
    assert (failed, left) == ([], [])
    assert ends(next(row["pid"] for row in rows if "pid" in row))


def test_a_stage_ends_when_its_time_is_over(quick: None) -> None:
    start = time.monotonic()
    rows, failed, left = gone_through(["a", "hangs", "b", "c"], seconds=5.0, limit=60.0)
    assert time.monotonic() - start < 30  # and not 600
    assert failed == ["hangs"]
    assert left == ["b", "c"]
    assert [row["why"] for row in rows if row.get("end") == "failed"] == ["no time was left"]


# ---- the stages one after the other -------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], list]:
    """Stages that take made-up seconds of a made-up clock; returns what each was given."""
    now, given = [0.0], []

    def run(taken: dict[str, float]) -> list:
        def run_stage(stage, options, seconds, tell) -> bool:
            given.append((stage.name, seconds))
            now[0] += min(taken.get(stage.name, stage.budget), seconds)
            return True

        monkeypatch.setattr(gpu, "run_stage", run_stage)
        monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
        return given

    return run


def test_what_a_stage_leaves_the_next_ones_may_use(clock: Callable) -> None:
    given = clock({"machine": 10, "onestep": 80, "steps": 10})
    stages = plan.chosen(["first"])
    assert gpu.run_stages(stages, gpu.Options(), 0.0, print)
    assert given == [
        *(("machine", 30), ("onestep", 90), ("steps", 95), ("kernels", 130), ("variants", 155)),
    ]


def test_all_stages_together_take_no_more_than_the_budget(clock: Callable) -> None:
    given = clock({})
    stages = plan.chosen(["first"])
    gpu.run_stages(stages, gpu.Options(budget=120.0), -10.0, print)  # ten seconds are gone
    assert given == [
        *(("machine", 30), ("onestep", 70), ("steps", 10), ("kernels", 0), ("variants", 0)),
    ]


def test_a_stage_without_time_is_left_out_and_said() -> None:
    rows: list[dict] = []
    stage = plan.chosen(["steps"])[0]
    assert not gpu.run_stage(stage, gpu.Options(device="cpu"), 0.5, rows.append)
    (row,) = rows
    assert row["left_out"] == [*plan.RECIPES]
    assert (row["stage"], row["end"], row["failed"]) == ("steps", "stage", [])


@pytest.mark.slow
def test_the_command_prints_and_keeps_each_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """A real start of a stage in a child of its own, and one that fails there."""
    out = tmp_path / "out"
    words = ["gpu.py", "--device", "cpu", "--tiny", "--out", str(out), "--only"]
    monkeypatch.setattr(sys, "argv", [*words, "machine", "score", "--data-dir", str(tmp_path)])
    assert gpu.main() == 1
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert rows == [json.loads(line) for line in (out / gpu.FINDINGS).read_text().splitlines()]
    assert [path.name for path in out.iterdir()] == [gpu.FINDINGS]
    assert {row["stage"] for row in rows} == {"machine", "score"}
    assert any(row.get("torch") == torch.__version__.partition("+")[0] for row in rows)
    failed = next(row for row in rows if row.get("end") == "failed")
    assert (failed["stage"], failed["item"]) == ("score", "best")
    assert "names must begin with the fold" in failed["why"]
    assert rows[-1]["failed"] == ["best"]


def test_wrong_words_are_said_with_the_right_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = {
        ("--only", "nothing"): "--only nothing: there are machine, onestep",
        ("--recipes", "none"): "--recipes none: there are sn-wgan-gp, best",
        ("--data-dir", "nowhere"): "--data-dir nowhere is no folder; without one: --only first",
        ("--only", "first"): "no CUDA GPU here: --device cpu --tiny",
    }
    for words, text in said.items():
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out"), *words])
        assert gpu.main() == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
