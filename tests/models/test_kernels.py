"""GroupNorm's second derivatives as a kernel: its numbers, its compilation, and what to do without.

No GPU is needed: Triton interprets the kernel on a CPU, and compiles it for GPUs that are not here.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import config
import train
from soundgan import models
from soundgan.config_io import change
from soundgan.models import layers
from soundgan.training.objectives import gradient_penalty
from soundgan.training.run import Run

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton, which is for Linux"
)


@pytest.fixture
def tensors():
    """v, g, x, weight, mean and rate of a layer."""
    torch.manual_seed(0)
    v, g, x = torch.randn(3, 2, 8, 3, 5)
    w = torch.randn(8)
    _, mean, rate = torch.ops.aten.native_group_norm(x, w, None, 2, 8, 15, 4, 1e-5)
    return v, g, x, w, mean, rate


@pytest.fixture(autouse=True)
def nothing_failed(monkeypatch):
    monkeypatch.setattr(layers, "_failed", [])


# ---- numbers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What `interpreted_kernel.py` prints, a case each; Triton reads its mode when imported."""
    here = Path(__file__).parent
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(here.parents[1])}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, str(here / "interpreted_kernel.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {case.pop("case"): case for case in map(json.loads, done.stdout.splitlines())}


@needs_triton
def test_the_kernel_is_the_formula(interpreted):
    """In float32, against the formula and autograd in float64; sizes that fill no tile, too."""
    assert len(interpreted) == 9
    for case, errors in interpreted.items():
        assert max(errors["kernel"]) < 5e-7, case
        # Of statistics that float32 has rounded: with x at 1000, autograd's own are others.
        assert max(errors["autograd"]) < (5e-5 if "mean 1000" in case else 5e-7), case


@needs_triton
def test_a_mean_far_from_zero_costs_no_digits(interpreted):
    (errors,) = [e for case, e in interpreted.items() if "mean 1000" in case]
    assert max(errors["kernel"]) < 5e-7 < 1e-6 < max(errors["formula"])


# ---- compilation ---------------------------------------------------------------------------------


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 80, 90])
def test_it_compiles_for_gpus_that_are_not_here(capability, tmp_path, monkeypatch):
    """For the default's layers: code of the GPU, and no memory that a launch would take."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from soundgan.models import kernels

    kernel = kernels.second_gradients_kernel
    names = kernel.arg_names
    signature = {n: "*fp32" if n.endswith("_at") else "constexpr" for n in names}
    for channels, places in ((8, 1760), (16, 440), (32, 110)):
        height, width, warps = kernels.tile(channels, places)
        sizes = {"GROUPS": 8, "CHANNELS": channels, "PLACES": places}
        sizes |= {"HEIGHT": height, "WIDTH": width}
        source = ASTSource(fn=kernel, signature=signature, constexprs=sizes)
        target = GPUTarget("cuda", capability, 32)
        made = triton.compile(source, target=target, options={"num_warps": warps})
        assert f".target sm_{capability}" in made.asm["ptx"]
        assert made.asm["cubin"][:4] == b"\x7fELF"
        assert made.metadata.global_scratch_size == made.metadata.profile_scratch_size == 0
        assert made.metadata.shared <= 48 * 1024


@needs_triton
def test_tiles():
    from soundgan.models.kernels import tile

    assert tile(8, 1760) == (2, 2048, 16)
    assert tile(32, 110) == (32, 128, 16)
    assert tile(1, 9) == (1, 16, 1)
    assert tile(3, 10**6) == (1, 4096, 16)


# ---- what uses it --------------------------------------------------------------------------------


def trained(cfg, steps=1):
    """A run on the CPU after steps that were made as `train.train` makes them."""
    run = Run.start(cfg, list("abc"), torch.device("cpu"))
    torch.manual_seed(1)
    x, labels = torch.randn(4, *cfg.shape), torch.tensor([0, 1, 2, 0])
    step = train.make_stepper(run)
    for _ in range(steps):
        step(x, labels, kind=train.kind_of_step(run))
    return run


@pytest.fixture
def asked(monkeypatch):
    """Whether the kernel was wanted, at each second derivative of a GroupNorm."""
    found = []
    real = layers._kernel_serves

    def spy(v):
        found.append(layers._now["kernels"])
        return real(v)

    monkeypatch.setattr(layers, "_kernel_serves", spy)
    return found


def test_a_run_asks_for_it_unless_told_not_to(small, asked):
    """By its own constant, whatever another run of the process asked for before."""
    assert config.RECIPES["sn-wgan-gp"].compile
    for compiled in (True, False, True):
        asked.clear()
        trained(change(small, {"compile": compiled}))
        assert asked
        assert set(asked) == {compiled}
        assert not layers._now["kernels"]


def test_on_a_cpu_nothing_changes(small):
    a, b = (trained(change(small, {"compile": c}), 2).critic.state_dict() for c in (True, False))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_where_it_fails_the_formula_is_computed_and_says_why(tensors, monkeypatch, capsys):
    """Once: a process that cannot compile it does not try again."""
    tried = []

    class Broken:
        @staticmethod
        def norm_second_gradients(*_):
            tried.append(1)
            raise RuntimeError("Failed to find C compiler. Please specify via CC.\nand more")

    monkeypatch.setattr(models, "kernels", Broken, raising=False)
    monkeypatch.setitem(sys.modules, "soundgan.models.kernels", Broken)
    real = layers._kernel_serves
    monkeypatch.setattr(layers, "_kernel_serves", lambda v: not layers._failed)
    expected = layers.norm_second_gradients(*tensors)
    for _ in range(2):
        for found, true in zip(layers._second_gradients(*tensors), expected):
            assert torch.equal(found, true)
    assert len(tried) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "RuntimeError: Failed to find C compiler. Please specify via CC." in said
    assert "--no-compile" in said
    with layers.compiled(True):
        assert not real(tensors[0].to("meta"))


def test_without_triton_the_formula_is_computed(tensors, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "soundgan.models.kernels", raising=False)
    monkeypatch.delattr(models, "kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)  # import triton fails
    monkeypatch.setattr(layers, "_kernel_serves", lambda v: not layers._failed)
    found = layers._second_gradients(*tensors)
    assert torch.equal(found[1], layers.norm_second_gradients(*tensors)[1])
    assert "ModuleNotFoundError" in capsys.readouterr().out


def test_out_of_memory_is_no_missing_compiler(tensors, monkeypatch):
    class Full:
        @staticmethod
        def norm_second_gradients(*_):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(models, "kernels", Full, raising=False)
    monkeypatch.setitem(sys.modules, "soundgan.models.kernels", Full)
    monkeypatch.setattr(layers, "_kernel_serves", lambda v: True)
    with pytest.raises(torch.OutOfMemoryError):
        layers._second_gradients(*tensors)
    assert layers._failed == []


def test_a_patched_formula_is_the_one_that_is_used(small, monkeypatch):
    """Benchmarks measure others in its place."""
    used, real = [], layers.norm_second_gradients
    monkeypatch.setattr(
        layers, "norm_second_gradients", lambda *tensors: used.append(1) or real(*tensors)
    )
    critic = models.build(small, 3)[1]
    norms = sum(isinstance(m, layers.GroupNorm) for m in critic.modules())
    real_clips, fake = torch.randn(2, 4, *small.shape)
    gradient_penalty(critic, real_clips, fake, torch.tensor([0, 1, 2, 0]), 1.0).backward()
    assert len(used) == norms > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_kernel_is_launched_and_captured(tensors):
    """After a first launch outside, which compiles it: the numbers are those of the formula."""
    from soundgan.models import kernels

    tensors = tuple(t.cuda() for t in tensors)
    true = layers.norm_second_gradients(*(t.double() for t in tensors))
    kernels.norm_second_gradients(*tensors)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = kernels.norm_second_gradients(*tensors)
    graph.replay()
    for a, b in zip(found, true):
        assert (a.double() - b).norm() < 1e-6 * b.norm()
