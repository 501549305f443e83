"""Vocoder trainings of a few steps on the tones of the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import train_vocoder
from soundgan.vocoder_training.settings import Common


def tiny(kind: str, sounds: Path, folder: Path, **own: Any) -> Common:
    """The usual constants of a kind, but for few steps on short segments, and those in `own`."""
    return replace(
        train_vocoder.usual(kind),
        data_dir=str(sounds),
        output_dir=str(folder / "outputs"),
        device="cpu",
        steps=6,
        save_every=4,
        sample_every=4,
        batch_size=4,
        segment=2048,
        **own,
    )
