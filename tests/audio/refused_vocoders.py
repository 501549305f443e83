"""What must hold of a folder that is no vocoder: it is refused in one line, and another plays."""

from __future__ import annotations

import pytest
import torch

from soundgan import audio
from soundgan.settings import Config


def refuses(cfg: Config, *parts: str) -> None:
    """The vocoder of `cfg` is refused, and said to be, with all these parts of a sentence."""
    with pytest.raises(audio.BadVocoder) as error:
        audio.open_vocoder(cfg, torch.device("cpu"))
    vocoder, note = audio.load_vocoder(cfg, torch.device("cpu"))
    assert isinstance(vocoder, audio.GriffinLim)
    for part in parts:
        assert part in str(error.value)
        assert part in note
    assert "\n" not in note
