"""The log, the sounds and the pictures of a run as TensorBoard events."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch

from soundgan.errors import UserError
from soundgan.files import naming


@dataclass(frozen=True)
class _QuietHook:
    """What becomes of an exception in a thread: a full disk in the one that writes events is said
    by whoever adds the next one, as one sentence, and needs no traceback before."""

    before: Callable[[threading.ExceptHookArgs], object]

    def __call__(self, failed: threading.ExceptHookArgs) -> None:
        writes = type(failed.thread).__module__.startswith("tensorboard.")
        if not (writes and issubclass(failed.exc_type, OSError)):
            self.before(failed)


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
        if not isinstance(threading.excepthook, _QuietHook):
            threading.excepthook = _QuietHook(threading.excepthook)
        with naming(folder):
            self.writer = SummaryWriter(folder, purge_step=epoch + 1)

    def scalars(self, group: str, row: Mapping[str, float]) -> None:
        """The finite values of a log's row, as `<group>/<column>` at its epoch."""
        with naming(self.folder):
            for name, value in row.items():
                if name != "epoch" and math.isfinite(value):
                    self.writer.add_scalar(f"{group}/{name}", value, row["epoch"])
            self.writer.flush()

    def sounds(self, folder: Path, epoch: int) -> None:
        """The WAVs and PNGs of one set of samples."""
        import matplotlib.image  # for those who draw, only

        for path in sorted(folder.glob("*.wav")):
            wave, rate = soundfile.read(path, dtype="float32")
            picture = matplotlib.image.imread(path.with_suffix(".png"))[..., :3]
            with naming(self.folder):
                self.writer.add_audio(path.stem, torch.from_numpy(wave)[None], epoch, rate)
                self.writer.add_image(path.stem, picture, epoch, dataformats="HWC")
        with naming(self.folder):
            self.writer.flush()
