"""Batches of the decoded clips, on the device: resident there, or read ahead from the disk.

Decoding happens once, in `soundgan/dataset/`. A set that fits into half of a GPU's free memory lies
there as one tensor, and a batch is an index into it: no worker processes, no transfer within an
epoch. Any other set stays in its file. A thread reads the clips of the coming batches into a small
ring of buffers, and each batch is on the device before the step that wants it, if the disk keeps
up.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from soundgan.dataset import Clips
from soundgan.errors import UserError
from soundgan.settings import Config
from soundgan.training import distributed

AHEAD = 3  # batches in memory where they are read from the disk; at least 2
UPLOAD_CLIPS = 256  # clips on their way to the GPU at a time: bounds what the host holds


class Batches:
    """Batches `x (B, 1, *S)`, `labels (B,)` of a data set, on the device.

    The order of an epoch depends on seed and epoch alone, so that a run continued in the middle of
    an epoch sees the batches it has not yet seen. Of several ranks each gets its part of a batch.
    """

    def __init__(
        self,
        clips: Clips,
        rows: np.ndarray,
        cfg: Config,
        device: torch.device,
        resident: bool | None = None,
    ) -> None:
        """`rows`: indices of the clips to train on. `resident`: keep them on the device, or read
        them ahead; None: whichever suits it. Raises OSError, UserError like `epoch`."""
        self.seed, self.batch_size, self.device = cfg.seed, cfg.batch_size, device
        self.rows = torch.from_numpy(rows)
        self.steps = len(rows) // cfg.batch_size  # the last short batch is dropped
        labels = torch.tensor(clips.labels)[self.rows]  # (N,)
        self.labels = labels.to(device)
        self.in_classes = []  # places of each class, where they are drawn evenly
        if cfg.balance:
            places = labels.argsort(stable=True).split(labels.bincount().tolist())
            self.in_classes = [own for own in places if len(own)]
        self.source = Source(clips.data)
        self.shape = clips.data.shape[1:]
        if resident is None and device.type == "cuda":
            needed, free = self.source.row_bytes * len(rows), torch.cuda.mem_get_info(device)[0]
            resident = needed < free / 2
            if not resident:
                print(
                    f"The clips ({needed / 2**30:.1f} GiB) are more than half of the "
                    f"{free / 2**30:.1f} GiB that are free on {device}: each batch is read ahead "
                    "from the cache below output_dir, best on a local disk (--output-dir)."
                )
        self.resident = self._upload() if resident else None

    def order(self, epoch: int) -> Tensor:
        """Indices `(steps, B)` of the clips of an epoch, of all ranks."""
        return self.rows[self._places(epoch)]

    def epoch(
        self, epoch: int, start: int = 0, out: tuple[Tensor, Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `x (B, 1, *S)`, `labels (B,)` of the steps of an epoch, from step `start` on.

        With `out`, a pair of such tensors (labels int64), every batch is written into these, in the
        order of the device's current stream, and they are what is yielded: nothing is allocated.
        Close it (`contextlib.closing`) to end the thread in the middle of an epoch. That thread
        makes no CUDA call, so a graph may be captured meanwhile. Raises OSError where the disk
        fails, and UserError where something else has cut the file.
        """
        places = distributed.own_part(self._places(epoch)[start:].T).T.contiguous()  # (steps, B)
        batches = self._streamed if self.resident is None else self._selected
        yield from batches(places, out)

    def _places(self, epoch: int) -> Tensor:
        """The order as places `(steps, B)` among the training rows."""
        generator = torch.Generator().manual_seed((self.seed + 1_000_003 * epoch) % 2**63)
        places = self._draw_evenly(generator) if self.in_classes else torch.arange(len(self.rows))
        shuffled = places[torch.randperm(len(places), generator=generator)]
        return shuffled[: self.steps * self.batch_size].view(self.steps, self.batch_size)

    def _draw_evenly(self, generator: torch.Generator) -> Tensor:
        """About N places, equally many of each class: of a small one some again, of a large one
        others in another epoch."""
        share = math.ceil(len(self.rows) / len(self.in_classes))

        def draw(own: Tensor) -> Tensor:
            rounds = range(math.ceil(share / len(own)))
            return torch.cat([own[torch.randperm(len(own), generator=generator)] for _ in rounds])

        return torch.cat([draw(own)[:share] for own in self.in_classes])

    def _upload(self) -> Tensor:
        """The training clips `(N, 1, *S)` on the device; the host holds a few of them at a time."""
        resident = torch.empty((len(self.rows), *self.shape), device=self.device)
        host = torch.empty((min(len(self.rows), UPLOAD_CLIPS), *self.shape))
        for rows, part in zip(self.rows.split(len(host)), resident.split(len(host))):
            self.source.read(rows.numpy(), host[: len(rows)])
            part.copy_(host[: len(rows)])
        return resident

    def _selected(
        self, places: Tensor, out: tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for at in places.to(self.device):
            x, labels = out or self._fresh(len(at))
            torch.index_select(self.resident, 0, at, out=x)
            torch.index_select(self.labels, 0, at, out=labels)
            yield x, labels

    def _streamed(
        self, places: Tensor, out: tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        slots = Slots((places.shape[1], *self.shape), self.device)
        with Reader(self.source, self.rows[places].numpy(), slots.all) as reader:
            for at in places.to(self.device):
                x, labels = out or self._fresh(len(at))
                slot = reader.next()
                slots.hand_over(slot, x)
                torch.index_select(self.labels, 0, at, out=labels)
                for free in slots.free_again():
                    reader.give_back(free)
                yield x, labels

    def _fresh(self, count: int) -> tuple[Tensor, Tensor]:
        x = torch.empty((count, *self.shape), device=self.device)
        return x, torch.empty(count, dtype=torch.long, device=self.device)


# ---- disk -> host -------------------------------------------------------------------------------


class Source:
    """Rows of the decoded clips, from the file behind their memory map.

    Read, not mapped: rows that are not in memory yet come ten times as quickly (page faults fetch
    them piece by piece), and a disk that fails raises an error where a map ends the process.
    """

    def __init__(self, data: np.ndarray) -> None:
        """`data (N, 1, *S)`: a whole memory map, or any array, whose rows are copied then."""
        self.data, self.file = data, None
        self.row_bytes = data[:1].nbytes
        self._one_at_a_time = threading.Lock()  # finding a place and reading there are two calls
        if isinstance(data, np.memmap):
            with suppress(OSError):  # made anew by another run at this moment: the map has the old
                file = open(data.filename, "rb")  # noqa: SIM115 (for as long as this lives)
                if os.fstat(file.fileno()).st_size == data.nbytes:
                    self.file = file
                else:
                    file.close()

    def read(self, rows: np.ndarray, out: Tensor) -> None:
        """Fill `out (B, 1, *S)` on the host; raises OSError, or UserError where the file ends."""
        clips = out.numpy()
        order = np.argsort(rows)  # rising: the shortest way for a disk that turns
        if self.file is None:
            for place in order:
                clips[place] = self.data[rows[place]]
            return
        with self._one_at_a_time:
            if hasattr(os, "posix_fadvise"):  # Linux: so the disk hears of all of them at once
                for row in rows[order].tolist():
                    where = (row * self.row_bytes, self.row_bytes)
                    os.posix_fadvise(self.file.fileno(), *where, os.POSIX_FADV_WILLNEED)
            for place in order:
                self._read(int(rows[place]), clips[place])

    def _read(self, row: int, clip: np.ndarray) -> None:
        path = self.data.filename
        try:
            self.file.seek(row * self.row_bytes)
            count = self.file.readinto(clip)
        except OSError as error:  # which does not say of which file
            raise OSError(error.errno, error.strerror, str(path)) from error
        if count != self.row_bytes:
            raise UserError(
                f"{path} ends before clip {row}: something has cut it while it was in use. The "
                "same command decodes the sounds anew and continues."
            )


class Reader:
    """A thread that reads batch after batch into buffers that are handed back and forth.

    It makes no call of PyTorch, and ends with the last batch, at an error, or when it is closed.
    """

    def __init__(self, source: Source, batches: np.ndarray, slots: list[Slot]) -> None:
        """`batches`: rows `(steps, B)` in the order in which they will be wanted."""
        self._free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[Slot | BaseException] = queue.SimpleQueue()
        self._closed = False
        for slot in slots:
            self._free.put(slot)
        arguments = (source, batches)
        self._thread = threading.Thread(target=self._run, args=arguments, name="batches")
        self._thread.daemon = True  # should the process end without closing, it does not wait

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._free.put(None)  # it may be waiting for a buffer
        self._thread.join()

    def next(self) -> Slot:
        """The next batch; raises what reading it raised."""
        slot = self._full.get()
        if isinstance(slot, BaseException):
            raise slot
        return slot

    def give_back(self, slot: Slot) -> None:
        """Let a buffer be filled again."""
        self._free.put(slot)

    def _run(self, source: Source, batches: np.ndarray) -> None:
        try:
            for rows in batches:
                slot = self._free.get()
                if self._closed:
                    return
                source.read(rows, slot.host)
                self._full.put(slot)
        except BaseException as error:  # whatever it is, whoever waits for the batch gets it
            self._full.put(error)


# ---- host -> device -----------------------------------------------------------------------------


class Slot:
    """Room for one batch on its way: a buffer of the host, and on CUDA one of the device."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.host = torch.empty(shape, pin_memory=cuda)  # pinned: a copy from it need not wait
        self.landed = torch.empty(shape, device=device) if cuda else self.host
        self.copied = torch.cuda.Event() if cuda else None  # `host` may be written again
        self.taken = torch.cuda.Event() if cuda else None  # `landed` may be


class Slots:
    """A ring of slots, and their way to the device on a stream of its own, beside the steps."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.device = device
        self.all = [Slot(shape, device) for _ in range(AHEAD)]
        self._under_way: deque[Slot] = deque()
        self._side = None
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)
            # What `landed` was before may still be in use by steps that are queued.
            self._side.wait_stream(torch.cuda.current_stream(device))

    def hand_over(self, slot: Slot, x: Tensor) -> None:
        """Let `x` on the device become the batch, in the order of the current stream."""
        self._under_way.append(slot)
        if self._side is None:
            x.copy_(slot.host)
            return
        steps = torch.cuda.current_stream(self.device)
        self._side.wait_event(slot.taken)
        with torch.cuda.stream(self._side):
            slot.landed.copy_(slot.host, non_blocking=True)
        slot.copied.record(self._side)
        steps.wait_event(slot.copied)
        with torch.cuda.stream(steps):
            x.copy_(slot.landed)
        slot.taken.record(steps)

    def free_again(self) -> Iterator[Slot]:
        """Slots whose buffer of the host may be filled again.

        On CUDA all but the newest, once their copies are done: these wait for no more than the step
        that had the slot's batch before, so the host runs ahead of the device by a few steps.
        """
        while len(self._under_way) > (self._side is not None):
            slot = self._under_way.popleft()
            if slot.copied is not None:
                slot.copied.synchronize()
            yield slot
