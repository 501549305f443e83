"""Every stage of the ten minutes from beginning to end, on a CPU in tiny sizes; what only CUDA has
(events, memory, kernels of a profile, graphs) is stood in for."""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import tyro
from gpu_stages import child, plan, show, steps, training, variants
from stubbed_cuda import stub

import config
from soundgan.models import layers


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    """Two classes of six sounds, of which two are of fold 2."""
    rng = np.random.default_rng(0)
    for name, hz in {"low": 300, "high": 2500}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(6):
            wave = 0.4 * np.sin(2 * np.pi * hz * np.arange(4000) / 8000)
            wave += 0.01 * rng.standard_normal(len(wave))
            path = tmp_path / "data" / name / f"{1 + number % 3}-{number}-A.wav"
            soundfile.write(path, wave, 8000)
    return tmp_path / "data"


@pytest.fixture
def do(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., list[dict]]:
    """Does items of a stage as a child does them; returns the findings."""

    def do(stage: str, *items: str, data: Path = tmp_path, code: int = 0) -> list[dict]:
        words = {"stage": stage, "items": items, "last": time.time() + 600, "limit": 300}
        words |= {"device": "cpu", "tiny": True, "data_dir": str(data), "out": str(tmp_path)}
        capsys.readouterr()
        assert child.main(json.dumps(words)) == code
        lines = capsys.readouterr().out.splitlines()
        rows = [json.loads(line) for line in lines if line.startswith("{")]
        assert {row["stage"] for row in rows} == {stage}
        if not code:
            assert [row["item"] for row in rows if row.get("end") == "done"] == [*items]
        return [row for row in rows if "end" not in row or code]

    return do


# ---- right --------------------------------------------------------------------------------------


def test_the_machine(do: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    about, triton, missing = do("machine", "")
    assert about["torch"] == torch.__version__.partition("+")[0]
    assert about["cores"] == os.cpu_count()
    assert about["processor"] in about["on"]
    assert isinstance(missing["missing"], dict)
    assert triton["triton"] in (True, False)
    assert triton["triton"] or triton["why"]


@pytest.mark.parametrize("stage", ["onestep", "exact"])
def test_one_step_beside_another(stage: str, do: Callable) -> None:
    """On a CPU no step is replayed, so all are the same."""
    rows = do(stage, "sn-wgan-gp", "wavegan")
    assert [(row["item"], row["kind"]) for row in rows] == [
        ("sn-wgan-gp", "critic and generator"),
        ("wavegan", "the critic alone"),
        ("wavegan", "critic and generator"),
    ]
    for row in rows:
        assert (row["captured"], row["equal"], row["repeats"], row["noise"]) == (False, *3 * [True])
        assert row["wrong"] == []
        assert [*row["replayed"].values()] == [0]
        assert 0 < max(row["rounded"].values()) < 0.1
        assert len(row["rounded"]) == 1  # the part that is farthest, no more


@pytest.mark.slow
def test_the_tests_are_counted(do: Callable) -> None:
    (row,) = do("tests", "")
    counted = {k: row[k] for k in ("passed", "skipped", "failed", "error") if k in row}
    assert sum(counted.values()) >= 5
    assert torch.cuda.is_available() or set(counted) == {"skipped"}


# ---- quick --------------------------------------------------------------------------------------


def check_step(row: dict) -> None:
    """Figures of a step that can be."""
    assert row["ms"] > 0
    assert row["median_ms"] > 0
    assert row["capture_s"] > 0
    assert row["finite"] is True
    assert 0 < row["share"] <= 1


def test_milliseconds_of_steps(do: Callable) -> None:
    rows = do("steps", "best", "wavegan")
    assert [(row["item"], row["kind"], row["share"]) for row in rows] == [
        ("best", "critic and generator, with R1 and R2", 0.25),
        ("best", "critic and generator", 0.75),
        ("wavegan", "the critic alone", 0.8),
        ("wavegan", "critic and generator", 0.2),
    ]
    for row in rows:
        check_step(row)
        assert row["eager_ms"] > 0
        assert row["first_s"] > 0
        assert row["batch"] == 4
        assert row["captured"] is False
    assert ["plain_ms" in row for row in rows] == [False, False, False, True]


def test_a_replayed_step_beside_another(do: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = stub(monkeypatch)
    rows = do("exact", "best")
    assert driver.captured == 2
    assert [row["captured"] for row in rows] == [True, True]
    assert [row["failed"] for row in rows] == ["", ""]
    assert all(row["equal"] and row["noise"] and not row["wrong"] for row in rows)


REFUSED = "CUDA error: operation not permitted when stream is capturing"


@pytest.mark.parametrize("fails", [False, True])
def test_steps_that_are_captured(
    fails: bool, do: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a stand-in for the driver; or one that cannot capture such a step."""
    driver = stub(monkeypatch)
    if fails:
        driver.fails_at, driver.error = 9, RuntimeError(f"{REFUSED}\nand more")
    (row,) = do("steps", "cgan")
    check_step(row)
    assert row["captured"] is not fails
    assert row["failed_capture"] == (REFUSED if fails else "")
    # Replayed after the capture, once to see that all is well, and twice to time it.
    assert (driver.captured, driver.replayed) == ((0, 0) if fails else (1, 4))


def test_kernels_of_steps(do: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = stub(monkeypatch)
    rows = do("kernels", "wavegan")
    assert [row["kind"] for row in rows] == ["the critic alone", "critic and generator"]
    assert driver.captured == 2
    for row in rows:
        assert row["captured"]
        assert row["kernels"] > 100 < row["kernels_one_by_one"]
        assert row["busy_ms"] > 0 < row["busy_one_by_one_ms"]
        assert sum(row["by_kind_ms"].values()) == pytest.approx(row["busy_ms"], rel=1e-3)
        assert len(row["longest"]) == steps.SHOWN
        assert row["longest"][0][2] >= row["longest"][-1][2]


@pytest.mark.slow
def test_every_variant(do: Callable) -> None:
    names = [name for name in plan.VARIANTS if name != "norm: Inductor"]
    rows = do("variants", *names)
    assert {row["item"] for row in rows} == {*names}
    for row in rows:
        check_step(row)
        assert row["recipe"] == plan.VARIANTS[row["item"]].recipe
        assert row["batch"] == (6 if row["item"].startswith("batch") else 4)


def test_a_variant_is_what_it_says(
    small: config.Config, do: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inductor's kernel stands in for the formula, and no longer than that."""
    own, compiled, calls = layers.norm_second_gradients, [], []

    def compile_(function: Callable, **_: object) -> Callable:
        compiled.append(function)
        return lambda *tensors: calls.append(1) or function(*tensors)

    monkeypatch.setattr(torch, "compile", compile_)
    (row,) = do("variants", "norm: Inductor")
    check_step(row)
    assert compiled == [own]
    assert calls
    assert layers.norm_second_gradients is own
    run, *_ = steps.one_step.a_run(small, torch.device("cpu"))
    for network in run.networks:
        network.to(memory_format=torch.contiguous_format)
    variants.channels_last(run)
    weight = next(p for p in run.critic.parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    variants.no_search(run)
    assert not torch.backends.cudnn.benchmark


def test_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in ("empty_cache", "synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: asked.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3 * 2**29)
    cuda = torch.device("cuda")
    steps.forget(cuda)
    steps.synchronize(cuda)
    assert asked == ["empty_cache", "reset_peak_memory_stats", "synchronize"]
    assert steps.memory(cuda) == {"gib": 1.5}
    assert steps.memory(torch.device("cpu")) == {}


@dataclass
class Pace:
    sample_every: str
    score_every: str


# ---- runs ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_scored_against_the_fold_held_out(folds: Path, do: Callable) -> None:
    trained, *rows = do("score", "best", data=folds)
    assert trained["clips"] == {"training": 8, "held out": 4}
    assert (trained["code"], trained["epochs"], trained["steps"]) == (0, 3, 6)
    assert 0 < trained["in_steps_s"] < trained["trained_s"] < training.SECONDS
    assert [row["row"] for row in rows] == [
        *("generated", "held-out real", "held-out real, through the vocoder"),
    ]
    assert all(row["step"] == 6 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert rows[1]["clips"] == 4


def test_the_folds_are_told_apart(folds: Path, tmp_path: Path) -> None:
    trees = training.by_fold(folds, tmp_path / "out")[:2]
    names = [sorted(p.relative_to(tree).as_posix() for p in tree.glob("*/*")) for tree in trees]
    assert names[1] == [f"{name}/2-{k}-A.wav" for name in ("high", "low") for k in (1, 4)]
    assert len(names[0]) == 8
    assert not {*names[0]} & {*names[1]}
    assert all(path.is_file() for tree in trees for path in tree.glob("*/*"))
    with pytest.raises(ValueError, match="0 sounds of fold 9 and 12 others"):
        training.by_fold(folds, tmp_path / "none", fold="9")


@pytest.mark.slow
def test_a_whole_run(folds: Path, do: Callable) -> None:
    (row,) = do("whole", plan.WHOLE[0], data=folds)
    assert (row["finished"], row["code"], row["epochs"], row["steps"]) == (True, 0, 4, 12)
    assert 0 < row["begun_s"] + row["in_steps_s"] < row["seconds"]
    parts = row["begun_s"] + row["in_steps_s"] + row["waiting_s"]
    assert parts == pytest.approx(row["seconds"], rel=1e-3)
    assert row["sets"] == 2
    assert row["scorings"] == 0


def test_whole_runs_have_samples_as_they_say() -> None:
    paces = [item.partition(": ")[2] for item in plan.WHOLE]
    asked = [tyro.cli(Pace, args=training.PACES[pace]) for pace in paces]
    assert asked == [Pace("auto", "auto"), Pace("10", "50")]


@pytest.mark.slow
def test_a_whole_run_that_cannot_begin_says_why(tmp_path: Path, do: Callable) -> None:
    (tmp_path / "empty").mkdir()
    *_, failed = do("whole", plan.WHOLE[0], data=tmp_path / "empty", code=1)
    assert failed["end"] == "failed"
    assert str(tmp_path / "empty") in failed["why"]


def test_a_program_that_is_stopped_says_so() -> None:
    code = "import time; print('it begins', flush=True); time.sleep(600)"
    ended = training.watched([training.sys.executable, "-c", code], 2.0, "begins")
    assert ended.code == -15
    assert 0 < ended.begun < ended.seconds
    assert ended.said == ["it begins"]


def test_the_commands_exist(tmp_path: Path, do: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_stages import commands
    from gpu_stages.asked import Asked

    asked = Asked("commands", [], 0.0, 1.0, "cpu", True, "data", str(tmp_path))
    words = commands.words_of(asked)
    assert [*words] == [*plan.COMMANDS]
    assert all((commands.ROOT / own[0]).is_file() for own in words.values())
    for name, program in (("seeds", "compare"), ("ablation", "compare"), ("speed", "speed")):
        tyro.cli(importlib.import_module(program).Options, args=words[name][1:])
    short = {"sizes": ["-c", "print('well')"], "ranks": ["-c", "raise SystemExit(3)"]}
    monkeypatch.setattr(commands, "words_of", lambda _: short)
    (row,) = do("commands", "sizes")
    assert (row["code"], row["last"]) == (0, ["well"])
    *_, failed = do("commands", "ranks", code=1)
    assert "exit code 3" in failed["why"]


# ---- shown --------------------------------------------------------------------------------------


def test_findings_become_tables(do: Callable, tmp_path: Path) -> None:
    rows = do("onestep", "cgan") + do("kernels", "cgan") + do("steps", "cgan")
    card = {"on": "NVIDIA H100, torch 2.11.0"}
    step = rows[-1] | card | {"ms": 2.0, "plain_ms": 16.0, "captured": True, "gib": 1.25}
    rows += [rows[0] | card | {"captured": True, "replayed": {"critic": 2e-6}}, step]
    rows += [{"stage": "score", "item": "best", **card, "trained_s": 120.0}]
    scored = {"row": "generated", "step": 900, "scored_s": 20.0, "accuracy": 0.875}
    rows += [{"stage": "score", "item": "best", **card, **scored}]
    rows += [{"stage": "tests", "item": "", **card, "passed": 9, "failed": 1}]
    rows += [{"stage": "tests", "item": "", "test": "tests/a.py::test_b - broken"}]
    rows += [{"stage": "steps", "item": "best", "end": "failed", "why": "CUDA error"}]
    rows += [{"stage": "steps", "end": "stage", "failed": ["best"], "left_out": ["wavegan"]}]
    path = tmp_path / "findings.jsonl"
    path.write_text("\n".join(["noise", *map(json.dumps, rows), '{"cut": ']))
    shown = show.tables(show.read([str(path)]))
    cpu, gpu = shown.split("## NVIDIA H100, torch 2.11.0")
    assert "| cgan | critic and generator | **no** |" in cpu
    assert "Kernels of a step:\n\n| recipe | step | kernels replayed | busy ms |" in cpu
    cells = [cell.strip() for cell in next(x for x in gpu.splitlines() if "100%" in x).split("|")]
    heads = [cell.strip() for cell in next(x for x in gpu.splitlines() if "share" in x).split("|")]
    found = dict(zip(heads, cells))
    assert found["replayed ms"] == "2"
    assert found["of plain"] == "8"
    assert found["clips/s"] == "2000"
    assert found["GiB"] == "1.25"
    assert found["captured"] == "yes"
    assert "| best: generated | 120 | 900 | 0.875 | - |" in gpu
    assert "| 9 | 1 | 0 | 0 |" in gpu
    assert "- tests/a.py::test_b - broken" in gpu
    assert gpu.endswith(
        "Failed:\n\n- steps best: CUDA error\n\nNo time was left for:\n\n- steps: wavegan"
    )
