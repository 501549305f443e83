"""Steps and captures on cuda:0 where there is no GPU, with PyTorch's own code for CUDA.

Processes of their own see one GPU, because functions of the CUDA runtime are replaced
(`fake_cuda/runtime.c`). All that lies above runs as on a GPU, in whatever version is installed.

Steps at full size (`fake_cuda/steps.py`): tensors have shapes and no numbers. Dispatcher, autograd
with its thread for the device, autocast, scaler and optimisers do what they do on a GPU, down to
where a kernel would start. It shows that all kinds of steps of all recipes, in each precision, have
shapes and types that fit, keep every tensor on the device, and neither read a number back nor take
one of the host.

Captures (`fake_cuda/captures.py`): tensors lie in memory that is only addresses. It shows what
PyTorch's graphs, allocator and generator keep after captures that succeed and that fail.

What only kernels know is not shown: numbers, speed, which operations of cuDNN or cuBLAS a capture
refuses. `test_cuda_graph.py` has the numbers of replayed steps, `test_cuda.py` the kernels.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import one_step
import pytest
import torch

import config
from soundgan.config_io import change
from soundgan.training import cuda_graph
from soundgan.training.run import Run

HERE = Path(__file__).parent / "fake_cuda"
CUDA = torch.device("cuda")
COMPILER = shutil.which("cc") or shutil.which("gcc")
PRECISIONS = ("fp32", "bf16", "fp16")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.version.cuda is None, reason="needs a PyTorch that knows CUDA"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="test_cuda.py does it on the GPU"),
    pytest.mark.skipif(sys.platform != "linux", reason="replaces functions of libcudart.so"),
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler"),
]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The library in place of the CUDA runtime; skips where it cannot be made."""
    headers = sorted(Path(torch.__file__).parent.parent.glob("nvidia/*/include/driver_types.h"))
    if not headers:
        pytest.skip("needs driver_types.h of nvidia-cuda-runtime")
    library = tmp_path_factory.mktemp("runtime") / "runtime.so"
    make = [COMPILER, "-shared", "-fPIC", "-w", f"-I{HERE}", f"-I{headers[0].parent}"]
    make += ["-Wl,-soname,libcuda.so.1", "-o", str(library), str(HERE / "runtime.c")]
    subprocess.run(make, check=True)
    return library


def rows_of(program: str, *words: str) -> list[dict]:
    """What a program of `fake_cuda` printed, line by line."""
    words = [sys.executable, str(HERE / program), *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def ran(runtime):
    """Runs variants of a recipe (see `fake_cuda/steps.py`); returns what became of each."""

    def run(name: str, *variants: str) -> dict[str, dict]:
        rows = rows_of("steps.py", runtime, name, *variants)
        assert [row["variant"] for row in rows] == list(variants)
        return {row.pop("variant"): row for row in rows}

    return run


# ---- steps ---------------------------------------------------------------------------------------


def kinds_of(name: str) -> set[str]:
    """The kinds of steps of a recipe, from its constants alone."""
    run = object.__new__(Run)
    run.cfg, run.step = config.RECIPES[name], 0
    return {str(kind) for kind in one_step.kinds_of_steps(run)}


@pytest.mark.parametrize("name", config.RECIPES)
def test_steps_stay_on_the_device(name, ran):
    own = config.RECIPES[name].optimiser
    rows = ran(name, "deterministic", *(p for p in PRECISIONS if p != own.precision))
    for variant, row in rows.items():
        precision = variant if variant in PRECISIONS else own.precision
        cfg = change(config.RECIPES[name], {"optimiser.precision": precision})
        if cuda_graph.why_plain(cfg, CUDA):  # fp16 with RMSprop: the scaler does ask
            assert name == "wavegan"
            assert "aten._local_scalar_dense" in row["error"]
            continue
        assert "error" not in row, (variant, row)
        assert row["kinds"].keys() == kinds_of(name)
        for operations, half in row["kinds"].values():
            assert operations > 300
            assert (half > 50) == (precision != "fp32")
            assert (half == 0) == (precision == "fp32")
        assert ("scaler" in row["parts"]) == (precision == "fp16")
        assert ("average" in row["parts"]) == (own.ema_half_life > 0)
        moment = "square_avg" if name == "wavegan" else "exp_avg_sq"
        for network in ("generator", "critic"):
            assert {network, f"{network}_optimiser.{moment}"} <= set(row["parts"])


@pytest.mark.parametrize("name", ["best", "wavegan"])
def test_batches_and_samples_stay_there_too(name, ran):
    rows = ran(name, "batches", "samples")
    assert rows["batches"].get("operations", 0) >= 2 * 2 * 3, rows  # two of each batch
    assert rows["samples"] == {"device": "cpu", "dtype": "torch.float32"}


def test_faults_are_found(ran):
    """A number that is read back, one of the host, and a copy over the host."""
    rows = ran("sn-wgan-gp", "item", "host", "copy", "own")
    assert "aten._local_scalar_dense" in rows["item"]["error"]
    assert rows["host"]["error"] == "AssertionError: aten.ones.default on a tensor of cpu"
    assert rows["copy"]["error"] == "AssertionError: aten._to_copy.default on a tensor of cpu"
    assert "error" not in rows["own"]  # the faults are gone


# ---- captures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captures(runtime):
    return {row.pop("case"): row for row in rows_of("captures.py", runtime)}


ENDED = "CUDA error: operation failed due to a previous error during capture"
# Which kinds have graphs at the end, and why kind 1 has none.
CAPTURES = {
    "all well": ([0, 1], ""),
    "end fails": ([0, 2], ENDED),
    "work fails": ([0, 2], "cannot be captured"),
    "both fail": ([0, 2], "cannot be captured"),
    "two ends fail": ([0, 2], ENDED),
    "first fails": ([], ENDED),
    "memory runs out": ([], "CUDA out of memory."),
}


@pytest.mark.parametrize("case", CAPTURES)
def test_captures_that_fail_leave_nothing_behind(case, captures):
    graphs, reason = CAPTURES[case]
    row = captures[case]
    assert row["graphs"] == graphs  # and they were replayed
    assert row["failed"].keys() == ({"1"} if reason else set())
    assert row["failed"].get("1", "").startswith(reason)
    assert row["stream"]  # the current one is that of before
    assert row["drawn"] == 0  # as many random numbers as without graphs
    assert row["used elsewhere"] == 0  # the allocator does not wait for the end of a capture
    assert row["full"] == (case == "memory runs out")
    assert row["intact"] == (case != "two ends fail")


@pytest.mark.parametrize("case", ["first fails", "memory runs out"])
def test_the_memory_of_graphs_that_are_gone_is_given_back(case, captures):
    """Half a GiB; a few small tensors of PyTorch's own may stay."""
    assert captures["memory runs out"]["graphs before"] == 1
    assert 0 <= captures[case]["kept"] <= 8 * 2**20
