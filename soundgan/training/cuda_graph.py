"""A step on CUDA as one graph: captured once, then replayed with a single launch.

A step is hundreds of small operations whatever the batch, and launched one by one they keep a GPU
waiting for Python. A CUDA graph holds their kernels with all addresses, so whatever changes from
step to step lies in tensors that stay where they are: the batch, the weights, the optimisers'
states, the sums of the log. Noise comes from CUDA's default generator, which goes on at each replay
where it stood: numbers are drawn as they would be without a graph.

The first steps of a kind run plainly, which is what warms up allocator, cuDNN and optimisers. They
are steps like any other: nothing has to be undone, and a run may change between plain and replayed
steps whenever it is continued.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from soundgan.settings import Config
from soundgan.training import distributed
from soundgan.training.devices import out_of_memory
from soundgan.training.optimisers import Adam

WARM_UPS = 3  # plain steps of a kind before it is captured

Work = Callable[[Tensor, Tensor], None]


class Kind(NamedTuple):
    """All that a step asks of the host."""

    generator: bool  # whether it updates the generator, too
    r1_r2: bool  # whether the critic's penalty has R1 and R2

    def __str__(self) -> str:
        who = "critic and generator" if self.generator else "the critic alone"
        return f"{who}, with R1 and R2" if self.r1_r2 else who


def why_plain(cfg: Config, device: torch.device) -> str:
    """Why the steps of a run are launched operation by operation; "" where they are captured."""
    if device.type != "cuda":
        return f"{device.type} has no graphs"
    if not cfg.graph:
        return "graph = False"
    if distributed.world() > 1:
        return "gradients are exchanged between the ranks in the middle of a step"
    if cfg.optimiser.precision == "fp16" and not isinstance(cfg.optimiser, Adam):
        name = type(cfg.optimiser).__name__
        return f"fp16 asks the host after each gradient whether {name} may use it"
    return ""


def steps(work: Work, cfg: Config, device: torch.device) -> Stepper:
    """The way in which a run makes its steps; on CUDA, says so where it is the slow one."""
    if not (why := why_plain(cfg, device)):
        return GraphedSteps(work, (cfg.batch_size, *cfg.shape), device)
    if device.type == "cuda":
        print(f"Steps are launched operation by operation, slower than as a CUDA graph: {why}.")
    return PlainSteps(work)


class PlainSteps:
    """Does `work(x, labels)`, and no more."""

    batch = None

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, x: Tensor, labels: Tensor, kind: Hashable) -> None:
        self.work(x, labels)


class GraphedSteps:
    """Does `work(x, labels)`: plainly at first, then as the graph of its kind.

    `work` must be pure tensor work that reads nothing back, writes its results into tensors that
    were there before, and depends on nothing of the host but `kind`.

    A kind that cannot be captured goes on plainly, the others as before. Only where memory runs out
    all do: graphs keep the memory of their steps, and whether a plain step fits beside them would
    be known from one that failed half-way, which cannot be undone. Without them it fits, for it did
    before they were captured.
    """

    def __init__(self, work: Work, shape: tuple[int, ...], device: torch.device) -> None:
        """`shape`: of a batch `(B, 1, *S)`."""
        self.work, self.capture = work, Graphs()
        self.done: dict[Hashable, int] = {}  # plain steps of each kind
        self.replays: dict[Hashable, Callable[[], None]] = {}
        # Where a graph expects its batch; whoever writes it there spares a copy.
        labels = torch.empty(shape[0], dtype=torch.long, device=device)
        self.batch = torch.empty(shape, device=device), labels
        self.failed: dict[Hashable, str] = {}  # why a kind has no graph
        self.full = False  # memory ran out: nothing more is captured

    def __call__(self, x: Tensor, labels: Tensor, kind: Hashable) -> None:
        """One step."""
        given_up = self.full or kind in self.failed
        if kind not in self.replays and (given_up or self.done.get(kind, 0) < WARM_UPS):
            self.done[kind] = self.done.get(kind, 0) + 1
            self.work(x, labels)
            return
        if x is not self.batch[0]:
            self.batch[0].copy_(x)
            self.batch[1].copy_(labels)
        if kind not in self.replays:
            self._try_to_capture(kind)
        if kind in self.replays:
            self.replays[kind]()
        else:
            self.work(*self.batch)

    def _try_to_capture(self, kind: Hashable) -> None:
        try:
            self.replays[kind] = self.capture(lambda: self.work(*self.batch))
            return
        except RuntimeError as error:  # CUDA's: an operation that cannot be captured, or no memory
            while error.__context__:  # the end of a broken capture fails, too
                error = error.__context__
            self.failed[kind], self.full = str(error).partition("\n")[0], out_of_memory(error)
        # From here on the error is gone, and with it the tensors of the frames that it passed.
        which, advice = "this kind of step goes", ""
        if self.full:
            which, advice = "all steps go", "a smaller --batch-size leaves room for it; "
        if self.full or not self.capture.intact:
            self.replays.clear()
        if not self.replays:
            self.capture.free()
        print(
            f"No CUDA graph of a step of {kind} ({self.failed[kind]}): {which} on operation by "
            f"operation, slower ({advice}--no-graph does so from the start).",
            flush=True,
        )


Stepper = PlainSteps | GraphedSteps


class Graphs:
    """Captures work as CUDA graphs, which share one pool of memory: they never run together.

    What a failed capture leaves behind is undone here as far as Python can: `torch.cuda.graph`
    does not leave its stream where the end of the capture fails, and PyTorch 2.11 (2.14 no longer)
    then also believes that the pool and the generator of noise are still being captured.
    """

    def __init__(self) -> None:
        self.pool: tuple[int, int] | None = None
        self.broken: list[tuple[torch.cuda.CUDAGraph, tuple[int, int]]] = []
        self.intact = True  # whether what was captured can still be replayed

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """A function that does `work` again, on the same tensors; nothing is computed here."""
        # Named beforehand: a graph that failed does not tell its pool.
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph, noise = torch.cuda.CUDAGraph(), default_noise().clone_state()
        try:
            capture(graph, self.pool, work)
        except RuntimeError:
            self._mend(graph, noise)
            raise
        return graph.replay

    def _mend(self, graph: torch.cuda.CUDAGraph, noise: torch.Generator) -> None:
        """Let allocator and noise go on as if the capture of `graph` had never begun; `noise`: a
        copy of the generator from before."""
        end_allocation(self.pool)
        graph.reset()
        # 2.11's allocator of pinned memory, which Python cannot reach, goes on asking this object
        # whether a stream is its own: it says no, but must be there. Nor is its pool used again.
        self.broken.append((graph, self.pool))
        self.pool = None
        # 2.11: the generator counts as captured until a capture ends, whatever that contains.
        # Given another state, its noise would part from that of the graphs there are.
        pool = torch.cuda.graph_pool_handle()
        try:
            nothing = torch.zeros((), device=default_noise().device)
            capture(torch.cuda.CUDAGraph(), pool, nothing.zero_)
        except RuntimeError:
            end_allocation(pool)
            default_noise().graphsafe_set_state(noise)
            self.intact = False

    def free(self) -> None:
        """Give the memory of graphs that are gone back to CUDA."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        with suppress(RuntimeError):  # other allocators (cudaMallocAsync) have no snapshots
            self._let_go_of_broken()

    def _let_go_of_broken(self) -> None:
        for _, pool in self.broken:
            # Up to 2.13 a graph that failed goes on holding its pool, so that the cache keeps even
            # segments in which nothing lives. That is also how it is told from a pool that was let
            # go: to release one twice would break the allocator.
            held = [s for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] == pool]
            if any(segment["active_size"] == 0 for segment in held):
                torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
                torch.cuda.empty_cache()


def capture(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], work: Callable[[], None]) -> None:
    """Capture `work` as `graph`, and be back on the stream of before, whatever happens."""
    stream = torch.cuda.current_stream()
    try:
        # Only this thread is watched: others (the streaming of batches) go on with theirs.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
    finally:
        torch.cuda.set_stream(stream)


def end_allocation(pool: tuple[int, int]) -> None:
    """Let no memory be taken from `pool` any more."""
    with suppress(RuntimeError):  # it is not: as it should be after the end of a capture
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)


def default_noise() -> torch.Generator:
    return torch.cuda.default_generators[torch.cuda.current_device()]
