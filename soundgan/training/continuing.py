"""What a run that begins, or goes on, finds in its folder, and what becomes of that.

Nothing is changed there before the last check that can refuse the run, and what the run will not
write again just as it was is renamed or copied, never deleted.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from soundgan import dataset, files, run_folder
from soundgan.console import shell_path
from soundgan.errors import UserError
from soundgan.settings import Config
from soundgan.training import checkpoints
from soundgan.training.checkpoints import Checkpoint
from soundgan.training.log import read_log
from soundgan.training.run import refuse_other_constants

OF_DATA = ("data_dir", "holdout_dir")  # what a continued run takes from the folder of the run


def refuse_folder(run_dir: Path, again: str) -> None:
    """Raise UserError where no run can begin or go on in a folder; nothing is written there.

    `again`: the option that begins a run with the networks of another.
    """
    run_folder.refuse_foreign(run_dir)
    if checkpoints.is_saved(run_dir):
        return
    if offer := checkpoints.offer_of_best(run_dir):
        raise UserError(
            f"{run_dir} has no checkpoint to go on from but best.pt: nothing there is touched. "
            f"Start another run beside it with --run-name NAME.{offer}"
        )
    run_folder.refuse_weights(run_dir, f"{again} {shell_path(run_dir)}")


def find_checkpoint(cfg: Config) -> Checkpoint | None:
    """What a run goes on from, None where it is a fresh one; raises UserError where the constants
    are not those that it was trained with, too."""
    kept = checkpoints.find_checkpoint(cfg.run_dir)
    if kept:
        refuse_other_constants(cfg, kept.state)
    return kept


def own_data(run_dir: Path, usual: str, named: Collection[str]) -> tuple[dict[str, str], bool]:
    """`data_dir` and `holdout_dir` that the run in this folder has, without those that are `named`;
    and whether no run has begun there.

    A relative `data_dir` that is not here is taken from where it was; one that is not `usual` is
    said. Raises UserError where what says it is damaged.
    """
    wanted = [name for name in OF_DATA if name not in named]
    if not wanted:
        return {}, False
    try:
        constants, root = run_folder.constants_of(run_dir)
    except UserError:
        if "data_dir" in wanted:
            raise
        constants, root = {}, ""
    if not constants and (kept := checkpoints.find_checkpoint(run_dir)):
        constants = kept.state.get("config") or kept.state.get("options")
    if not isinstance(constants, dict) or not constants:
        return {}, not checkpoints.is_saved(run_dir)
    own = {k: constants[k] for k in wanted if isinstance(constants.get(k), str)}
    if "data_dir" in own:
        own["data_dir"] = run_folder.sounds_elsewhere(own["data_dir"], root) or own["data_dir"]
        if own["data_dir"] != usual:
            print(
                f"The sounds are those of the run: {own['data_dir']} (--data-dir names others).",
                flush=True,
            )
    return own, False


def prepare_folder(
    cfg: Config, clips: dataset.Clips, kept: Checkpoint | None, done: int, unit: str = "epoch"
) -> dataset.Split:
    """Split the clips; then bring the folder of a run to where its checkpoint stands.

    `done`: epochs (or another unit) that are finished. Raises UserError before it changes anything.
    """
    if kept is None and run_folder.is_used(cfg.run_dir, unit):
        dataset.split(cfg, clips, known=False, keep=False)
        run_folder.begin_anew(cfg.run_dir, unit)
    saved = kept.state.get("held_out") if kept else None
    before = (kept.state.get("held_out_digests") or []) if kept else []
    split = dataset.split(cfg, clips, known=kept is not None, saved=saved, digests=before)
    print(split.said, flush=True)
    if kept:
        make_room(cfg.run_dir, kept, done, unit)
    dataset.list_left_out(clips, cfg.run_dir)
    return split


def make_room(run_dir: Path, checkpoint: Checkpoint, number: int, unit: str) -> None:
    """Bring a run's folder to where its checkpoint stands: `number` epochs (or another unit).

    Sets of samples that come later are set aside until the run has made the same again; logs are
    copied where it goes on from an earlier checkpoint than was ever written.
    """
    copies = _copy_logs(run_dir, checkpoint, number, unit)
    checkpoints.put_damaged_aside(checkpoint)
    kept = run_folder.set_aside_after(run_dir, number, unit)
    if copies:
        print(f"The rows after {unit} {number} are kept in {', '.join(p.name for p in copies)}.")
    if kept:
        print(
            f"The sets of samples after {unit} {number} are kept in {kept.name} until they are "
            "made again.",
            flush=True,
        )


def _copy_logs(run_dir: Path, checkpoint: Checkpoint, number: int, unit: str) -> list[Path]:
    """Copies of the logs, whose later rows go, where more than a kill can have lost is lost.

    A kill loses what came after the newest checkpoint, which the same steps bring back. Signs of
    another loss: a newer checkpoint is damaged, the best one was put in its place, or there are
    scores of a later epoch, before which a checkpoint was written.
    """
    later = [
        name
        for name in ("log.csv", "scores.csv")
        if any(row[unit] > number for row in read_log(run_dir / name, math.inf, by=unit))
    ]
    if not later:
        return []
    lost = checkpoint.damaged or "scores.csv" in later or checkpoints.is_best(checkpoint)
    return [files.copy_aside(run_dir / name) for name in later] if lost else []
