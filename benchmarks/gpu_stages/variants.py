"""How long a replayed step takes with other kernels, layout, precision or batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import one_step
import torch

from gpu_stages.asked import Asked, say
from gpu_stages.plan import VARIANTS
from gpu_stages.steps import REPLAYED, forget, made, memory, replayed
from soundgan.models import layers
from soundgan.training.run import Run


@contextmanager
def inductor() -> Iterator[None]:
    """GroupNorm's second-order formula as TorchInductor makes it."""
    import torch._dynamo

    own = layers.norm_second_gradients
    compiled = torch.compile(own, dynamic=False)
    layers.norm_second_gradients = compiled
    try:
        yield
    finally:
        layers.norm_second_gradients = own
        torch._dynamo.reset()


def channels_last(run: Run) -> None:
    """Lay the weights channels last, as on a CPU."""
    for network in run.networks:
        network.to(memory_format=torch.channels_last)


def no_search(run: Run) -> None:
    """Take cuDNN's first choice of an algorithm; the next run is asked for its own."""
    torch.backends.cudnn.benchmark = False


def variant(item: str, asked: Asked) -> None:
    """The most frequent kind of step of one variant, or of its recipe the only one."""
    own = VARIANTS[item]
    changes = dict(own.changes)
    if asked.tiny and "batch_size" in changes:
        changes["batch_size"] = 6
    device, cfg = asked.on(), asked.config(own.recipe, **changes)
    forget(device)
    prepare = {"channels_last": channels_last, "no_search": no_search}.get(own.way)
    many = 2 if asked.tiny else REPLAYED
    with one_step.global_settings(), inductor() if own.way == "inductor" else nullcontext():
        there = made(cfg, device, prepare)
        for kind in there.kinds:
            found = {"recipe": own.recipe, "batch": cfg.batch_size, "kind": str(kind)}
            found |= {"share": there.share(kind), "first_s": there.first}
            found |= replayed(there, kind, many) | memory(device)
            say(asked.stage, item, device, **found)
