"""What ends a command with one sentence instead of a traceback, and the help in it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """Something the person at the keyboard can mend; shown as one sentence, no traceback."""

    exit_code = 2
    heading = "Error"


class Diverged(UserError):
    """A loss or gradient became NaN or Inf."""

    exit_code = 3
    heading = "Diverged"


class Interrupted(UserError):
    """Stopped by a signal, after saving."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again
    heading = "Interrupted"


class Damaged(Exception):
    """Why a file that this program keeps for itself cannot be used."""


def nearest(name: str, known: Sequence[str]) -> str:
    """'did you mean ...' for a misspelt name, or the whole list where nothing is near."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    folded = [k for k in known if k.casefold() == name.casefold()]
    if close := folded or close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known)}."
