"""What ends a command with one sentence instead of a traceback."""

from __future__ import annotations


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
