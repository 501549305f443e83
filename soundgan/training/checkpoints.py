"""Checkpoints of a run: `checkpoints/last.pt`, and the one before it for the case of damage.

A checkpoint is a table of plain values and tensors. Its bytes have a checksum (`tensor_files`);
what it says is checked here before a network or an optimiser is filled with it, since a file may be
whole and yet be another program's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from soundgan import files, tensor_files
from soundgan.console import shell_path
from soundgan.errors import UserError
from soundgan.training.random_state import set_random_state


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, and where that was read."""

    state: dict
    path: Path
    damaged: list[Path] = field(default_factory=list)  # newer ones, which cannot be used


def save_checkpoint(run_dir: Path, state: dict) -> None:
    """Write `checkpoints/last.pt`; what was last becomes `previous.pt`.

    `state`: tensors and plain values, which `torch.load(weights_only=True)` knows. Raises OSError
    where it cannot be written; the checkpoints that there are stay whole.
    """
    tensor_files.write(run_dir / "checkpoints" / "last.pt", state, keep_as="previous.pt")


def is_saved(run_dir: Path) -> bool:
    """Whether a run has a checkpoint, whole or not."""
    names = ("last.pt", "previous.pt")
    return any(os.path.lexists(run_dir / "checkpoints" / name) for name in names)


def find_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None where there is none.

    A damaged one is reported, and the one before it is taken. Raises UserError when there are
    checkpoints but none is whole; OSError when one cannot be read. Writes and renames nothing.
    """
    folder = run_dir / "checkpoints"
    damaged: list[Path] = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        try:
            return Checkpoint(_read(path), path, damaged)
        except FileNotFoundError:
            continue
        except tensor_files.Damaged as reason:
            print(f"{path} is damaged ({reason}).")
            damaged.append(path)
    if damaged:
        offer = offer_of_best(run_dir)
        raise UserError(
            f"No whole checkpoint in {folder}: copy one back from a backup, or start another run "
            f"with --run-name NAME.{offer}"
        )
    return None


def _read(path: Path) -> dict:
    state = tensor_files.read(path)
    if not isinstance(state, dict):
        raise tensor_files.Damaged("it holds no table of values")
    return state


def put_damaged_aside(checkpoint: Checkpoint) -> None:
    """Rename the damaged files: left as last.pt, the next save would push one over the good one."""
    for path in checkpoint.damaged:
        aside = path.with_name(f"damaged-{path.name}")
        if os.path.lexists(aside):
            files.set_aside(aside)
        os.replace(path, aside)


# ---- the best one --------------------------------------------------------------------------------


def offer_of_best(run_dir: Path) -> str:
    """A sentence that says how to go on from `checkpoints/best.pt`, where that is whole, or ""."""
    best, last = (run_dir / "checkpoints" / name for name in ("best.pt", "last.pt"))
    if (state := read_best(run_dir)) is None:
        return ""
    epoch = state.get("epoch")
    where = f"cp {shell_path(best)} {shell_path(last)}"
    return f" Or go on from the best epoch ({epoch}): {where}, then the same command again."


def read_best(run_dir: Path) -> dict | None:
    """The content of a whole `checkpoints/best.pt`, or None where there is none."""
    try:
        return _read(run_dir / "checkpoints" / "best.pt")
    except (tensor_files.Damaged, OSError):
        return None


def is_best(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is that of the best epoch, as where somebody put it in its place."""
    best = checkpoint.path.with_name("best.pt")
    try:
        same_size = best.stat().st_size == checkpoint.path.stat().st_size
        return same_size and files.digest_of_file(best) == files.digest_of_file(checkpoint.path)
    except OSError:
        return False


# ---- what it holds -------------------------------------------------------------------------------


def refuse_changes(run_dir: Path, changes: list[str]) -> None:
    """Raise UserError where constants of a checkpoint's training (`name old -> new`) differ."""
    if changes:
        raise UserError(
            f"{run_dir} was trained with other values: {'; '.join(changes)}. Continue it with the "
            "old ones, or start another run beside it with --run-name NAME."
        )


def refuse_misfit(run_dir: Path, reasons: Mapping[str, str]) -> None:
    """Raise UserError where an entry of a checkpoint, by its name, has a reason not to be used."""
    for name, reason in reasons.items():
        if reason:
            raise UserError(
                f"The checkpoint in {run_dir / 'checkpoints'} is none that this program wrote for "
                f"this run, or was changed since ({name}: {reason}): copy one back from a backup, "
                "or start another run with --run-name NAME."
            )


def restore_random(run_dir: Path, state: object, device: torch.device) -> None:
    """Go on with the random states of a checkpoint; raises UserError where they are none."""
    reason = ""
    try:
        set_random_state(state, device)
    except (TypeError, KeyError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"it is no random state ({error})"
    refuse_misfit(run_dir, {"random": reason})


def misfit_of_values(state: Mapping, kinds: Mapping[str, type]) -> dict[str, str]:
    """Reasons why counters, texts and lists (names with their types) cannot be used, or ""."""
    return {name: _misfit_of_value(state[name], kind) for name, kind in kinds.items()}


def _misfit_of_value(value: object, kind: type) -> str:
    if kind in (int, float):
        number = isinstance(value, (int, float) if kind is float else int)
        fits = number and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        return "" if fits else "it is no number from 0 up"
    return "" if isinstance(value, kind) else f"it is no {kind.__name__}"


def misfit_of_rows(rows: object) -> str:
    """Why the rows of `held_out.csv` (file, clip, source) that were saved cannot be used, or ""."""
    kinds = [str, int, str]
    fits = rows is None or (
        isinstance(rows, list)
        and all(isinstance(row, (list, tuple)) and list(map(type, row)) == kinds for row in rows)
    )
    return "" if fits else "they are no rows of file, clip and source"


def misfit_of_texts(value: object) -> str:
    """Why a list of texts cannot be used, or ""."""
    fits = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return "" if fits else "it is no list of texts"


def misfit_of_pace(saved: object) -> str:
    """Why what a checkpoint holds of the pace of samples and scores (`report/pace.py`) cannot be
    used, or ""; None: an older version's."""
    if saved is None:
        return ""
    names = ("costs", "last", "at")
    if not isinstance(saved, Mapping) or {"due", *names} - saved.keys():
        return "it is no table"
    if reason := misfit_of_texts(saved["due"]):
        return f"due: {reason}"
    for name in names:
        own = saved[name]
        if not isinstance(own, Mapping) or any(_misfit_of_value(v, float) for v in own.values()):
            return f"{name}: it is no table of numbers from 0 up"
    return ""


def misfit_of_tensors(own: Mapping[str, Tensor], saved: object) -> str:
    """Why a state dict cannot fill a network whose state dict is `own`, or ""."""
    if not isinstance(saved, Mapping):
        return "it is no table of tensors"
    if own.keys() != saved.keys():
        other = sorted(map(str, own.keys() ^ saved.keys()))
        return f"it is of another network ({other[0]})"
    for name, value in saved.items():
        if reason := misfit_of_tensor(own[name], value):
            return f"{name} {reason}"
    return ""


def misfit_of_tensor(own: Tensor, value: object) -> str:
    """Why a tensor cannot take the place of `own`, or ""."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return "is no tensor"
    if value.shape != own.shape:
        return f"has the shape {list(value.shape)}, not {list(own.shape)}"
    if value.dtype != own.dtype:
        return f"has values of {value.dtype}, not {own.dtype}"
    if value.is_floating_point() and not value.isfinite().all():
        return "holds NaN or Inf"
    return ""


def misfit_of_optimiser(own: torch.optim.Optimizer, saved: object) -> str:
    """Why an optimiser's state dict cannot be that of `own`, or ""."""
    if not isinstance(saved, Mapping) or {"state", "param_groups"} - saved.keys():
        return "it is no state of an optimiser"
    moments, groups = saved["state"], saved["param_groups"]
    weights = [weight for group in own.param_groups for weight in group["params"]]
    if not _same_groups(own.state_dict()["param_groups"], groups):
        return "its groups are those of another optimiser"
    if not isinstance(moments, Mapping) or any(n not in range(len(weights)) for n in moments):
        return "its moments are those of another network"
    for number, values in moments.items():
        if not isinstance(values, Mapping):
            return "its moments are no tables"
        for name, value in values.items():
            like = weights[number]
            if isinstance(value, Tensor) and not value.dim():  # a count of steps
                like = torch.empty((), dtype=value.dtype)
            if reason := misfit_of_tensor(like, value):
                return f"{name} of weight {number} {reason}"
    return ""


def _same_groups(own: Sequence[Mapping], saved: object) -> bool:
    """Whether groups of an optimiser have the same weights, and constants of the same types."""
    if not isinstance(saved, list) or len(saved) != len(own):
        return False
    for ours, theirs in zip(own, saved):
        if not isinstance(theirs, Mapping) or theirs.get("params") != ours["params"]:
            return False
        for name in ours.keys() & theirs.keys():
            if isinstance(ours[name], float) and not isinstance(theirs[name], (int, float)):
                return False
    return True
