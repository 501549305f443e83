"""Captures that succeed and that fail, with PyTorch's own graphs, allocator and generator.

    python captures.py RUNTIME

RUNTIME is the library made from `runtime.c`: kernels do nothing, but all that PyTorch keeps about
streams, memory, noise and captures is real, of whatever version is installed. Prints what was found
as a line of JSON a case. `test_fake_cuda.py` is what starts this.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

runtime = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)  # before PyTorch looks for a GPU
runtime.stub_set_memory.argtypes = [ctypes.c_size_t]
runtime.stub_set_memory.restype = runtime.stub_fail_ends.restype = None
runtime.stub_memory.restype = ctypes.c_size_t
PLENTY = runtime.stub_memory()
ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402

from soundgan.training import cuda_graph  # noqa: E402

CUDA = torch.device("cuda", 0)
LARGE = 64 * 2**20  # floats of what the work of kind 1 needs meanwhile: a quarter of a GiB
WARM = "0" * cuda_graph.WARM_UPS


class Case:
    """Steps of three kinds of work: each draws noise, kind 1 needs much memory."""

    def __init__(self) -> None:
        torch.cuda.manual_seed(0)
        self.value = torch.zeros(1000, device=CUDA)
        self.steps = cuda_graph.GraphedSteps(self.work, (4, 1), CUDA)
        self.batch = torch.zeros(4, 1, device=CUDA), torch.zeros(4, dtype=torch.long, device=CUDA)
        self.kind, self.fault, self.count = 0, None, 0

    def work(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        if not torch.cuda.is_current_stream_capturing():
            runtime.stub_set_memory(PLENTY)
        self.value.add_(torch.randn(1000 * (1 + self.kind), device=CUDA)[:1000])
        if self.kind == 1:
            large = torch.zeros(LARGE, device=CUDA)
            if self.fault and torch.cuda.is_current_stream_capturing():
                self.fault()
            self.value.add_(large[:1000] + torch.zeros(LARGE, device=CUDA)[:1000])

    def __call__(self, kinds: str) -> None:
        for self.kind in map(int, kinds):
            self.count += 1
            self.steps(*self.batch, kind=self.kind)

    def found(self) -> dict:
        steps = self.steps
        return {
            "failed": {str(kind): reason for kind, reason in steps.failed.items()},
            "graphs": sorted(steps.replays),
            "full": steps.full,
            "stream": torch.cuda.current_stream() == torch.cuda.default_stream(),
            # Of the generator's numbers, 4 a kernel that draws: one a step.
            "drawn": torch.cuda.default_generators[0].get_offset() // 4 - self.count,
            "intact": steps.capture.intact,
            "used elsewhere": used_elsewhere(),
        }


def held() -> int:
    """Bytes that were taken from the device."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return sum(segment["total_size"] for segment in torch.cuda.memory_snapshot())


def used_elsewhere() -> int:
    """Bytes that stay taken of a tensor that is gone, and that another stream had used.

    An allocator that takes a capture to be under way puts this off until its end.
    """
    large = torch.zeros(LARGE, device=CUDA)
    held()
    before = torch.cuda.memory_stats()["active_bytes.all.current"] - large.nbytes
    large.record_stream(torch.cuda.Stream())
    del large
    held()
    torch.zeros(1, device=CUDA)  # when memory is taken, what waited for other streams is looked at
    return torch.cuda.memory_stats()["active_bytes.all.current"] - before


def raises(error: Exception) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


def all_well() -> dict:
    case = Case()
    case(WARM + "0" + "111" + "1" + "0101")
    return case.found()


def end_fails(count: int = 1) -> dict:
    """Of the second kind; the first goes on, and the third is captured."""
    case = Case()
    case(WARM + "0" + "111")
    runtime.stub_fail_ends(count)
    case("1" + "0101" + "2222" + "012")
    return case.found()


def work_fails() -> dict:
    case = Case()
    case.fault = raises(RuntimeError("cannot be captured"))
    case(WARM + "0" + "111" + "1" + "0101" + "2222" + "012")
    return case.found()


def both_fail() -> dict:
    case = Case()
    case.fault = lambda: runtime.stub_fail_ends(1) or raises(RuntimeError("cannot be captured"))()
    case(WARM + "0" + "111" + "1" + "0101" + "2222" + "012")
    return case.found()


def first_fails() -> dict:
    """No graph is left, so that its memory is given back."""
    case = Case()
    before = held()
    case("111")
    runtime.stub_fail_ends(1)
    case("1" + "11")
    return case.found() | {"kept": held() - before}


def memory_runs_out() -> dict:
    """While the large kind is captured; a plain step of it fits."""
    case = Case()
    before = held()
    case.fault = lambda: runtime.stub_set_memory(0)
    case(WARM + "0" + "111")
    graphs = len(case.steps.replays)
    case("1" + "0101" + "2222")
    return case.found() | {"graphs before": graphs, "kept": held() - before}


CASES = {
    "all well": all_well,
    "end fails": end_fails,
    "work fails": work_fails,
    "both fail": both_fail,
    "two ends fail": lambda: end_fails(2),
    "first fails": first_fails,
    "memory runs out": memory_runs_out,
}


def main() -> None:
    for name, case in CASES.items():
        print(json.dumps({"case": name, **case()}), flush=True)


if __name__ == "__main__":
    main()
