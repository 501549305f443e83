"""What ranks on GPUs ask of PyTorch, where there is no GPU and no other rank."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.training import distributed
from soundgan.training.devices import pick_device

PATIENCE = timedelta(seconds=distributed.PATIENCE)


@pytest.fixture
def rank_1(monkeypatch):
    """This process is rank 1 of two; returns what is asked of `torch.distributed`."""
    asked = []

    def remember(name, result=None):
        def ask(*values, **words):
            asked.append((name, *(v for v in values if not torch.is_tensor(v)), words))
            return result

        monkeypatch.setattr(dist, name, ask)

    for name in ("init_process_group", "broadcast", "all_reduce", "destroy_process_group"):
        remember(name)
    remember("new_group", "the GPUs")
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "from_first", lambda value: value)
    monkeypatch.setattr(distributed, "_connected", {"cuda": None})
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    return asked


def test_each_rank_connects_its_own_gpu(rank_1, small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: rank_1.append(("set", device)))
    with distributed.group():
        device = pick_device(distributed.placed(change(small, {"device": "auto"})))
        distributed.connect(device)
    third = torch.device("cuda", 3)  # of this machine: LOCAL_RANK
    assert rank_1 == [
        ("init_process_group", "gloo", {"timeout": PATIENCE}),
        ("set", third),  # before NCCL takes memory there
        ("new_group", {"backend": "nccl", "timeout": PATIENCE, "device_id": third}),
        ("destroy_process_group", {}),
    ]
    assert distributed._connected == {"cuda": None}


def test_gradients_and_weights_go_the_way_of_their_device(rank_1):
    """On a GPU that NCCL connects, through its group; elsewhere through that of the messages."""

    class Value(torch.Tensor):
        device = torch.device("cuda:3")

    network = torch.nn.Linear(2, 1, bias=False)
    distributed.connect(torch.device("cuda:3"))
    rank_1.clear()
    distributed.mean(torch.ones(2))
    distributed.mean(torch.ones(2).as_subclass(Value))
    distributed.broadcast(network)
    assert rank_1 == [
        ("all_reduce", {"group": None}),
        ("all_reduce", {"group": "the GPUs"}),
        ("broadcast", {"src": 0, "group": None}),
    ]


@pytest.mark.parametrize("nccl", [False, True])
def test_ranks_on_the_cpu_leave_the_gpus_alone(nccl, rank_1, small, monkeypatch):
    """Also on a machine that has some, and fewer than ranks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: nccl)
    device = pick_device(distributed.placed(change(small, {"device": "cpu"})))
    distributed.connect(device)
    assert device.type == "cpu"
    assert rank_1 == []


def test_without_nccl_gpus_are_connected_by_gloo(rank_1, monkeypatch):
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    distributed.connect(torch.device("cuda:1"))
    assert rank_1 == []
    assert distributed._connected == {"cuda": None}


def test_a_rank_without_a_gpu_says_so_before_anything_is_connected(rank_1, small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"'cuda:3': PyTorch sees 2 CUDA devices"):
        pick_device(distributed.placed(change(small, {"device": "auto"})))
    assert rank_1 == []


def test_ranks_on_devices_of_two_kinds_are_refused(rank_1, monkeypatch):
    monkeypatch.setattr(distributed, "from_first", lambda value: "cpu")
    with pytest.raises(UserError, match="it would train on cuda, rank 0 on cpu"):
        distributed.connect(torch.device("cuda:1"))
    assert rank_1 == []
