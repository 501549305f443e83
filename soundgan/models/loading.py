"""Trained generators read from a run's folder."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from soundgan import config_io, models, run_folder
from soundgan.errors import UserError
from soundgan.settings import Config

WEIGHTS = {"last": "generator.safetensors", "best": "best.safetensors"}


def load_run(run_dir: Path, weights: str = "last") -> tuple[Config, list[str], nn.Module]:
    """Constants, classes and trained generator (evaluation mode, on the CPU) of a run.

    `weights`: a key of WEIGHTS. Raises UserError where a file lacks, is damaged, or does not fit
    the other.
    """
    content = run_folder.read_config(run_dir)
    cfg = config_io.from_dict(content["config"], str(run_dir / "config.json"))
    generator, _ = models.build(cfg, len(content["classes"]))
    path = run_dir / WEIGHTS[weights]
    try:
        generator.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        when = "the first samples" if weights == "last" else "the first scoring (score_every)"
        raise UserError(
            f"{run_dir} holds no {path.name} yet: it is written with {when}."
        ) from error
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or of another run ({error}).") from error
    return cfg, content["classes"], generator.eval()


def trained(run_dir: Path, weights: str = "last") -> dict:
    """What the weights of a run say of themselves: recipe, epoch and step."""
    with safe_open(run_dir / WEIGHTS[weights], "pt") as file:
        return json.loads(file.metadata()["trained"])
