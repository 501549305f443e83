"""A vocoder's training that is stopped by a signal, as a user or a machine would."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from soundgan.errors import Interrupted
from soundgan.vocoder_training import training
from soundgan.vocoder_training.run import Run


@contextmanager
def stopped_after(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is trained within it is stopped during this step, and saved after it."""
    full_step = training.full_step

    def stopping(run: Run, x: torch.Tensor) -> torch.Tensor:
        if run.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return full_step(run, x)

    with monkeypatch.context() as patch:
        patch.setattr(training, "full_step", stopping)
        with pytest.raises(Interrupted, match=f"after step {step}"):
            yield
