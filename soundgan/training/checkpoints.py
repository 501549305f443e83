"""Checkpoints of a run: `checkpoints/last.pt`, and the one before it for the case of damage."""

from __future__ import annotations

import os
from pathlib import Path

from soundgan import tensor_files
from soundgan.errors import UserError


def save_checkpoint(run_dir: Path, state: dict) -> None:
    """Write `checkpoints/last.pt`; what was last becomes `previous.pt`.

    `state`: tensors and plain values, which `torch.load(weights_only=True)` knows. Raises OSError
    where it cannot be written; the checkpoints that there are stay whole.
    """
    tensor_files.write(run_dir / "checkpoints" / "last.pt", state, keep_as="previous.pt")


def refuse_changes(run_dir: Path, changes: list[str]) -> None:
    """Raise UserError where constants of a checkpoint's training (`name old -> new`) differ."""
    if changes:
        raise UserError(
            f"{run_dir} was trained with other values: {'; '.join(changes)}. Continue it with the "
            "old ones, or start another run beside it with --run-name NAME."
        )


def load_checkpoint(run_dir: Path, put_aside: bool = True) -> dict | None:
    """The newest whole checkpoint of a run, or None where there is none.

    A damaged one is reported and the one before it is taken; with `put_aside` the damaged one is
    then renamed (left as last.pt, the next save would push it over the good one). Raises UserError,
    and renames nothing, when there are checkpoints but none is whole; OSError when one cannot be
    read.
    """
    folder = run_dir / "checkpoints"
    damaged: list[Path] = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        try:
            state = tensor_files.read(path)
        except FileNotFoundError:
            continue
        except tensor_files.Damaged as reason:
            print(f"{path} is damaged ({reason}).")
            damaged.append(path)
            continue
        for broken in damaged if put_aside else ():
            os.replace(broken, broken.with_name(f"damaged-{broken.name}"))
        return state
    if damaged:
        raise UserError(
            f"No whole checkpoint in {folder}: copy one back from a backup, or delete {folder} to "
            "train this run from the beginning."
        )
    return None
