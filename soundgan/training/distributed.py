"""One run in several processes: `torchrun --nproc-per-node N train.py` starts N ranks.

Each rank has a device and both networks. It computes its part of every batch with noise of its own;
before each update the gradients are averaged over the ranks, so that the weights stay the same on
all of them. Rank 0 alone writes and speaks. This is StyleGAN3's way (Karras et al. 2021), and not
DistributedDataParallel, which does not support `autograd.grad` inside a loss: the gradient penalty.

For losses that are means over clips, the averaged gradient is that of the joined batch. BatchNorm
is the exception: a rank takes the statistics of its own part, and the running ones that are saved
are rank 0's.

In a single process every function here does nothing, or merely the work that it is handed.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from soundgan.errors import UserError
from soundgan.settings import Config

PATIENCE = 4 * 3600  # s that ranks wait for rank 0, which decodes or scores meanwhile
LINGER = 3.0  # s for the rank that knows the reason to end first: torchrun reports that one

T = TypeVar("T")

_connected: dict[str, dist.ProcessGroup | None] = {"cuda": None}  # by kind of device; see `connect`


class Ended(SystemExit):
    """The run has ended, and another rank says why: this one ends with its exit code, silently."""


class Lost(UserError):
    """Another rank does not answer any more."""

    exit_code = 1


# ---- the group ----------------------------------------------------------------------------------


def rank() -> int:
    """Number of this process among those of the run; 0 in a single one."""
    return dist.get_rank() if several() else 0


def world() -> int:
    """How many processes train this run."""
    return dist.get_world_size() if several() else 1


def several() -> bool:
    """Whether this process is one of a group, if only of one."""
    return dist.is_available() and dist.is_initialized()


@contextmanager
def group() -> Iterator[None]:
    """Within it this process is one of those that torchrun (or WORLD_SIZE, RANK, ...) started.

    What ranks other than 0 print is not shown, and what they raise says which rank it is: it can
    only be an error of theirs alone. Raises Lost where the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield
        return
    # Messages between ranks, which are tensors of the CPU, go over gloo: nobody ever waits for rank
    # 0's files on a GPU. NCCL comes later (`connect`), where the ranks do train on GPUs.
    with _everyone_there():
        dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE))
    with ExitStack() as stack:
        if rank():
            silence = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(silence))
        try:
            yield
        except KeyboardInterrupt:
            if rank():
                raise Ended(130) from None
            raise
        except UserError as error:
            if not rank():
                raise
            own = UserError(f"on rank {rank()} of {world()}: {error}")
            own.exit_code = error.exit_code
            raise own from error
    dist.destroy_process_group()
    _connected["cuda"] = None


@contextmanager
def _everyone_there() -> Iterator[None]:
    """Around everything that needs the other ranks: where one is gone, this one ends too.

    The one that is gone has said why, or was killed; only rank 0 adds that it stops for that.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo and NCCL have no kind of error of their own
        time.sleep(LINGER)
        if several() and rank():
            raise Ended(Lost.exit_code) from error
        # Without gloo's file name in front and its advice behind.
        reason = re.sub(r"^\[\S+\]\s*", "", str(error).strip()).partition("\n")[0].split(". ")[0]
        raise Lost(
            f"another rank has ended or cannot be reached ({reason}). Its own message, or "
            "torchrun's, says why; the same command continues from the last checkpoint."
        ) from error


def checked(cfg: Config) -> Config:
    """`cfg`, if so many ranks can train it; raises UserError."""
    if world() == 1:
        return cfg
    if cfg.dry_run:
        raise UserError("--dry-run is for one process: run it without torchrun.")
    if cfg.batch_size % world():
        least = cfg.batch_size - cfg.batch_size % world() or world()
        raise UserError(
            f"batch_size = {cfg.batch_size} does not divide among {world()} ranks: it is the batch "
            f"of all of them together (--batch-size {least}, or another --nproc-per-node)."
        )
    if cfg.batch_size == world() and (cfg.generator.batch_norm or cfg.critic.batch_norm):
        raise UserError(
            f"batch_size = {cfg.batch_size} leaves each of {world()} ranks one clip, of which "
            f"BatchNorm has no statistics (--batch-size {2 * world()})."
        )
    if cfg.device not in ("auto", "cuda", "cpu"):
        raise UserError(
            f"device = {cfg.device!r}: each of several ranks has a GPU of its own (--device auto; "
            "CUDA_VISIBLE_DEVICES chooses among them)."
        )
    return cfg


def placed(cfg: Config) -> Config:
    """`cfg` with this rank's own GPU as its device, where it trains on GPUs."""
    on_cpu = cfg.device == "cpu" or (cfg.device == "auto" and not torch.cuda.is_available())
    if world() == 1 or on_cpu:
        return cfg
    return replace(cfg, device=f"cuda:{os.environ.get('LOCAL_RANK', '0')}")


def connect(device: torch.device) -> None:
    """Let this rank exchange gradients with the others from `device` to device.

    GPUs are connected by NCCL here and now, each rank's own: not at the first exchange, by what a
    tensor of it tells. Raises UserError where rank 0 has a device of another kind.
    """
    if world() == 1:
        return
    if (kind := from_first(device.type)) != device.type:
        raise UserError(f"it would train on {device.type}, rank 0 on {kind} (--device).")
    if device.type == "cuda" and dist.is_nccl_available():
        patience = timedelta(seconds=PATIENCE)
        with _everyone_there():
            _connected["cuda"] = dist.new_group(backend="nccl", timeout=patience, device_id=device)


# ---- rank 0 does it -----------------------------------------------------------------------------
# While rank 0 works, the others wait for its outcome: what it raises ends all of them.

GOES_ON = -1  # in place of an exit code


def first_alone(work: Callable[..., T], *arguments: object) -> T | None:
    """Let rank 0 do `work(*arguments)` while the others wait; they get None.

    Whatever it raises, the others raise Ended with the exit code that rank 0 ends with.
    """
    return _first(work, arguments, shared=False)


def on_first(work: Callable[..., T], *arguments: object) -> T:
    """The same, and every rank gets the result, which must be picklable."""
    return _first(work, arguments, shared=True)


def after_first(work: Callable[..., T], *arguments: object) -> T:
    """Let rank 0 do `work(*arguments)`, then each other rank; each gets its own result.

    So what fails on every rank alike is said once.
    """
    result = first_alone(work, *arguments)
    return work(*arguments) if rank() else result


def from_first(value: T) -> T:
    """Rank 0's `value`, on every rank."""
    return on_first(lambda: value)


@contextmanager
def first_holds(
    manager: Callable[..., AbstractContextManager[T]], *arguments: object
) -> Iterator[T | None]:
    """`with manager(*arguments)` on rank 0 only; the others get None."""
    with ExitStack() as stack:
        yield first_alone(lambda: stack.enter_context(manager(*arguments)))


def _first(work: Callable[..., T], arguments: tuple, shared: bool) -> T | None:
    if world() == 1:
        return work(*arguments)
    if rank():
        code, result = _broadcast_outcome(None)
        if code != GOES_ON:
            time.sleep(LINGER)  # torchrun ends all with the first that ends
            raise Ended(code)
        return result
    try:
        result = work(*arguments)
    except BaseException as error:
        _broadcast_outcome((_exit_code(error), None))
        raise
    _broadcast_outcome((GOES_ON, result if shared else None))
    return result


def _broadcast_outcome(message: tuple[int, object] | None) -> tuple[int, object]:
    """Rank 0's message, on every rank."""
    box = [message]
    with _everyone_there():
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _exit_code(error: BaseException) -> int:
    """What the process ends with where this reaches the command line (`console.friendly`)."""
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return UserError.exit_code if isinstance(error, OSError) else 1


# ---- all do it ----------------------------------------------------------------------------------


def own_part(rows: Tensor) -> Tensor:
    """The rows `(B / N,)` of a batch `(B,)` that this rank of N computes."""
    return rows.chunk(world())[rank()]


def noise_seed(seed: int, step: int) -> int:
    """Seed of this rank's noise from `step` on: another one for each rank and each step."""
    state = np.random.SeedSequence([seed, step, rank()]).generate_state(1, np.uint64)
    return int(state[0]) % 2**63


def broadcast(*networks: nn.Module) -> None:
    """Give every rank rank 0's parameters and buffers."""
    if world() == 1:
        return
    with _everyone_there(), torch.no_grad():
        for network in networks:
            for value in network.state_dict().values():
                dist.broadcast(value, src=0, group=_connected.get(value.device.type))


def average(network: nn.Module) -> None:
    """Average the gradients of `network` over the ranks, in place, all in one go.

    One that is NaN or Inf on any rank is so on all of them afterwards.
    """
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in network.parameters()]
    flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


def mean(values: Tensor) -> Tensor:
    """The mean of `values` over the ranks; NaN and Inf of any of them stay what they are."""
    if world() == 1:
        return values
    values = values / world()
    with _everyone_there():
        dist.all_reduce(values, group=_connected.get(values.device.type))
    return values


def agree(stop: str, look: bool) -> tuple[str, bool]:
    """Name of a signal that any rank has received ("": none), and whether any of them wants to look
    at the numbers: the same answer on all, so that all do the same after the same step.

    Two numbers of the host over gloo: no GPU waits for it.
    """
    if world() == 1:
        return stop, look
    flags = torch.tensor([signal.Signals[stop].value if stop else 0, int(look)])
    with _everyone_there():
        dist.all_reduce(flags, dist.ReduceOp.MAX)
    number, look = flags.tolist()
    return (signal.Signals(number).name if number else ""), bool(look)


def from_others(ask: Callable[..., T], *arguments: object) -> list[T]:
    """What `ask(*arguments)` returns on ranks 1, 2, ..., on rank 0; [] elsewhere."""
    if world() == 1:
        return []
    own = ask(*arguments) if rank() else None
    answers = None if rank() else [None] * world()
    with _everyone_there():
        dist.gather_object(own, answers, dst=0)
    return answers[1:] if answers else []
