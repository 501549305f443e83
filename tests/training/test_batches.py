"""Whichever way the clips take to the device, the batches are the same, and memory is bounded."""

from __future__ import annotations

import errno
import itertools
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundgan import dataset
from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.settings import Config
from soundgan.training import batches, distributed
from soundgan.training.batches import Batches, Reader, Slots, Source

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import size

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
ROWS = np.delete(np.arange(18), [3, 7])  # two are held out
PROC = Path("/proc/self")


@pytest.fixture
def clips(small: Config) -> dataset.Clips:
    return dataset.load_clips(small, dataset.find_files(small.data_dir))


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert readers() == []


def gathered(found: Batches, clips: dataset.Clips, epoch: int) -> Iterator[tuple]:
    """The batches as one would write them first."""
    for indices in found.order(epoch).numpy():
        yield torch.from_numpy(clips.data[indices]), torch.tensor(clips.labels)[indices]


def assert_same(left: Iterator[tuple], right: Iterator[tuple]) -> int:
    count = 0
    for (x, labels), (y, others) in zip(left, right, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(labels, others)
        count += 1
    return count


# ---- what is in them -----------------------------------------------------------------------------


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_every_way_brings_the_same_batches(small, clips, resident, mapped):
    whole = Batches(clips, ROWS, small, CPU)
    if not mapped:
        clips = replace(clips, data=np.array(clips.data))
    found = Batches(clips, ROWS, small, CPU, resident=resident)
    assert (found.resident is not None) == resident
    assert (found.source.file is not None) == mapped
    for epoch in (0, 1):
        assert torch.equal(found.order(epoch), whole.order(epoch))
        assert assert_same(found.epoch(epoch), gathered(whole, clips, epoch)) == 4
        rest = itertools.islice(gathered(whole, clips, epoch), 3, None)
        assert assert_same(found.epoch(epoch, start=3), rest) == 1
    assert list(found.epoch(0, start=4)) == []
    kept = list(found.epoch(0))  # each batch is a tensor of its own
    assert assert_same(iter(kept), gathered(whole, clips, 0)) == 4


@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_written_into_given_tensors(small, clips, resident):
    found = Batches(clips, ROWS, small, CPU, resident=resident)
    out = torch.empty(4, *small.shape), torch.empty(4, dtype=torch.long)
    places = [tensor.data_ptr() for tensor in out]
    for (x, labels), expected in zip(found.epoch(0, out=out), gathered(found, clips, 0)):
        assert [x.data_ptr(), labels.data_ptr()] == places
        assert torch.equal(out[0], expected[0])
        assert torch.equal(out[1], expected[1])


def test_every_clip_once_an_epoch_in_another_order(small, clips):
    rows = np.delete(np.arange(18), 7)  # one is held out
    found = Batches(clips, rows, small, CPU)
    first, second = found.order(0), found.order(1)
    assert first.shape == (4, 4)  # 17 clips, the last short batch dropped
    assert len(set(first.flatten().tolist())) == 16
    assert 7 not in torch.cat([found.order(epoch) for epoch in range(9)])
    assert not torch.equal(first, second)
    assert torch.equal(first, found.order(0))
    x, labels = next(found.epoch(0))
    for row, index in enumerate(first[0].tolist()):
        assert np.array_equal(x[row].numpy(), clips.data[index])
        assert clips.files[index].split("/")[0] == clips.classes[labels[row]]


def test_a_balanced_epoch_has_equally_many_clips_of_every_class(small, clips):
    """Of a small class all and several times, of a large one all of them over a few epochs."""
    labels = np.array(clips.labels)
    rows = np.concatenate([np.flatnonzero(labels == k)[:n] for k, n in ((0, 2), (1, 6))])
    cfg = change(small, {"batch_size": 4, "balance": True})
    found = Batches(clips, rows, cfg, CPU)
    drawn = [found.order(epoch).flatten() for epoch in range(1, 9)]
    for order in drawn:
        times = Counter(order.tolist())
        assert [times[row] for row in rows[:2]] == [2, 2]
        assert sorted(times[row] for row in rows[2:]) == [0, 0, 1, 1, 1, 1]
    assert set(torch.cat(drawn).tolist()) == set(rows.tolist())
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], Batches(clips, rows, cfg, CPU).order(1).flatten())


@pytest.mark.parametrize("resident", [True, False])
def test_ranks_share_each_batch(small, clips, resident, monkeypatch):
    found = Batches(clips, ROWS, small, CPU, resident=resident)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(list(found.epoch(1)))
    joined = ((torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in zip(*parts))
    assert assert_same(joined, gathered(found, clips, 1)) == 4


def test_a_cache_made_anew_by_another_run_changes_nothing(small, clips):
    """The map holds the old file; under its name there is another one now."""
    path = Path(clips.data.filename)
    path.rename(path.with_name("old"))
    path.write_bytes(b"of another size")
    found = Batches(clips, ROWS, small, CPU)
    assert assert_same(found.epoch(0), gathered(found, clips, 0)) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("given", [True, False])
def test_a_slow_gpu_never_sees_a_buffer_that_is_written_again(small, clips, given):
    device = torch.device("cuda")
    found = Batches(clips, ROWS, small, device, resident=False)
    resident = Batches(clips, ROWS, small, device)
    assert resident.resident is not None
    out = torch.empty(4, *small.shape, device=device), torch.empty(4, device=device).long()
    for epoch in range(50):
        kept = []
        for x, labels in found.epoch(epoch, out=out if given else None):
            torch.cuda._sleep(2_000_000)  # the host runs ahead of it
            kept.append((x.clone(), labels.clone()))
        assert assert_same(iter(kept), resident.epoch(epoch)) == 4


class PlayedStream:
    """A CUDA stream, played by a thread that does what is queued, and takes its time."""

    now: PlayedStream  # the current one

    def __init__(self, seconds: float) -> None:
        self.seconds, self.works = seconds, queue.SimpleQueue()
        threading.Thread(target=self._play, daemon=True).start()

    def _play(self) -> None:
        for work in iter(self.works.get, None):
            time.sleep(self.seconds)
            work()

    def wait_event(self, event: PlayedEvent) -> None:
        self.works.put(event.done.wait)


class PlayedEvent:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.done.set()  # one that was never recorded holds nobody up

    def record(self, stream: PlayedStream) -> None:
        self.done = threading.Event()
        stream.works.put(self.done.set)

    def synchronize(self) -> None:
        assert self.done.wait(30)


class PlayedTensor:
    """A tensor of the device: a copy into it happens when its stream comes to it."""

    def __init__(self, *shape: int) -> None:
        self.content = torch.zeros(shape)

    def copy_(self, other: torch.Tensor | PlayedTensor, non_blocking: bool = False) -> None:
        source = getattr(other, "content", other)
        PlayedStream.now.works.put(lambda: self.content.copy_(source))


@contextmanager
def played_stream(stream: PlayedStream) -> Iterator[None]:
    before, PlayedStream.now = PlayedStream.now, stream
    yield
    PlayedStream.now = before


@pytest.mark.parametrize(
    ("forgotten", "step", "copy"),  # seconds
    [("", 2e-3, 1e-4), ("", 1e-4, 2e-3), ("taken", 2e-3, 1e-4), ("copied", 1e-4, 2e-3)],
)
def test_streams_bring_whole_batches_in_order(forgotten, step, copy, monkeypatch):
    """Whichever is slow, and the check sees it where an event is left out."""
    monkeypatch.setattr(torch.cuda, "stream", played_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: PlayedStream.now)
    PlayedStream.now = steps = PlayedStream(step)
    slots = Slots((4, 50), CPU)
    slots._side = PlayedStream(copy)
    for slot in slots.all:
        slot.landed, slot.copied, slot.taken = PlayedTensor(4, 50), PlayedEvent(), PlayedEvent()
        if forgotten:
            getattr(slot, forgotten).record = lambda _: None
    source = Source(np.repeat(np.arange(200, dtype=np.float32)[:, None], 50, axis=1))
    order = np.random.default_rng(1).permutation(200).reshape(50, 4)
    x, seen = PlayedTensor(4, 50), []
    with Reader(source, order, slots.all) as reader:
        for _ in order:
            slots.hand_over(reader.next(), x)
            for free in slots.free_again():
                reader.give_back(free)
            steps.works.put(lambda: seen.append(x.content.clone()))
    last = PlayedEvent()
    last.record(steps)
    last.synchronize()
    for stream in (steps, slots._side):
        stream.works.put(None)
    expected = torch.tensor(order, dtype=torch.float32)[:, :, None].expand(-1, -1, 50)
    assert torch.equal(torch.stack(seen), expected) == (not forgotten)


# ---- the thread ----------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """How many rows each reading asked for."""
    counts: list[int] = []
    original = batches.Source.read

    def counting(self, rows, out):
        counts.append(len(rows))
        original(self, rows, out)

    monkeypatch.setattr(batches.Source, "read", counting)
    return counts


def test_reading_is_ahead_by_the_ring_and_ends_when_closed(small, clips, read):
    cfg = change(small, {"batch_size": 1})
    with closing(Batches(clips, ROWS, cfg, CPU).epoch(0)) as coming:
        for _ in range(3):
            next(coming)
        (thread,) = readers()
        for _ in range(100):  # it comes to rest with all buffers full
            thread.join(0.01)
            if len(read) >= 3 + batches.AHEAD:
                break
        thread.join(0.05)
        assert thread.is_alive()
        assert len(read) == 3 + batches.AHEAD
    assert not thread.is_alive()


@pytest.mark.slow
def test_an_epoch_that_nobody_closes_does_not_keep_the_program(small, clips):
    code = """
import numpy as np, sys, torch
import config
from soundgan import dataset
from soundgan.config_io import change
from soundgan.training.batches import Batches
data = np.zeros((64, 1, 80, 352), np.float32)
clips = dataset.Clips(data, [0] * 64, ["a"], [], [], [], [], [], [], "", "")
cfg = change(config.RECIPES["sn-wgan-gp"], {"batch_size": 2})
coming = Batches(clips, np.arange(64), cfg, torch.device("cpu")).epoch(0)
next(coming)
sys.keep = coming, sys.exit(7)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert ended.returncode == 7


def test_a_file_that_is_cut_meanwhile_is_named(small, clips):
    coming = Batches(clips, ROWS, small, CPU).epoch(0)
    with open(clips.data.filename, "r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"clips\.f32 ends before clip \d+"):
        list(coming)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError("no")])
def test_what_the_thread_raises_is_raised_where_the_batch_is_wanted(small, clips, error):
    found = Batches(clips, ROWS, small, CPU)
    good = list(gathered(found, clips, 0))[:2]

    class Failing:
        """Reads two batches and then fails."""

        def __init__(self, file):
            self.file, self.left = file, 2 * small.batch_size

        def readinto(self, clip):
            self.left -= 1
            if self.left < 0:
                raise error
            return self.file.readinto(clip)

        def __getattr__(self, name):
            return getattr(self.file, name)

    found.source.file = Failing(found.source.file)
    coming = found.epoch(0)
    assert assert_same(itertools.islice(coming, 2), iter(good)) == 2
    with pytest.raises(type(error)) as raised:
        next(coming)
    if isinstance(error, OSError):
        assert raised.value.errno == errno.EIO
        assert raised.value.filename == str(clips.data.filename)
    assert readers() == []


# ---- size ----------------------------------------------------------------------------------------


def test_the_upload_takes_training_clips_a_few_at_a_time(small, clips, read, monkeypatch):
    monkeypatch.setattr(batches, "UPLOAD_CLIPS", 5)
    found = Batches(clips, ROWS, small, CPU, resident=True)
    assert read == [5, 5, 5, 1]
    assert np.array_equal(found.resident.numpy(), clips.data[ROWS])


def of_process(name: str, field: str) -> int:
    """A number of `/proc/self/NAME`: kB of memory (status), bytes (io)."""
    lines = (PROC / name).read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


@pytest.mark.slow
@pytest.mark.skipif(not (PROC / "io").exists(), reason="needs /proc")
def test_a_hundred_thousand_clips(default, tmp_path):
    """11 GB of decoded clips, as a sparse file: read once to check them, and in bounds."""
    cfg = change(default, {"data_dir": str(tmp_path), "output_dir": str(tmp_path / "outputs")})
    found = dataset.Found(tmp_path, size.names_of(100_000))
    path = size.pretend(cfg, found)
    memory, read_before = of_process("status", "RssAnon"), of_process("io", "rchar")
    clips = dataset.load_clips(cfg, found)
    assert clips.data.shape == (100_000, 1, 80, 352)
    split = dataset.split(cfg, clips, known=False)
    mapped = of_process("status", "RssFile")
    assert 0 <= of_process("io", "rchar") - read_before - path.stat().st_size < 40e6  # and the list
    assert 90_000 * 0.98 < len(split.training) < 90_000 * 1.01
    assert len(split.training) + len(split.held_out) == 100_000
    found_batches = Batches(clips, split.training, cfg, CPU, resident=False)
    order, labels = found_batches.order(5).tolist(), np.array(clips.labels)
    start = found_batches.steps - 300
    for rows, (x, own) in zip(order[start:], found_batches.epoch(5, start), strict=True):
        flat = x.flatten(1)
        assert torch.equal(flat[:, -1], torch.tensor(rows, dtype=torch.float32))
        assert flat[:, :-1].count_nonzero() == 0
        assert np.array_equal(own.numpy(), labels[rows])
    assert (of_process("status", "RssAnon") - memory) * 1024 < 300e6
    assert (of_process("status", "RssFile") - mapped) * 1024 < 100e6
    path.unlink()  # pytest keeps the folder
