"""Layouts of data folders as people download and unpack them: which folder holds the classes.

`data/<class>/*.wav` is what is asked for. Around it there may be one folder that wraps all, folders
named train, val and test, and folders without sound. What is recognised is said; what is no set of
class folders (folds, one folder of sounds beside a table of their labels) is refused with what to
do, and never taken for classes in silence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from soundgan.console import shell_path
from soundgan.dataset.folders import Survey
from soundgan.errors import UserError
from soundgan.files import nfc

SPLITS = {  # names of splits -> what they are for
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("eval", "evaluation", "test", "testing"), "test"),
}
FOLD = re.compile(r"(fold|split|shard|chunk|subset|cv)[ _.-]?\d+")
# Names that say that a folder holds sounds, and not which.
GENERIC = re.compile(
    r"((audio|wav|wave|flac|ogg|mp3|sound|clip|sample|recording|file|dataset|data|media|raw|all|"
    r"original|orig|song|track|train|training|test|dev|val|valid|eval|k|hz)s?|[-_ .\d])+"
)
UNCONDITIONAL = "train a recipe that uses no classes (lofi-wgan, wavegan)"


@dataclass
class Layout:
    """The folder whose folders are the classes, and what to say of how it was found."""

    root: str
    notes: list[str] = field(default_factory=list)


def layout(top: str, survey: Survey, loose: bool, classes: Collection[str], option: str) -> Layout:
    """Which folder below `top`, or `top` itself, holds the class folders.

    `loose`: for a recipe that uses no classes, which only splits concern. `classes`: those of the
    run where it has begun; a folder that holds some is what it was trained on. `option`: the flag
    that names `top`. Raises UserError where the folders are certainly no classes.
    """
    found = Layout(top)
    while True:
        look = survey.look(found.root)
        if not {nfc(name) for name in look.folders}.isdisjoint(classes):
            return found
        step = _split(found.root, survey, loose, option) or _wrapped(found.root, survey, loose)
        if step is None:
            break
        found.root = step.root
        found.notes += step.notes
    if not loose:
        _refuse_folds(top, found.root, survey, option)
        _refuse_table(top, found.root, survey)
        notes = (kind(found.root, survey) for kind in (_deeper, _alike, _generic))
        if note := next(filter(None, notes), ""):
            found.notes.append(note)
    return found


# ---- splits --------------------------------------------------------------------------------------


def _split(root: str, survey: Survey, loose: bool, option: str) -> Layout | None:
    """One step down into the training split, where the folders of `root` are splits."""
    look = survey.look(root)
    kinds = split_kinds(look.folders)
    training = [name for name, kind in kinds.items() if kind == "train"]
    others = [name for name, kind in kinds.items() if kind in ("val", "test")]
    if kinds and option != "--data-dir":
        one = shell_path(os.path.join(root, (others or training)[0]))
        raise UserError(
            f"{root} holds {readable(list(kinds))}, which are splits: name one ({option} {one})."
        )
    if [name.lower() for name in look.folders] in (["train"], ["training"]):  # no other is there
        inner = os.path.join(root, look.folders[0])
        return Layout(inner) if survey.look(inner).folders else None
    if len(training) == 1:
        apart = shell_path(os.path.join(root, others[0]))
        beside = [name for name in kinds if not kinds[name]]
        rest = f"; {readable(beside)} beside them, too" if beside else ""
        said = (
            f"{root} holds splits: {training[0]} is trained on, and {readable(others)} left out"
            f"{rest} (--holdout-dir {apart} scores against it)."
        )
        return Layout(os.path.join(root, training[0]), [said])
    if not kinds or loose:
        return None
    one = shell_path(os.path.join(root, (training or others)[0]))
    raise UserError(
        f"{readable(list(kinds))} below {root} are splits of one data set, and not classes: name "
        f"the one to train on ({option} {one})."
    )


def split_kinds(names: Collection[str]) -> dict[str, str]:
    """What each folder is for (train, val, test, or "" beside such); empty where none is a split.

    A class may be called "train", alone or beside "bus", but not beside "test".
    """
    kinds = {name: SPLITS.get(name.lower(), "") for name in names}
    several = len(set(kinds.values()) - {""}) > 1
    if several and ("train" in kinds.values() or all(kinds.values())):
        return kinds
    # train-clean-100, test-clean; audio_train, audio_test; X.dev_audio, X.eval_audio
    words = {name: re.findall(r"[^\W\d_]+", name.lower()) for name in names}
    kinds = {name: next((SPLITS[w] for w in own if w in SPLITS), "") for name, own in words.items()}
    if not all(kinds.values()) or len(set(kinds.values())) < 2:
        return {}
    rests = [{w for w in own if w not in SPLITS and not is_generic(w)} for own in words.values()]
    alike = not all(rests) or len(set.union(*rests)) < sum(map(len, rests))
    return kinds if alike else {}


# ---- one folder around all of them ---------------------------------------------------------------


def _wrapped(root: str, survey: Survey, loose: bool) -> Layout | None:
    """Down to the class folders (or splits), where single folders without sounds lie around them.

    One class whose sounds all lie in sub-folders looks the same, and is far rarer.
    """
    inner, look, beside = root, survey.look(root), 0
    while len(look.folders) == 1:
        deeper = os.path.join(inner, look.folders[0])
        beside += len(look.sounds)
        inner, look = deeper, survey.look(deeper)
        if look.sounds:
            return None
    if inner == root or not look.folders:
        return None
    if loose:
        one = list(split_kinds(look.folders).values()).count("train") == 1
        return Layout(inner) if one and not beside else None
    name = os.path.relpath(inner, root)
    rest = f" Sounds beside it are left out: {beside}." if beside else ""
    said = (
        f"All class folders lie in {inner}: {readable(look.folders)} are the classes.{rest} If "
        f"{name} itself is one class, put its sounds right into it, without folders."
    )
    return Layout(inner, [] if split_kinds(look.folders) else [said])


def _deeper(root: str, survey: Survey) -> str:
    """What to say of the only class where folders are in it, which may be meant as classes."""
    if len(names := survey.look(root).folders) != 1:
        return ""
    only = os.path.join(root, names[0])
    folders = survey.look(only).folders
    if len(folders) < 2:
        return ""
    return (
        f"{names[0]} is the only class, for sounds lie right in it. If its folders "
        f"({readable(folders)}) are the classes: --data-dir {shell_path(only)}."
    )


def _alike(root: str, survey: Survey) -> str:
    """What to say where all classes hold folders of the same names, and no sound beside them.

    Those may be speakers, or the classes of a set that lies there in parts.
    """
    names = survey.look(root).folders
    looks = [survey.look(os.path.join(root, name)) for name in names]
    if len(names) < 2 or any(look.sounds for look in looks):
        return ""
    shared = set.intersection(*({nfc(name) for name in look.folders} for look in looks))
    if not shared:
        return ""
    one = shell_path(os.path.join(root, names[0]))
    return (
        f"{readable(names)} are the classes, and hold folders of the same names "
        f"({readable(sorted(shared))}). If these are the classes, put them together in one folder, "
        f"or name one of the former (--data-dir {one})."
    )


def _generic(root: str, survey: Survey) -> str:
    """What to say where classes have names that say nothing."""
    folders, only = survey.look(root).folders, _only_folder(root, survey)
    names = folders if len(folders) != 1 else [os.path.basename(only)]
    if not folders or not all(map(is_generic, names)):
        return ""
    if len(folders) == 1:
        return f"All sounds lie in one folder, {only}, and so {folders[0]} is the only class."
    return (
        f"The folders below {root} are the classes, though their names do not say what sounds they "
        f"hold: {readable(folders)}."
    )


# ---- what is no set of class folders -------------------------------------------------------------


def _refuse_folds(top: str, root: str, survey: Survey, option: str) -> None:
    """Raise UserError where the folders are parts for cross-validation."""
    folds = survey.look(root).folders
    if not folds or not all(FOLD.fullmatch(name.lower()) for name in folds):
        return
    first = os.path.join(root, folds[0])
    table = _table(top, root, survey)
    labels = f"; what each sound is stands in {table}" if table else ""
    one = f", name one of them ({option} {shell_path(first)})" if survey.look(first).folders else ""
    raise UserError(
        f"{readable(folds)} below {root} are folds of one data set, and not classes{labels}: sort "
        f"the sounds into one folder a class{one}, or {UNCONDITIONAL}."
    )


def _refuse_table(top: str, root: str, survey: Survey) -> None:
    """Raise UserError where all sounds lie in one folder, and a table says what each of them is."""
    folder = _only_folder(root, survey)
    look, name = survey.look(folder), os.path.relpath(folder, root).split(os.sep)[0]
    if (
        look.folders
        or not look.sounds
        or (folder != root and not is_generic(os.path.basename(folder)))
    ):
        return
    if table := _table(top, folder, survey):
        rename = "" if folder == root else f", rename {name} if they are all of one class"
        raise UserError(
            f"The sounds lie in one folder, {folder}, and their labels in a table, {table}: sort "
            f"them into one folder a class (<class>/*.wav){rename}, or {UNCONDITIONAL}."
        )


def _only_folder(root: str, survey: Survey) -> str:
    """Where single folders lead that hold nothing but the next one, and at the end sounds."""
    while len((look := survey.look(root)).folders) == 1 and not look.sounds:
        root = os.path.join(root, look.folders[0])
    return root


def _table(top: str, root: str, survey: Survey) -> str:
    """A table in one of the folders from `top` to `root`, or in one beside them; "" without."""
    below = [part for part in os.path.relpath(root, top).split(os.sep) if part != os.curdir]
    levels = [os.path.join(top, *below[:count]) for count in range(len(below) + 1)]
    for level in levels:
        beside = [os.path.join(level, name) for name in survey.look(level).silent]
        for folder in (level, *beside):
            if tables := survey.look(folder).tables:
                return os.path.join(folder, tables[0])
    return ""


def is_generic(name: str) -> bool:
    """Whether a folder's name says that sounds are in it, and not which; digits may be classes."""
    return bool(GENERIC.fullmatch(name.lower())) and not name.isdigit()


def readable(names: Collection[str], most: int = 6) -> str:
    """`a, b and c`, or the first few of many names."""
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
