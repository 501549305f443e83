"""The log, the sounds and the pictures of a run as TensorBoard events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib.image
import soundfile
import torch

from soundgan.errors import UserError
from soundgan.files import DAY, naming


class Events:
    """TensorBoard events in `folder`; a run continued after `epoch` hides what it does again.

    Raises UserError where TensorBoard is not installed; every method, OSError that names a file.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "tensorboard = True, but TensorBoard is not installed: pip install tensorboard, or "
                "leave --tensorboard out."
            ) from error
        self.folder = folder
        with naming(folder):
            # It is flushed here: what fails in its own thread would end in a traceback.
            self.writer = SummaryWriter(folder, purge_step=epoch + 1, flush_secs=DAY)

    def scalars(self, group: str, row: Mapping[str, float]) -> None:
        """The finite values of a log's row, as `<group>/<column>` at its epoch."""
        with naming(self.folder):
            for name, value in row.items():
                if name != "epoch" and math.isfinite(value):
                    self.writer.add_scalar(f"{group}/{name}", value, row["epoch"])
            self.writer.flush()

    def sounds(self, folder: Path, epoch: int) -> None:
        """The WAVs and PNGs of one set of samples."""
        for path in sorted(folder.glob("*.wav")):
            wave, rate = soundfile.read(path, dtype="float32")
            picture = matplotlib.image.imread(path.with_suffix(".png"))[..., :3]
            with naming(self.folder):
                self.writer.add_audio(path.stem, torch.from_numpy(wave)[None], epoch, rate)
                self.writer.add_image(path.stem, picture, epoch, dataformats="HWC")
        with naming(self.folder):
            self.writer.flush()
