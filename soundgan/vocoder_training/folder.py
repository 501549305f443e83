"""A run's folder is itself a vocoder: a file that never changes, such as hyperparams.yaml, and one
of weights, such as generator.ckpt, which is replaced as a whole."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from torch import nn

from soundgan import files, run_folder
from soundgan.audio import BadVocoder
from soundgan.dataset import Clips, Split, splitting
from soundgan.errors import UserError
from soundgan.vocoder_training.kinds import Kind
from soundgan.vocoder_training.run import Run
from soundgan.vocoder_training.settings import to_dict


def prepare(run: Run, clips: Clips, split: Split) -> None:
    """Write what never changes."""
    files.write_bytes(run.run_dir / run.kind.constant, run.kind.about())
    about = {
        "options": to_dict(run.options),
        "classes": clips.classes,
        "split": split.said,
        "held_out": splitting.summary(split.record),
        "data_root": str(Path(run.options.data_dir).absolute()),
    }
    about |= run_folder.program()
    files.write_bytes(run.run_dir / "vocoder.json", json.dumps(about, indent=2).encode())


def write_vocoder(run: Run) -> None:
    """Write the generator as it is now: what `--vocoder RUN_DIR` plays through."""
    weights = {k: v.detach().cpu() for k, v in run.generator.state_dict().items()}
    path, content = run.run_dir / run.kind.weights, run.kind.packed(weights)
    with suppress(OSError):  # there is none yet
        if files.read_bytes(path) == content:
            return
    files.write_bytes(path, content)


def load_source(source: str, kind: Kind, generator: nn.Module) -> None:
    """Fill a generator with the weights of `--from`; raises UserError where that cannot be."""
    try:
        found = kind.load(source)
    except BadVocoder as reason:
        raise UserError(
            f"--from {source} cannot be used: {reason}. {kind.advice}; without --from, training "
            "starts from scratch."
        ) from reason
    try:
        generator.load_state_dict(found.state_dict())
    except RuntimeError as error:
        first = [line.strip() for line in str(error).splitlines()[1:2]] or [str(error)]
        raise UserError(
            f"--from {source}: its generator has other sizes than this run's constants "
            f"({first[0][:150]}): give those it was trained with ({kind.sizes})."
        ) from error
