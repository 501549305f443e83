"""CUDA graphs without CUDA: the driver and the allocator replaced, everything above them real.

`torch.cuda.graph`, `torch.cuda.stream` and all of `soundgan.training.cuda_graph` run as they are.
Below them a graph is the list of operations that a capture saw, each with the very tensors it read
and wrote: a replay does them again on the same tensors. So whatever a step decides on the host is
frozen as it would be on a GPU, and what it reads back fails. As on a GPU, a capture computes
nothing: what its operations changed is put back at its end.

What PyTorch itself keeps (pools of memory, whether a generator is being captured) is modelled after
the C++ sources of both ends of the range that the project supports: in 2.11 a capture whose end
fails leaves allocator and generator in the capture and holds its pool for good; 2.14 does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from soundgan.training import cuda_graph

aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero, aten.masked_select}
REFUSED = "CUDA error: operation not permitted when stream is capturing\nand more"
DRAWS_IN_CAPTURE = "Offset increment outside graph capture encountered unexpectedly."


def tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Operations(TorchDispatchMode):
    """The operations of a capture, on the tensors that they read and wrote."""

    def __init__(self, fails_at: int | None, error: Exception | None) -> None:
        super().__init__()
        self.done: list[tuple] = []
        self.own: set[int] = set()  # storages that came about in the capture
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # those that were there
        self.fails_at, self.error, self.broken = fails_at, error, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket in WAITS:
            self.broken = True
            raise RuntimeError(REFUSED)
        if len(self.done) == self.fails_at:
            self.broken = not isinstance(self.error, torch.OutOfMemoryError)
            raise self.error
        for tensor in tensors((args, kwargs)):
            if place(tensor) not in self.own and place(tensor) not in self.before:
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self.before[place(tensor)] = whole, whole.clone()
        out = func(*args, **kwargs)
        self.own |= {place(t) for t in tensors(out)} - self.before.keys()
        self.done.append((func, args, kwargs, out))
        return out

    def undo(self) -> None:
        with torch.no_grad():
            for tensor, saved in self.before.values():
                tensor.copy_(saved)

    def again(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out in self.done:
                returns = [r.alias_info for r in func._schema.returns]
                if any(alias and not alias.is_write for alias in returns):
                    continue  # a view of what lies where it lay
                new = func(*args, **kwargs)
                for old, value in zip(tensors(out), tensors(new)):
                    if place(old) != place(value):
                        old.copy_(value)


class Driver:
    """What lies below `torch.cuda`: streams, one allocator, one generator."""

    def __init__(self, version: str) -> None:
        self.mends_itself = version != "2.11"
        self.stream = self.main = Stream()
        self.numbers = itertools.count(1)
        self.pools: dict[tuple[int, int], int] = {}  # how many graphs hold each
        self.capturing: dict[tuple[int, int], Graph] = {}  # what the allocator believes
        self.noise = Noise()
        self.captured = self.replayed = 0
        # The next capture goes wrong: at this operation, with this error; or so many at their ends.
        self.fails_at: int | None = None
        self.error: Exception | None = None
        self.ends_fail = 0

    def set_stream(self, stream: Stream) -> None:
        self.stream = stream

    def new_pool(self) -> tuple[int, int]:
        return 0, next(self.numbers)

    def end_allocation(self, device: int, pool: tuple[int, int]) -> None:
        if self.capturing.pop(pool, None) is None:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    def release(self, device: int, pool: tuple[int, int]) -> None:
        self.pools[pool] -= 1
        assert self.pools[pool] >= 0, "released twice: PyTorch's allocator would be broken"

    def empty_cache(self) -> None:
        assert not self.capturing, "captures_underway.empty() INTERNAL ASSERT FAILED"
        self.pools = {pool: count for pool, count in self.pools.items() if count}

    def snapshot(self) -> list[dict]:
        assert not self.capturing
        return [{"segment_pool_id": pool, "active_size": 0} for pool in self.pools]


class Stream:
    device = torch.device("cuda:0")


class Noise:
    """The default generator of CUDA: numbers are the CPU's here, the state is this."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.captured = self.replaced = False

    def clone_state(self) -> Noise:
        return Noise()

    def graphsafe_set_state(self, state: Noise) -> None:
        self.captured, self.replaced = state.captured, True


class Graph:
    """In place of `torch.cuda.CUDAGraph`."""

    driver: Driver

    def __init__(self) -> None:
        self.operations: Operations | None = None
        self.held = self.ended = False

    def capture_begin(self, pool: tuple[int, int], **_: object) -> None:
        driver = self.driver
        assert driver.stream is not driver.main, "graphs must be captured on a side stream"
        assert pool not in driver.capturing, "already recording to mempool_id"
        driver.pools[pool] = driver.pools.get(pool, 0) + 1
        driver.capturing[pool] = self
        driver.noise.captured = True
        self.pool, self.held, self.on = pool, True, driver.stream
        self.state = torch.get_rng_state()
        self.operations = Operations(driver.fails_at, driver.error)
        driver.fails_at = driver.error = None
        self.operations.__enter__()

    def capture_end(self) -> None:
        driver, operations = self.driver, self.operations
        operations.__exit__(None, None, None)
        assert driver.stream is self.on, "capture must end on the same stream it began on"
        operations.undo()
        torch.set_rng_state(self.state)
        fails = operations.broken or driver.ends_fail > 0
        driver.ends_fail -= driver.ends_fail > 0
        if not fails or driver.mends_itself:
            driver.end_allocation(0, self.pool)
            driver.noise.captured = False
        if fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error\nand more")
        self.ended = True
        driver.captured += bool(len(operations.done) > 1)  # `Graphs` also captures one operation

    def replay(self) -> None:
        assert self.ended
        assert self.driver.stream is self.driver.main
        if self.driver.noise.captured:
            raise RuntimeError(DRAWS_IN_CAPTURE)
        self.driver.replayed += 1
        self.operations.again()

    def reset(self) -> None:
        if self.held and (self.ended or self.driver.mends_itself):
            self.driver.release(0, self.pool)
            self.held = False
        self.operations = None

    def __del__(self) -> None:
        if self.operations is not None or self.held:
            self.reset()


def stub(monkeypatch: pytest.MonkeyPatch, version: str = "2.14") -> Driver:
    """Let runs of the CPU make their steps as on CUDA, over a `Driver`."""
    driver = Driver(version)
    own = type("Graph", (Graph,), {"driver": driver})
    replaced: dict[str, Callable | object] = {
        "CUDAGraph": own,
        "Stream": Stream,
        "current_stream": lambda device=None: driver.stream,
        "set_stream": driver.set_stream,
        "current_device": lambda: 0,
        "_get_device_index": lambda *_, **__: 0,
        "default_generators": (driver.noise,),
        "graph_pool_handle": driver.new_pool,
        "memory_snapshot": driver.snapshot,
        "empty_cache": driver.empty_cache,
        "synchronize": lambda device=None: None,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", None)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", driver.end_allocation)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", driver.release)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(cuda_graph, "why_plain", lambda *_: "")
    return driver
