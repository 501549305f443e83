"""The report before epoch 1: what is trained on, how much of it, and what was left out and why."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from soundgan.console import plural
from soundgan.dataset.decoding import Clips
from soundgan.dataset.discovery import Found
from soundgan.settings import Config

MUCH_LONGER = 2.0  # times of what is used of the files at which all of them is offered
REASONS = 8  # most reasons to leave files out that are listed
STRETCH = re.compile(r" from [\d.]+ to [\d.]+ s$")  # behind the name of a file used in part


def describe(cfg: Config, clips: Clips, found: Found) -> str:
    """Classes, clips, seconds used and there, rates, copies, and what was left out and why."""
    lines = [
        f"{plural(len(clips), 'clip')} in {plural(len(clips.classes), 'class')} below {clips.root}"
    ]
    lines += _classes(cfg, clips)
    lines += _cut(cfg, clips)
    lines += _copies(cfg, clips)
    for name in sorted(set(found.folders) - set(clips.classes)):
        lines.append(f"  {name}: no usable clip, so it is no class of this run")
    return "\n".join(lines + _left_out(clips))


def _used(cfg: Config, seconds: float) -> float:
    return min(seconds, cfg.clip_seconds)


def _classes(cfg: Config, clips: Clips) -> list[str]:
    """A line a class: clips, seconds used, of how many there are, and sample rates."""
    lines = []
    width = max((len(name) for name in clips.classes), default=0)
    members: list[list[int]] = [[] for _ in clips.classes]
    for index, label in enumerate(clips.labels):
        members[label].append(index)
    for name, own in zip(clips.classes, members):
        there = sum(clips.seconds[i] for i in own)
        used = sum(_used(cfg, clips.seconds[i]) for i in own)
        of = f" of {there:>9.1f} s" if cfg.sound.cut == "first" else ""
        rates = sorted({clips.rates[i] for i in own})
        lines.append(
            f"  {name:<{width}}  {plural(len(own), 'clip'):>12}  {used:>9.1f} s{of}  "
            f"{', '.join(map(str, rates[:4]))}{', ...' if len(rates) > 4 else ''} Hz"
        )
    return lines


def _cut(cfg: Config, clips: Clips) -> list[str]:
    """Offer the rest of the files where they are much longer than a clip."""
    there = sum(clips.seconds)
    used = sum(_used(cfg, seconds) for seconds in clips.seconds)
    if cfg.sound.cut != "first" or there < MUCH_LONGER * used or not used:
        return []
    return [
        f"  Of each file, the first {cfg.clip_seconds:.1f} s are used, {used:.1f} s of {there:.1f} "
        "s in all: --sound.cut consecutive uses all of it."
    ]


def _copies(cfg: Config, clips: Clips) -> list[str]:
    """How many clips hold the very sound of another one."""
    first: dict[str, int] = {}
    copies = [
        (index, first[digest])
        for index, digest in enumerate(clips.digests)
        if first.setdefault(digest, index) != index
    ]
    if not copies:
        return []
    index, other = copies[0]
    such = f"such as {_clip(cfg, clips, index)} = {_clip(cfg, clips, other)}"
    said = "1 clip is a copy of another" if len(copies) == 1 else f"{len(copies)} clips are copies"
    said += "" if len(copies) == 1 else " of others"
    lines = [f"  {said} ({such})"]
    labels = clips.labels
    if other := [pair for pair in copies if labels[pair[0]] != labels[pair[1]]]:
        index, first_one = other[0]
        such = f"such as {_clip(cfg, clips, index)} = {_clip(cfg, clips, first_one)}"
        many = "1 of them lies" if len(other) == 1 else f"{len(other)} of them lie"
        lines.append(f"  {many} in another class than the first of its kind ({such})")
    return lines


def _clip(cfg: Config, clips: Clips, index: int) -> str:
    if cfg.sound.cut == "first":
        return clips.files[index]
    return f"{clips.files[index]} at {clips.numbers[index] * cfg.clip_seconds:.1f} s"


def _left_out(clips: Clips) -> list[str]:
    """How many files were left out, as a whole or in part, and a line a reason."""
    if not clips.left_out:
        return []
    whole = {path for path, _ in clips.left_out if not STRETCH.search(path)}
    parts = {STRETCH.sub("", path) for path, _ in clips.left_out} - whole
    counts = [plural(len(whole), "file")] if whole else []
    counts += [f"parts of {plural(len(parts), 'file')}"] if parts else []
    lines = [f"Left out: {', and '.join(counts)}"]
    reasons = by_reason(clips.left_out)
    for count, path, reason in reasons[:REASONS]:
        lines.append(f"  {count} x {reason} (such as {path})")
    if rest := reasons[REASONS:]:
        lines.append(f"  {sum(r[0] for r in rest)} x {plural(len(rest), 'other reason')}")
    return lines


def by_reason(left_out: Sequence[tuple[str, str]]) -> list[tuple[int, str, str]]:
    """Number of files, an example and the reason, the most frequent first.

    Reasons that differ by their numbers only are one.
    """
    reasons: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, reason in left_out:
        reasons[re.sub(r"\d+(\.\d+)?", "0", reason)].append((path, reason))
    counts = [
        (len({STRETCH.sub("", path) for path, _ in entries}), *entries[0])
        for entries in reasons.values()
    ]
    return sorted(counts, key=lambda entry: -entry[0])


def reasons(left_out: Sequence[tuple[str, str]], most: int = 3) -> str:
    """The most frequent reasons to leave files out, with an example each, in one line."""
    entries = by_reason(left_out)[:most]
    return "; ".join(f"{count} x {reason} (such as {path})" for count, path, reason in entries)
