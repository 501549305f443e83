"""Steps of one recipe at its full size on tensors of cuda:0 that hold no numbers.

    python steps.py RUNTIME RECIPE [VARIANT ...]

RUNTIME is the library made from `runtime.c`. A variant is `own` (the recipe as it is),
`deterministic`, a precision, a fault that must be found (`item`, `host`, `copy`), or another thing
that is done on the device (`batches`, `samples`). Prints a line of JSON for each: what was done, or
what went wrong. `test_fake_cuda.py` is what starts this.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path

ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)  # before PyTorch looks for a GPU
ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import one_step  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch._subclasses import fake_tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

import train  # noqa: E402
from config import RECIPES  # noqa: E402
from soundgan import models  # noqa: E402
from soundgan.config_io import change  # noqa: E402
from soundgan.models.sampling import generate_clips  # noqa: E402
from soundgan.training.batches import Batches  # noqa: E402
from soundgan.training.run import Run  # noqa: E402

CUDA = torch.device("cuda", 0)
CLASSES = 10
PRECISIONS = ("fp32", "bf16", "fp16")


class Watch(TorchDispatchMode):
    """Counts operations, and lets none touch a tensor of the host.

    A copy between host and GPU waits or cannot be captured, and a number of the host would be
    frozen in a graph. What reads a value back fails by itself: there is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.half = 0  # that give numbers of 16 bits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in tree_leaves((args, kwargs, out)):
            if isinstance(tensor, Tensor) and tensor.device != CUDA:
                raise AssertionError(f"{func} on a tensor of {tensor.device}")
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.half += any(t.dtype in (torch.float16, torch.bfloat16) for t in outs)
        return out


def without_numbers(network: nn.Module, mode: fake_tensor.FakeTensorMode) -> nn.Module:
    """Put a network on cuda:0 of a machine that has none."""

    def moved(value: Tensor) -> Tensor:
        return fake_tensor.FakeTensor(mode, value.detach().to("meta"), CUDA)

    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(moved(weight), weight.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = moved(value)
    return network


def started(cfg, mode: fake_tensor.FakeTensorMode) -> tuple[Run, Tensor, Tensor]:
    """A run as training starts it, with a batch; within `mode`."""
    build = models.build

    def built(*arguments):
        with fake_tensor.unset_fake_temporarily(), torch.device("meta"):
            return [without_numbers(network, mode) for network in build(*arguments)]

    models.build, place = built, models.place
    models.place = lambda network, device: network
    try:
        classes = [str(k) for k in range(CLASSES)] if cfg.conditional else []
        run = Run.start(cfg, classes, CUDA)
    finally:
        models.build, models.place = build, place
    x = torch.randn(cfg.batch_size, *cfg.shape, device=CUDA)
    return run, x, torch.zeros(cfg.batch_size, dtype=torch.long, device=CUDA)


def do_steps(cfg, mode: fake_tensor.FakeTensorMode) -> dict:
    """A step of each kind with optimisers that are new, and one more with those that are not."""
    run, x, labels = started(cfg, mode)
    step, kinds = train.make_stepper(run), {}
    for _ in range(2):
        for kind, number in one_step.kinds_of_steps(run).items():
            run.step = number
            with Watch() as watch:
                step.work(x, labels)
            kinds[str(kind)] = [watch.operations, watch.half]
    for part, tensors in one_step.changed_by_steps(run).items():
        wrong = {name for name, value in tensors.items() if value.device != CUDA}
        assert not wrong, f"{part}: {wrong} lie on the host"
    return {"kinds": kinds, "parts": [*one_step.changed_by_steps(run)]}


def do_batches(cfg) -> dict:
    """Batches of a set that lies on the device, fresh ones and into given tensors."""
    batches = object.__new__(Batches)
    batches.device, batches.shape = CUDA, cfg.shape
    batches.resident = torch.randn(64, *cfg.shape, device=CUDA)
    batches.labels = torch.zeros(64, dtype=torch.long, device=CUDA)
    places = torch.zeros(3, cfg.batch_size, dtype=torch.long, device=CUDA)
    given = batches._fresh(cfg.batch_size)
    with Watch() as watch:
        for out in (None, given):
            for x, labels in batches._selected(places, out):
                assert x.shape == (cfg.batch_size, *cfg.shape)
                assert labels.shape == (cfg.batch_size,)
    return {"operations": watch.operations}


def do_samples(cfg, mode: fake_tensor.FakeTensorMode) -> dict:
    """Clips as samples are made of them: one copy to the host, at the end."""
    run, *_ = started(cfg, mode)
    z = torch.randn(CLASSES, cfg.latent_dim, device=CUDA)
    clips = generate_clips(run.shown, z, torch.zeros(CLASSES, dtype=torch.long, device=CUDA))
    assert clips.shape == (CLASSES, *cfg.shape)
    return {"device": str(clips.device), "dtype": str(clips.dtype)}


def broken(fault: str) -> Callable:
    """A generator step with a fault."""
    real = train.generator_step

    def step(run: Run, x: Tensor, labels: Tensor) -> Tensor:
        if fault == "item":
            x = x * x.amax().item()
        if fault == "host":
            x = x + torch.ones(())  # PyTorch takes a number of the host as it is, and a graph too
        if fault == "copy":
            x = x.cpu().to(CUDA)
        return real(run, x, labels)

    return step


def outcome(name: str, variant: str, mode: fake_tensor.FakeTensorMode) -> dict:
    cfg, real = RECIPES[name], train.generator_step
    if variant in PRECISIONS:
        cfg = change(cfg, {"optimiser.precision": variant})
    torch.use_deterministic_algorithms(variant == "deterministic")
    if variant in ("item", "host", "copy"):
        train.generator_step = broken(variant)
    try:
        with mode:
            if variant == "batches":
                return do_batches(cfg)
            return do_samples(cfg, mode) if variant == "samples" else do_steps(cfg, mode)
    except Exception as error:  # whatever it is, the test says it
        return {"error": f"{type(error).__name__}: {error}"[:600]}
    finally:
        train.generator_step = real


def main() -> None:
    # It would compute a tensor there. Backward needs one only where nothing else has set up CUDA.
    fake_tensor.init_gpu_context = lambda device: None
    torch.cuda._lazy_init = lambda: None  # asks for more than there is here
    fake_tensor.FakeTensorMode.__deepcopy__ = lambda self, memo: self  # of a tensor copies it, too
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    name, *variants = sys.argv[2:]
    mode = fake_tensor.FakeTensorMode(allow_non_fake_inputs=False)
    for variant in variants:
        print(json.dumps({"variant": variant} | outcome(name, variant, mode)), flush=True)


if __name__ == "__main__":
    main()
