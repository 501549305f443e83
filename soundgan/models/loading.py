"""Files of a generator's weights (safetensors), and trained generators read from a run's folder.

What the weights say of themselves stands in their file's metadata, with a checksum of both. A file
that another program wrote has none: then every weight still must be there, of its shape and type,
and a number that a network can work with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from soundgan import config_io, files, run_folder
from soundgan.errors import UserError
from soundgan.settings import Config

WEIGHTS = {"last": "generator.safetensors", "best": "best.safetensors"}
TRAINED, DIGEST = "trained", "digest"  # the entry of the metadata, and the checksum within it
USUAL = ("recipe", "epoch", "step")  # what weights say of themselves
MOST_WEIGHT = 1e6  # no network that plays has a larger one
MOST_VARIANCE = 1e12  # but for BatchNorm's averages of squares
MOST_HEADER = 2**24  # bytes before the weights


# ---- files of weights ----------------------------------------------------------------------------


def packed(weights: Mapping[str, Tensor], about: Mapping[str, object]) -> bytes:
    """The content of a file of weights, which are contiguous and on the CPU."""
    said = dict(about) | {DIGEST: _digest(weights, about)}
    # One entry: safetensors writes several in an order of its own, and equal runs would differ.
    return to_safetensors(dict(weights), {TRAINED: json.dumps(said)})


def _digest(weights: Mapping[str, Tensor], about: Mapping[str, object]) -> str:
    return files.digest(to_safetensors(dict(weights)), json.dumps(dict(about)).encode())


def unpacked(content: bytes) -> tuple[dict[str, Tensor], dict]:
    """Weights, and what they say of themselves ({}: nothing); raises ValueError with the reason."""
    try:
        weights = from_safetensors(content)
        size = int.from_bytes(content[:8], "little")
        notes = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        if TRAINED not in notes and not any(DIGEST in text for text in notes.values()):
            return weights, {}  # another program's
        about = json.loads(notes[TRAINED])
        digest = about.pop(DIGEST, None)
        if digest is None and set(about) != set(USUAL):  # earlier versions wrote none
            raise ValueError("what it says of itself is damaged")
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in whatever way it likes
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if digest is not None and digest != _digest(weights, about):
        raise ValueError("a checksum differs")
    return weights, about


def read_weights(path: Path, network: nn.Module) -> tuple[dict[str, Tensor], dict]:
    """The weights of a file, which fit `network`, and what they say of themselves.

    Raises FileNotFoundError; UserError where it is damaged, or holds no weights of such a network.
    """
    expected = network.state_dict()
    size = sum(value.numel() * value.element_size() for value in expected.values())
    try:
        if not size <= path.stat().st_size <= size + MOST_HEADER:
            raise ValueError(f"it has {path.stat().st_size} bytes, and its network {size}")
        weights, about = unpacked(files.read_bytes(path))
        if reason := misfit(weights, expected):
            raise ValueError(reason)
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged or of another run ({reason}).") from error
    return weights, about


def misfit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Why weights cannot be those of a network whose state is `expected`; "" where they can."""
    if other := sorted(set(expected) ^ set(weights)):
        return f"{other[0]} is {'missing' if other[0] in expected else 'not of its network'}"
    for name, value in weights.items():
        like = expected[name]
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            there, needed = (f"{t.dtype} {tuple(t.shape)}" for t in (value, like))
            return f"{name} is {there}, where {needed} is needed"
        if not value.is_floating_point():
            continue
        variance = name.endswith("running_var")
        least, most = (0, MOST_VARIANCE) if variance else (-MOST_WEIGHT, MOST_WEIGHT)
        low, high = value.aminmax() if value.numel() else (0, 0)
        if not (least <= low and high <= most):  # NaN neither
            return f"{name} is not of numbers from {least:g} to {most:g}"
    return ""


# ---- a run ---------------------------------------------------------------------------------------


def load_run(run_dir: Path, weights: str = "last") -> tuple[Config, list[str], nn.Module]:
    """Constants, classes and trained generator (evaluation mode, on the CPU) of a run.

    `weights`: a key of WEIGHTS. Raises UserError where a file lacks, is damaged, or does not fit
    the other. Nothing in these files is executed, and nothing that they name is fetched.
    """
    content = run_folder.read_config(run_dir)
    cfg = config_io.from_dict(content["config"], str(run_dir / "config.json"))
    classes = content["classes"]
    if cfg.conditional != bool(classes):
        raise UserError(f"{run_dir / 'config.json'} is damaged: conditional, or its classes.")
    path = run_dir / WEIGHTS[weights]
    try:
        size = path.stat().st_size  # bytes, where a weight is four
    except FileNotFoundError as error:
        when = "the first samples" if weights == "last" else "the first scoring (score_every)"
        raise UserError(
            f"{run_dir} holds no {path.name} yet: it is written with {when}."
        ) from error
    if cfg.generator.size(cfg, len(classes)) > size:  # before memory is asked for
        raise UserError(f"{path} is damaged or of another run (it is too short for its network).")
    generator = cfg.generator.build(cfg, len(classes))
    generator.load_state_dict(read_weights(path, generator)[0])
    refuse_noise(generator.eval(), cfg, path)
    return cfg, classes, generator


@torch.no_grad()
def refuse_noise(generator: nn.Module, cfg: Config, path: Path) -> None:
    """Raise UserError where a generator in evaluation mode makes NaN or Inf."""
    source = torch.Generator().manual_seed(0)
    z = torch.randn(1, cfg.latent_dim, generator=source)
    if not generator(z, torch.zeros(1, dtype=torch.long)).isfinite().all():
        raise UserError(f"{path} is damaged: what its weights make is NaN or Inf.")


def trained(run_dir: Path, weights: str = "last") -> dict:
    """What the weights of a run say of themselves: recipe, epoch and step, 0 where they do not.

    Raises UserError where the file is damaged.
    """
    path = run_dir / WEIGHTS[weights]
    try:
        about = unpacked(files.read_bytes(path))[1]
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}).") from error
    return {"recipe": "", "epoch": 0, "step": 0} | about
