"""`--init-from RUN`: a new run that starts from the networks of another.

What the other run learned of a class goes to the class of the same name; a class that it does not
know starts as in any new run. Which entries of the weights belong to classes is found from the
shapes that the networks take with one class more, so that it holds for every kind of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from soundgan import config_io, models
from soundgan.dataset import Split
from soundgan.errors import UserError
from soundgan.files import nfc
from soundgan.models.loading import WEIGHTS, load_run
from soundgan.settings import Config
from soundgan.training import checkpoints
from soundgan.training.run import Run

State = Mapping[str, Tensor]
Axes = dict[str, tuple[int, int]]  # by name of a weight: the axis of classes, where these begin
OF_NETWORKS = ("conditional", "sound", "generator", "critic", "objective")  # parts that shape them


class Misfit(Exception):
    """Why the weights of one network cannot be those of another."""


@dataclass(frozen=True)
class Source:
    """What is taken from another run; a critic or an average that it lacks is None."""

    folder: str
    said: str  # what of it, and of when
    cfg: Config
    classes: list[str]
    generator: State
    critic: State | None
    average: State | None
    data: str = ""  # fingerprint of the files that it was trained on; "": unknown
    held_out: list = field(default_factory=list)  # rows (file, clip, source) of its held_out.csv


# ---- reading -------------------------------------------------------------------------------------


def find_source(cfg: Config, kept: object) -> Source | None:
    """The run that a fresh one starts from, if `cfg` names one; a run with a checkpoint (`kept`)
    has networks of its own. Raises UserError."""
    return read_source(cfg.init_from) if cfg.init_from and kept is None else None


def read_source(folder: str) -> Source:
    """The networks of the run in `folder`, which is only read.

    They are those of its checkpoint (the newest, or else the best), or where it has none, of its
    files of weights. Raises UserError.
    """
    path = Path(folder)
    try:
        if not path.is_dir():
            raise UserError("there is no such folder.")
        state = _checkpoint(path)
        return _of_weights(path) if state is None else _of_checkpoint(path, state)
    except UserError as error:
        raise UserError(f"--init-from {folder}: {error}") from error


def _checkpoint(path: Path) -> dict | None:
    try:
        found = checkpoints.find_checkpoint(path)
    except UserError:  # all are damaged, and that was said
        found = None
    return found.state if found else checkpoints.read_best(path)


def _of_checkpoint(path: Path, state: dict) -> Source:
    constants, classes = state.get("config"), state.get("classes")
    lacking = [name for name in ("generator", "critic") if not isinstance(state.get(name), dict)]
    names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if lacking or not names or not isinstance(constants, dict):
        raise UserError("its checkpoint is none of a run of train.py.")
    classes = [nfc(name) for name in classes]
    cfg = config_io.from_dict(constants, f"its checkpoint in {path}")
    said = f"its checkpoint of epoch {state.get('epoch')}"
    average = state.get("average")
    networks = (state["generator"], state["critic"], average or None)
    rows = state.get("held_out")
    unknown = rows is None or bool(checkpoints.misfit_of_rows(rows))
    data = "" if unknown else str(state.get("data"))
    return Source(str(path), said, cfg, classes, *networks, data, [] if unknown else rows)


def _of_weights(path: Path) -> Source:
    there = [key for key, name in WEIGHTS.items() if (path / name).is_file()]
    if not there:
        raise UserError(f"it holds no checkpoint and no weights ({' or '.join(WEIGHTS.values())}).")
    cfg, classes, generator = load_run(path, there[0])
    return Source(str(path), WEIGHTS[there[0]], cfg, classes, generator.state_dict(), None, None)


# ---- filling -------------------------------------------------------------------------------------


def initialise(run: Run, source: Source) -> None:
    """Fill the networks of a new run with those of another; the optimisers stay new.

    The average of one that has none is its generator. Prints what is taken over and what is not.
    Raises UserError, naming the constants that differ, where the networks have other shapes.
    """
    axes = class_axes(run.cfg)
    average = source.average or source.generator
    pairs = [(run.generator, source.generator, axes[0]), (run.critic, source.critic, axes[1])]
    pairs += [(run.average, average, axes[0])] if run.average else []
    try:
        for network, saved, own in pairs:
            if saved is not None:
                filled = fill(network.state_dict(), saved, own, run.classes, source.classes)
                network.load_state_dict(filled)
    except Misfit as reason:
        raise UserError(_refusal(run.cfg, source, str(reason))) from reason
    if source.critic is None and getattr(run.critic, "standardise", None) is not None:
        run.critic.standardise.load_state_dict(run.generator.standardise.state_dict())
    print(_report(run, source), flush=True)


def class_axes(cfg: Config) -> tuple[Axes, Axes]:
    """Of the generator and of the critic: the weights that grow with the number of classes."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        few, more = models.build(cfg, 2), models.build(cfg, 3)
    found: list[Axes] = []
    for one, other in zip(few, more):
        shapes = {name: value.shape for name, value in other.state_dict().items()}
        grown = {
            name: [k for k, size in enumerate(value.shape) if size != shapes[name][k]]
            for name, value in one.state_dict().items()
        }
        own = one.state_dict()
        found.append({n: (a[0], own[n].shape[a[0]] - 2) for n, a in grown.items() if a})
    return found[0], found[1]


def fill(
    own: State, saved: State, axes: Axes, classes: list[str], before: list[str]
) -> dict[str, Tensor]:
    """The state of a network of `classes` with all that fits of one of the classes `before`.

    Raises Misfit.
    """
    if other := sorted(map(str, own.keys() ^ saved.keys())):
        raise Misfit(f"{other[0]} is in one of them only")
    filled = {}
    for name, value in own.items():
        axis, first = axes.get(name, (0, 0))
        shape = list(value.shape)
        if name in axes:
            shape[axis] = first + len(before)
        like = torch.empty(shape, dtype=value.dtype, device="meta")
        if reason := checkpoints.misfit_of_tensor(like, saved[name]):
            raise Misfit(f"{name} {reason}")
        there = saved[name].to(value.device)
        if name not in axes:
            filled[name] = there
            continue
        new = value.clone()
        new.narrow(axis, 0, first).copy_(there.narrow(axis, 0, first))
        for number, label in enumerate(classes):
            if label in before:
                old = there.select(axis, first + before.index(label))
                new.select(axis, first + number).copy_(old)
        filled[name] = new
    return filled


def with_doubts(source: Source, cfg: Config, split: Split, data: str) -> Split:
    """A split that says so where the other run may have been trained on what is held out here.

    `data`: fingerprint of this run's files. What the other run held out of the same files is new to
    its networks, and so is the same `holdout_dir`; of all else nothing is known.
    """
    if cfg.holdout_dir and cfg.holdout_dir == source.cfg.holdout_dir:
        return split
    known = {tuple(row[:2]) for row in source.held_out} if source.data == data else set()
    seen = len(split.held_out)
    if split.record:
        seen = sum(tuple(row[:2]) not in known for row in split.record)
    if not seen:
        return split
    doubt = (
        f"{source.folder} may have been trained on {seen} of the {len(split.held_out)} clips that "
        "are held out here: scores may flatter, and copies of these stay unseen."
    )
    print(doubt, flush=True)
    return replace(split, said=f"{split.said} {doubt}")


# ---- messages ------------------------------------------------------------------------------------


def _differences(cfg: Config, source: Source, parts: tuple[str, ...]) -> list[str]:
    """Constants of these parts that differ, as `name theirs -> ours`."""
    theirs, ours = config_io.flat(source.cfg), config_io.flat(cfg)
    names = [n for n in dict.fromkeys((*ours, *theirs)) if n.partition(".")[0] in parts]
    return [f"{n} {theirs.get(n)} -> {ours.get(n)}" for n in names if theirs.get(n) != ours.get(n)]


def _refusal(cfg: Config, source: Source, reason: str) -> str:
    if source.cfg.recipe != cfg.recipe:
        return (
            f"--init-from {source.folder} is a run of the recipe {source.cfg.recipe}, and its "
            f"networks do not fit those of {cfg.recipe} ({reason}): begin with its recipe, or "
            "leave --init-from out."
        )
    differences = _differences(cfg, source, OF_NETWORKS)
    why = f"constants differ: {'; '.join(differences)}" if differences else "it is damaged"
    return (
        f"--init-from {source.folder}: its networks do not fit those of this run ({reason}), "
        f"{why}. Give this run the constants of that one, or leave --init-from out."
    )


def _report(run: Run, source: Source) -> str:
    """What was taken over, and what was not."""
    taken = ["generator"] + ["critic"] * bool(source.critic) + ["average"] * bool(run.average)
    lines = [f"Starts from {source.folder} ({source.said}): {', '.join(taken)}."]
    if source.critic is None:
        lines.append("The critic starts anew: there is none beside these weights.")
    if run.classes:
        known = set(source.classes)
        shared = [name for name in run.classes if name in known]
        new = [name for name in run.classes if name not in known]
        gone = [name for name in source.classes if name not in run.classes]
        lines.append(
            f"Classes known from there: {', '.join(shared) or 'none'}; new: "
            f"{', '.join(new) or 'none'}; left behind: {', '.join(gone) or 'none'}."
        )
    if sound := _differences(run.cfg, source, ("sound",)):
        lines.append(f"Its clips are others, so that it has to learn anew: {'; '.join(sound)}.")
    return "\n".join(lines)
