"""How long a device takes for work, which kernels that consists of, and what the device is called.

For steps of milliseconds on a GPU: its clock is raised before, and as many as are timed follow one
another without a look at the device between them, so that neither the way there nor an idle GPU is
measured.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

Work = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of work that was done several times, back to back."""

    each: tuple[float, ...]
    whole: float  # by the host's clock, until the device had done all of it

    @property
    def mean(self) -> float:
        return self.whole / len(self.each)

    @property
    def median(self) -> float:
        return statistics.median(self.each)


def back_to_back(work: Work, count: int, device: torch.device) -> Times:
    """Time `work`, done `count` times one after the other: on CUDA by events on the device."""
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(count):
            work()
            marks.append(time.perf_counter())
        return Times(tuple(b - a for a, b in itertools.pairwise(marks)), marks[-1] - marks[0])
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize(device)
    whole = time.perf_counter() - start
    return Times(tuple(a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(events)), whole)


def raise_clock(device: torch.device, seconds: float = 0.5) -> None:
    """Keep a GPU busy, so that it leaves the clock of its idle hours; a CPU is left alone."""
    if device.type != "cuda":
        return
    a = torch.ones(1024, 1024, device=device)  # small, for memory is measured too
    out, last = torch.empty_like(a), time.perf_counter() + seconds
    while time.perf_counter() < last:
        for _ in range(50):
            torch.mm(a, a, out=out)
        torch.cuda.synchronize(device)


# ---- kernels ------------------------------------------------------------------------------------

# What the names of CUDA kernels have in them, looked for in this order, by kind of operation.
KERNELS = {
    "their gradients": ("dgrad", "wgrad", "bprop", "backward_data", "backward_filter"),
    "convolutions": ("conv", "fprop", "winograd", "nchwToNhwc", "nhwcToNchw"),
    "norms": (
        *("group_norm", "groupnorm", "batch_norm", "batchnorm", "bn_fw", "bn_bw", "second_grad"),
        *("RowwiseMoments", "FusedParams", "InternalGradients", "GammaBeta"),  # GroupNorm's
    ),
    "leaky_relu, relu": ("leaky_relu", "threshold", "relu"),
    "products": ("gemm", "gemv", "nvjet", "splitk", "cutlass", "cublas", "dot_kernel"),
    "optimiser": ("adam", "multi_tensor", "foreach"),
    "copies": ("memcpy", "memset", "copy_kernel", "catarray"),
}
REST = "everything else"


def kind_of_kernel(name: str) -> str:
    """Which row of a profile a CUDA kernel belongs to, as far as its name tells."""
    low = name.lower()
    return next((k for k, words in KERNELS.items() if any(w.lower() in low for w in words)), REST)


@dataclass(frozen=True)
class Kernel:
    """What one kernel (on a CPU: one operation) takes in one turn of the work."""

    name: str
    count: float
    seconds: float


def kernels(work: Work, count: int, device: torch.device) -> list[Kernel]:
    """The kernels of `work`, from `count` turns of it under torch.profiler, the longest first.

    On CUDA those that run on the device, whether they were launched one by one or as a graph; on a
    CPU the operations of PyTorch. Empty where the profiler may not look.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    # Taking CUPTI down and up again has crashed where there are graphs (CUDA before 12.6). Left up,
    # it slows what comes after in this process: time first, profile then.
    os.environ.setdefault("TEARDOWN_CUPTI", "0")
    with torch_profile(activities=activities) as seen:
        for _ in range(count):
            work()
        if cuda:
            torch.cuda.synchronize(device)
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    found = []
    for event in seen.key_averages():
        if event.device_type != wanted or event.is_user_annotation:
            continue
        taken = event.self_device_time_total if cuda else event.self_cpu_time_total
        found.append(Kernel(event.key, event.count / count, taken / 1e6 / count))
    return sorted(found, key=lambda kernel: -kernel.seconds)


def by_kind(found: list[Kernel]) -> dict[str, float]:
    """Seconds of one turn by kind of kernel, the longest first."""
    kinds = Counter()
    for kernel in found:
        kinds[kind_of_kernel(kernel.name)] += kernel.seconds
    return dict(kinds.most_common())


# ---- names --------------------------------------------------------------------------------------


def processor() -> str:
    """Model of this machine's processor, and the threads of PyTorch: "AMD EPYC, 2 threads"."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")  # Linux
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {torch.get_num_threads()} threads"


def name_of(device: torch.device) -> str:
    """What figures measured on `device` must say beside them: "NVIDIA H100, torch 2.11.0"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return f"{name}, torch {torch.__version__}"
