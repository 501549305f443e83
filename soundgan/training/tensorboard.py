"""The log, the sounds and the pictures of a run as TensorBoard events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib.image
import soundfile
import torch

from soundgan.errors import UserError


class Events:
    """TensorBoard events in `folder`; a run continued after `epoch` hides what it does again.

    Raises UserError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "tensorboard = True, but TensorBoard is not installed: pip install tensorboard, or "
                "leave --tensorboard out."
            ) from error
        self.writer = SummaryWriter(folder, purge_step=epoch + 1)

    def scalars(self, group: str, row: Mapping[str, float]) -> None:
        """The finite values of a log's row, as `<group>/<column>` at its epoch."""
        for name, value in row.items():
            if name != "epoch" and math.isfinite(value):
                self.writer.add_scalar(f"{group}/{name}", value, row["epoch"])
        self.writer.flush()

    def sounds(self, folder: Path, epoch: int) -> None:
        """The WAVs and PNGs of one set of samples."""
        for path in sorted(folder.glob("*.wav")):
            wave, rate = soundfile.read(path, dtype="float32")
            self.writer.add_audio(path.stem, torch.from_numpy(wave)[None], epoch, rate)
            picture = matplotlib.image.imread(path.with_suffix(".png"))[..., :3]
            self.writer.add_image(path.stem, picture, epoch, dataformats="HWC")
        self.writer.flush()
