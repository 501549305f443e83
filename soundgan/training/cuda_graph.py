"""A step on CUDA as one graph: captured once, then replayed with a single launch.

A step is some fifteen hundred small operations whatever the batch, and launched one by one they
keep a GPU waiting for Python. A CUDA graph holds their kernels with all addresses, so whatever
changes from step to step lies in tensors that stay where they are: the batch, the weights, the
optimisers' states, the sums of the log. Noise comes from CUDA's default generator, which goes on
at each replay where it stood: numbers are drawn as they would be without a graph.

The first steps of a kind run plainly, which is what warms up allocator, cuDNN and optimisers. They
are steps like any other: nothing has to be undone, and a run may change between plain and replayed
steps whenever it is continued.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from soundgan.settings import Config
from soundgan.training import distributed
from soundgan.training.optimisers import Adam

WARM_UPS = 3  # plain steps of a kind before it is captured

Work = Callable[[Tensor, Tensor], None]


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


def steps(work: Work, cfg: Config, device: torch.device) -> PlainSteps | GraphedSteps:
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
    """

    def __init__(self, work: Work, shape: tuple[int, ...], device: torch.device) -> None:
        """`shape`: of a batch `(B, 1, *S)`."""
        self.work, self.capture = work, Graphs()
        self.done: dict[Hashable, int] = {}  # plain steps of each kind
        self.replays: dict[Hashable, Callable[[], None]] = {}
        # Where a graph expects its batch; whoever writes it there spares a copy.
        labels = torch.empty(shape[0], dtype=torch.long, device=device)
        self.batch = torch.empty(shape, device=device), labels
        self.failed = ""  # why no graph came about

    def __call__(self, x: Tensor, labels: Tensor, kind: Hashable) -> None:
        """One step."""
        if kind not in self.replays and (self.failed or self.done.get(kind, 0) < WARM_UPS):
            self.done[kind] = self.done.get(kind, 0) + 1
            self.work(x, labels)
            return
        if x is not self.batch[0]:
            self.batch[0].copy_(x)
            self.batch[1].copy_(labels)
        if kind not in self.replays:
            try:
                self.replays[kind] = self.capture(lambda: self.work(*self.batch))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # CUDA's: an operation that cannot be captured
                while error.__context__:  # the end of a broken capture fails, too
                    error = error.__context__
                self.failed = str(error).partition("\n")[0]
                print(
                    f"No CUDA graph of a step ({self.failed}): steps go on operation by operation, "
                    "slower (--no-graph does so from the start).",
                    flush=True,
                )
                self.replays.clear()
        if self.failed:
            self.work(*self.batch)
        else:
            self.replays[kind]()


class Graphs:
    """Captures work as CUDA graphs, which share one pool of memory: they never run together."""

    def __init__(self) -> None:
        self.pool = None

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """A function that does `work` again, on the same tensors; nothing is computed here."""
        noise = torch.cuda.default_generators[torch.cuda.current_device()]
        before = noise.clone_state()
        graph = torch.cuda.CUDAGraph()
        try:
            # Only this thread is watched: others (the streaming of batches) go on with theirs.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                work()
        except RuntimeError:
            noise.graphsafe_set_state(before)  # it would still wait for the end of the capture
            raise
        self.pool = graph.pool()
        return graph.replay
