"""One run in several processes: two ranks on the CPU, over gloo."""

from __future__ import annotations

import csv
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from conftest import flags, shrunk, tones, weights

import config
import train
from soundgan.config_io import change
from soundgan.console import friendly
from soundgan.report import plots
from soundgan.settings import Config
from soundgan.training import checkpoints, distributed, objectives
from soundgan.training.checkpoints import find_checkpoint
from soundgan.training.run import Run

ROOT = Path(train.__file__).parent
SECONDS = 60  # that no start of two ranks here may need
pytestmark = pytest.mark.slow


# ---- two ranks -----------------------------------------------------------------------------------
# With the environment that torchrun gives them, but from a fork server that has imported the
# program already: they start in no time. The last test starts torchrun itself.


def start(work: Callable, *arguments: object, folder: Path, world: int = 2) -> list[BaseProcess]:
    """Start `work(*arguments)` on `world` ranks; what they print lands in `folder`/<rank>.txt."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "torch._dynamo"])  # which an optimiser imports
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_be, args=(rank, world, port, folder, work, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def end(processes: list[BaseProcess]) -> list[int]:
    """Wait for all; returns their exit codes. None of them may hang."""
    for process in processes:
        process.join(SECONDS)
    hang = [number for number, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    assert not hang, f"ranks {hang} hang"
    return [process.exitcode for process in processes]


def in_two(work: Callable, *arguments: object, folder: Path) -> list[int]:
    return end(start(work, *arguments, folder=folder))


def _be(rank: int, world: int, port: int, folder: Path, work: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    with open(folder / f"{rank}.txt", "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.LINGER = 0.2
    no_pictures(setattr)
    with friendly() as outcome, distributed.group():
        work(*arguments)
    sys.exit(outcome.code)


def no_pictures(set_attribute: Callable) -> None:
    """They are tested elsewhere, and would take most of the time here."""
    for name in ("draw_set", "draw_curves"):
        set_attribute(plots, name, lambda *_: None)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    no_pictures(monkeypatch.setattr)


def said(folder: Path) -> list[str]:
    return [(folder / f"{rank}.txt").read_text() for rank in (0, 1)]


def trains(cfg: Config, stop_at: int = 0, stopped_rank: int = 0) -> None:
    """Train, as the command does; with `stop_at`, one rank gets a SIGTERM within that step."""
    cfg = distributed.on_first(distributed.checked, cfg)
    step, taken = train.full_step, [0]

    def full_step(*arguments):
        taken[0] += 1
        if taken[0] == stop_at and distributed.rank() == stopped_rank:
            signal.raise_signal(signal.SIGTERM)
        return step(*arguments)

    train.full_step = full_step
    train.train(cfg)


def log_without_seconds(cfg: Config) -> list[list[str]]:
    with open(cfg.run_dir / "log.csv", newline="") as file:
        return [row[:2] + row[3:] for row in csv.reader(file)]


def assert_same(cfg: Config, other: Config) -> None:
    """Two runs left the same: weights, optimisers, random states, log, sounds."""
    a, b = (torch.load(c.run_dir / "checkpoints" / "last.pt") for c in (cfg, other))
    for state in (a, b):
        del state["seconds"], state["log"], state["config"], state["data"]  # of files written anew
        del state["pace"]  # what samples and scores have cost
    assert _same(a, b)
    assert log_without_seconds(cfg) == log_without_seconds(other)
    wavs = sorted(p.relative_to(cfg.run_dir) for p in cfg.run_dir.rglob("*.wav"))
    assert wavs == sorted(p.relative_to(other.run_dir) for p in other.run_dir.rglob("*.wav"))
    for path in wavs:
        assert (cfg.run_dir / path).read_bytes() == (other.run_dir / path).read_bytes()


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    return a == b


@pytest.fixture
def small(small: Config) -> Config:
    """Two epochs less than elsewhere: what is tested happens in the second one."""
    return change(small, {"epochs": 2})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run on two ranks that is never stopped."""
    folder = tmp_path_factory.mktemp("two")
    cfg = shrunk(config.RECIPES["sn-wgan-gp"], tones(folder / "data"), folder)
    cfg = change(cfg, {"epochs": 2})
    assert in_two(trains, cfg, folder=folder) == [0, 0]
    return cfg


# ---- the same weights, and the joined batch's gradient -------------------------------------------


def _keep_ranks(cfg: Config, folder: Path) -> None:
    latents = []

    def drawn(run, count):
        latents.append(draw(run, count))
        return latents[-1]

    draw, Run.latents = Run.latents, drawn
    run = train.train(cfg)
    kept = {"generator": weights(run.generator), "critic": weights(run.critic)}
    torch.save(kept | {"latents": torch.cat(latents)}, folder / f"{distributed.rank()}.pt")


def test_all_ranks_have_the_same_weights_and_noise_of_their_own(small, tmp_path):
    """GroupNorm and spectral norm: parameters and buffers, bit for bit."""
    small = change(small, {"epochs": 3})
    assert in_two(_keep_ranks, small, tmp_path, folder=tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for network in ("generator", "critic"):
        assert torch.equal(first[network], second[network])
    # 3 epochs of 4 steps of 4 updates, with half a batch each.
    assert first["latents"].shape == second["latents"].shape == (3 * 4 * 4 * 2, 8)
    assert not (first["latents"][:, None] == second["latents"]).all(2).any()
    state = torch.load(small.run_dir / "checkpoints" / "last.pt")
    assert state["step"] == 12
    assert len(state["random_others"]) == 1
    assert not torch.equal(state["random"]["torch"], state["random_others"][0]["torch"])
    alone, other = said(tmp_path)
    assert "Finished after epoch 3" in alone
    assert other == ""  # rank 0 alone speaks


def _gradients(cfg: Config) -> dict[str, torch.Tensor]:
    """Gradients and metrics of a critic and of a generator update on a rank's part of 4 clips."""
    draw = torch.Generator().manual_seed(1)
    real = torch.randn(4, *cfg.shape, generator=draw)
    z = torch.randn(4, cfg.latent_dim, generator=draw)
    places = torch.rand(4, 1, 1, 1, generator=draw)
    labels = torch.tensor([0, 1, 2, 0])
    real, z, places, labels = map(distributed.own_part, (real, z, places, labels))
    rand, torch.rand = torch.rand, lambda *_, **__: places  # between real and generated clips
    found = {}
    for name, step in (("critic", train.critic_step), ("generator", train.generator_step)):
        run = Run.start(cfg, ["high", "low", "mid"], torch.device("cpu"))
        run.latents = lambda count: z
        found[f"{name} metrics"] = distributed.mean(step(run, real, labels))
        found[name] = torch.cat([p.grad.flatten() for p in getattr(run, name).parameters()])
    torch.rand = rand
    return found


def _keep_gradients(cfg: Config, folder: Path) -> None:
    torch.save(_gradients(cfg), folder / f"{distributed.rank()}.pt")


def test_the_averaged_gradient_is_that_of_the_joined_batch(small, tmp_path):
    """Same latents, same places of the penalty; sums in another order: to 1e-6 of the largest."""
    assert in_two(_keep_gradients, small, tmp_path, folder=tmp_path) == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    joined = _gradients(small)
    for name, found in joined.items():
        assert torch.equal(parts[0][name], parts[1][name])
        atol = 1e-6 * found.abs().max().item()
        torch.testing.assert_close(parts[0][name], found, rtol=0, atol=atol)


def test_the_data_of_an_epoch_does_not_depend_on_the_number_of_ranks(monkeypatch):
    order = torch.arange(12).view(2, 6)
    monkeypatch.setattr(distributed, "world", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(distributed.own_part(order[1]))
    assert [part.tolist() for part in parts] == [[6, 7], [8, 9], [10, 11]]


def _overflow_on_rank_1(cfg: Config, folder: Path) -> None:
    run = Run.start(cfg, ["a"], torch.device("cpu"))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    before = weights(run.critic)
    kind, bad = objectives.Wasserstein, torch.tensor(float("inf"))
    loss = kind.critic_loss
    kind.critic_loss = lambda *a: loss(*a) * (bad if distributed.rank() else 1)
    real, labels = torch.randn(2, *cfg.shape), torch.zeros(2, dtype=torch.long)
    train.critic_step(run, real, labels)
    scale, skipped = run.scaler.get_scale(), weights(run.critic)
    kind.critic_loss = loss
    train.critic_step(run, real, labels)
    kept = {"before": before, "skipped": skipped, "after": weights(run.critic), "scale": scale}
    torch.save(kept, folder / f"{distributed.rank()}.pt")


def test_an_overflow_on_one_rank_is_left_out_by_all(small, tmp_path):
    cfg = change(small, {"critic.spectral_norm": False})  # its buffers change without an update
    assert in_two(_overflow_on_rank_1, cfg, tmp_path, folder=tmp_path) == [0, 0]
    for rank in (0, 1):
        kept = torch.load(tmp_path / f"{rank}.pt")
        assert kept["scale"] == 128.0
        assert torch.equal(kept["before"], kept["skipped"])
        assert not torch.equal(kept["before"], kept["after"])


def _one_of_each(data: Path, outputs: Path) -> None:
    for cfg in config.RECIPES.values():
        run = train.train(change(shrunk(cfg, data, outputs), {"epochs": 1, "batch_size": 8}))
        assert run.step >= 2
        for network in (run.generator, run.critic):  # the parameters: BatchNorm's buffers differ
            own = torch.cat([p.detach().flatten() for p in network.parameters()])
            assert torch.equal(own, distributed.from_first(own)), cfg.recipe


def test_every_recipe_trains_on_two_ranks(sounds, tmp_path):
    assert in_two(_one_of_each, sounds, tmp_path, folder=tmp_path) == [0, 0], said(tmp_path)
    for name in config.RECIPES:
        assert (tmp_path / name / "samples" / "epoch_0001").is_dir()


# ---- the same run --------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "rank"), [(6, 0), (3, 1)])
def test_a_run_of_two_stopped_and_continued_is_the_one_never_stopped(
    two, small, step, rank, tmp_path
):
    """The signal reaches one rank only: both stop after the step in which it came."""
    assert in_two(trains, small, step, rank, folder=tmp_path) == [75, 75]
    alone, other = said(tmp_path)
    assert f"Interrupted: SIGTERM after step {step}: saved" in alone
    assert other == ""
    assert find_checkpoint(small.run_dir).state["step"] == step
    assert in_two(trains, small, folder=tmp_path) == [0, 0]
    assert_same(small, two)


def test_rank_0_may_write_in_the_background(two, small, tmp_path):
    assert in_two(trains, change(small, {"background": "on"}), folder=tmp_path) == [0, 0]
    assert_same(small, two)


def test_two_ranks_start_from_the_networks_of_another_run(small, tmp_path):
    first = train.train(change(small, {"epochs": 1}))
    slow = {"optimiser.generator_lr": 1e-12, "optimiser.critic_lr": 1e-12}
    new = {"run_name": "new", "epochs": 1, "init_from": str(small.run_dir)}
    new = change(small, slow | new)
    assert in_two(trains, new, folder=tmp_path) == [0, 0]
    state = find_checkpoint(new.run_dir).state
    for name in ("generator", "critic"):
        for key, value in getattr(first, name).named_parameters():
            torch.testing.assert_close(state[name][key], value.detach(), rtol=0, atol=1e-9)
    text, other = said(tmp_path)
    assert text.count("Starts from") == 1
    assert other == ""


def test_one_rank_of_torchrun_is_a_plain_run(small, tmp_path):
    plain = change(small, {"output_dir": str(tmp_path / "plain")})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks have: another number sums in another order
    train.train(plain)
    torch.set_num_threads(threads)
    assert end(start(trains, small, folder=tmp_path, world=1)) == [0]
    assert_same(small, plain)


def test_a_run_may_change_its_number_of_ranks(small, tmp_path):
    """2 ranks, then a single process, then 2 again."""
    small = change(small, {"epochs": 3})
    assert in_two(trains, change(small, {"epochs": 1}), folder=tmp_path) == [0, 0]
    train.train(change(small, {"epochs": 2}))
    assert find_checkpoint(small.run_dir).state["random_others"] == []
    assert in_two(trains, small, folder=tmp_path) == [0, 0]
    rows = log_without_seconds(small)[1:]
    assert [row[:2] for row in rows] == [["1", "4"], ["2", "8"], ["3", "12"]]
    assert all(abs(float(value)) < 1e3 for row in rows for value in row)
    assert len(find_checkpoint(small.run_dir).state["random_others"]) == 1


def test_a_checkpoint_of_before_there_were_ranks_is_continued(small, tmp_path):
    train.train(change(small, {"epochs": 1}))
    state = find_checkpoint(small.run_dir).state
    del state["random_others"]
    checkpoints.save_checkpoint(small.run_dir, state)
    assert in_two(trains, small, folder=tmp_path) == [0, 0]


def test_noise_has_a_seed_of_its_own_for_each_rank_and_step(monkeypatch):
    seeds = set()
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        seeds |= {distributed.noise_seed(seed, step) for seed in (0, 42) for step in (0, 1, 10**6)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 5}, "batch_size = 5 does not divide among 2 ranks"),
        ({"data_dir": "typo"}, "data_dir = 'typo': there is no such folder"),
        ({"batch_size": 64}, "18 usable clips"),
        ({"device": "cuda:1"}, "each of several ranks has a GPU of its own"),
        ({"device": "tpu"}, "each of several ranks has a GPU of its own"),
        ({"dry_run": True}, "run it without torchrun"),
        ({"seed": 7}, "was trained with other values: seed 42 -> 7"),
    ],
)
def test_what_a_person_can_mend_is_said_once_and_ends_all(small, changed, message, tmp_path):
    if "seed" in changed:  # found by every rank, when it restores the checkpoint
        train.train(change(small, {"epochs": 1}))
    began = time.perf_counter()
    assert in_two(trains, change(small, changed), folder=tmp_path) == [2, 2]
    assert time.perf_counter() - began < 20
    alone, other = said(tmp_path)
    assert alone.count("Error: ") == 1
    assert message in alone
    assert "Traceback" not in alone
    assert other == ""


def _cannot_write(cfg: Config) -> None:
    def full(*_, **__):
        raise OSError(28, "No space left on device", "outputs/x")

    checkpoints.save_checkpoint = full
    train.train(cfg)


def test_a_full_disk_after_an_epoch_ends_all(small, tmp_path):
    assert in_two(_cannot_write, small, folder=tmp_path) == [2, 2]
    alone, other = said(tmp_path)
    assert "No space left on device" in alone
    assert other == ""


def _diverges_on_rank_1(cfg: Config) -> None:
    penalty = objectives.gradient_penalty
    objectives.gradient_penalty = lambda *a: (
        penalty(*a) * (float("nan") if distributed.rank() else 1)
    )
    train.train(cfg)


def test_what_diverges_on_one_rank_ends_all_with_one_reason(small, tmp_path):
    assert in_two(_diverges_on_rank_1, small, folder=tmp_path) == [3, 3]
    alone, other = said(tmp_path)
    assert re.search(r"Diverged: critic_loss.*gradient_penalty.* became NaN or Inf", alone)
    assert other == ""


def _cannot_see_the_cache(cfg: Config) -> None:
    if distributed.rank():
        cfg = change(cfg, {"output_dir": cfg.output_dir + "_elsewhere"})
    train.train(cfg)


def test_a_cache_that_another_machine_cannot_see_is_said(small, tmp_path):
    assert in_two(_cannot_see_the_cache, small, folder=tmp_path) == [1, 2]
    alone, other = said(tmp_path)
    assert "Error: on rank 1 of 2: The decoded sounds" in other
    assert "on a file system that they share" in other
    assert "Error: another rank has ended" in alone


def _dies_in_step_6(cfg: Config, rank: int) -> None:
    step = train.full_step

    def full_step(run, *batch):
        if run.step == 5 and distributed.rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(run, *batch)

    train.full_step = full_step
    train.train(cfg)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_ends_all_and_the_run_continues(two, small, rank, tmp_path):
    codes = in_two(_dies_in_step_6, small, rank, folder=tmp_path)
    assert codes == ([-9, 1] if rank == 0 else [1, -9])
    assert ("another rank has ended" in said(tmp_path)[0]) == (rank == 1)
    assert in_two(trains, small, folder=tmp_path) == [0, 0]
    assert_same(small, two)


# ---- torchrun itself -----------------------------------------------------------------------------


def torchrun(cfg: Config) -> subprocess.Popen:
    """`torchrun --nproc-per-node 2 train.py ...` with the constants of `cfg`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(ROOT / "train.py"), *flags(cfg)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_torchrun_hands_on_a_signal_and_the_run_is_saved(small, tmp_path):
    cfg = change(small, {"epochs": 10_000, "sample_every": 10_000})
    process = torchrun(cfg)
    checkpoint = cfg.run_dir / "checkpoints" / "last.pt"
    until = time.monotonic() + SECONDS
    while not checkpoint.exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=SECONDS)
    (step,) = re.findall(r"Interrupted: SIGTERM after step (\d+): saved", text)
    state = find_checkpoint(cfg.run_dir).state
    assert state["step"] == int(step)
    assert len(state["random_others"]) == 1
