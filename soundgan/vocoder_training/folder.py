"""A run's folder is itself a vocoder: hyperparams.yaml, which never changes, and generator.ckpt,
which is replaced as a whole."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from soundgan import files, run_folder
from soundgan.audio import BadVocoder, load_hifigan
from soundgan.audio.vocoders import VOCODER_REVISIONS
from soundgan.config_io import change
from soundgan.dataset import Clips, Split, splitting
from soundgan.errors import UserError
from soundgan.settings import Config
from soundgan.vocoder_training.networks import generator_arguments
from soundgan.vocoder_training.run import Run
from soundgan.vocoder_training.settings import Options, spectrograms_of, to_dict


def hyperparams(options: Options) -> str:
    """The `hyperparams.yaml` from which SpeechBrain builds the generator and fills it."""
    lines = ["generator: !new:speechbrain.lobes.models.HifiGAN.HifiganGenerator"]
    arguments = generator_arguments(options)
    lines += [f"    {name}: {json.dumps(value)}" for name, value in arguments.items()]
    lines += ["modules:", "    generator: !ref <generator>"]
    lines += ["pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer"]
    lines += ["    loadables:", "        generator: !ref <generator>"]
    return "\n".join(lines) + "\n"


def prepare(run: Run, clips: Clips, split: Split) -> None:
    """Write what never changes."""
    files.write_bytes(run.run_dir / "hyperparams.yaml", hyperparams(run.options).encode())
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
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    path, content = run.run_dir / "generator.ckpt", buffer.getvalue()
    with suppress(OSError):  # there is none yet
        if files.read_bytes(path) == content:
            return
    files.write_bytes(path, content)


def load_source(source: str, recipe: Config, generator: nn.Module) -> None:
    """Fill a generator with the weights of `--from`; raises UserError where that cannot be."""
    cfg = change(spectrograms_of(recipe), {"vocoder": source})
    try:
        found = load_hifigan(cfg, torch.device("cpu"))
    except BadVocoder as reason:
        raise UserError(
            f"--from {source} cannot be used: {reason}. Name a folder that holds hyperparams.yaml "
            f"and generator.ckpt, or one of {', '.join(VOCODER_REVISIONS)} where there is "
            "a network; without --from, training starts from scratch."
        ) from reason
    try:
        generator.load_state_dict(found.generator.state_dict())
    except RuntimeError as error:
        first = [line.strip() for line in str(error).splitlines()[1:2]] or [str(error)]
        raise UserError(
            f"--from {source}: its generator has other sizes than this run's constants "
            f"({first[0][:150]}): give those it was trained with (--channels, "
            "--upsample-factors, --upsample-kernels, --resblock-kernels, --resblock-dilations)."
        ) from error
