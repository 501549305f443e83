"""JSON files with a checksum of their own bytes: a changed one is found, not half believed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from soundgan import files
from soundgan.errors import Damaged

BEGIN, END = b'{"checksum": "%s",\n"content": ', b"}\n"
WHOLE = re.compile(rb'\{"checksum": "([0-9a-f]{32})",\n"content": (.*)\}\n', re.DOTALL)


def write(path: Path, content: object) -> None:
    """Write plain values, whole or not at all; see `files.write_bytes`."""
    body = json.dumps(content).encode()
    files.write_bytes(path, BEGIN % files.digest(body).encode() + body + END)


def read(path: Path) -> object:
    """What `write` wrote.

    Raises FileNotFoundError; Damaged with the reason, which names no path.
    """
    if path.is_symlink():
        raise Damaged(f"{path.name} is a link")
    try:
        whole = WHOLE.fullmatch(files.read_bytes(path))
        if whole is None or files.digest(whole[2]) != whole[1].decode():
            raise Damaged(f"the checksum of {path.name} differs")
        return json.loads(whole[2])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # another program's, with a checksum
        raise Damaged(f"{path.name} cannot be read: {error}") from error
