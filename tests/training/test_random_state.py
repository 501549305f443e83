"""Random states come back as they were."""

from __future__ import annotations

import random

import numpy as np
import torch

from soundgan.training.checkpoints import find_checkpoint, save_checkpoint
from soundgan.training.random_state import random_state, seed_everything, set_random_state


def drawn() -> list[float]:
    return [*torch.rand(3).tolist(), *np.random.rand(3), random.random()]


def test_random_states_come_back_from_a_checkpoint(tmp_path):
    device = torch.device("cpu")
    seed_everything(3)
    save_checkpoint(tmp_path, {"random": random_state(device)})
    before = drawn()
    set_random_state(find_checkpoint(tmp_path).state["random"], device)
    assert drawn() == before


def test_a_seed_beyond_numpys_is_taken():
    seed_everything(2**32 + 3)
    first = drawn()
    seed_everything(2**32 + 3)
    assert drawn() == first
    seed_everything(3)
    assert drawn() != first
