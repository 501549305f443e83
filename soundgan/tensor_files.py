"""Files of tensors with a checksum, of the very bytes that PyTorch reads.

`torch.save` makes a zip archive and `torch.load` looks at no checksum in it. The checksum of the
whole archive stands in the archive's own comment, so that one file holds both: a bit that has
changed anywhere is found, also in what another reader of the same archive would not look at.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import torch

from soundgan import files
from soundgan.errors import Damaged

MARK = b"soundgan blake2b "
SEAL = re.compile(re.escape(MARK) + rb"[0-9a-f]{32}")
SEAL_BYTES = len(MARK) + 32
ARCHIVE = b"PK\x03\x04"  # by which torch.load knows one
DIRECTORY = 0x10  # attribute of an entry that has no content, whatever else it says


def write(path: Path, state: object, keep_as: str = "") -> None:
    """Write tensors and plain values, whole or not at all; see `files.write_bytes`."""
    files.write_bytes(path, packed(state), keep_as)


def packed(state: object) -> memoryview:
    """The content of a file of tensors: what `torch.save` writes, with its checksum."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    seal = MARK + files.digest(buffer.getbuffer()).encode()
    buffer.seek(-2, io.SEEK_END)  # the length of the comment, which is none yet
    buffer.write(len(seal).to_bytes(2, "little"))
    buffer.write(seal)
    return buffer.getbuffer()


def read(path: Path) -> object:
    """What `write` wrote, on the CPU; plain values and tensors only, nothing is executed.

    Raises FileNotFoundError; Damaged with the reason; OSError where the file cannot be read.
    """
    return unpacked(files.read_bytes(path))


def unpacked(content: bytes) -> object:
    """What the content of such a file holds; of one that `torch.save` alone wrote, too.

    Raises Damaged with the reason.
    """
    try:
        if content[:4] == ARCHIVE:  # else of a PyTorch before 1.6, which kept no checksum at all
            _check(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in whatever way it likes
        raise Damaged(f"{type(error).__name__}: {error}") from error


def _check(content: bytes) -> None:
    """Raise an exception where a checksum differs."""
    seal = content[-SEAL_BYTES:]
    if SEAL.fullmatch(seal):
        # Of the archive as it was before there was a comment, whose length stood at its end.
        archive = memoryview(content)[: -SEAL_BYTES - 2]
        if files.digest(archive, bytes(2)) != seal[len(MARK) :].decode():
            raise ValueError("a checksum differs")
        return
    if MARK in content[-2 * SEAL_BYTES :]:
        raise ValueError("its checksum is cut")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # written before there was a seal
        if any(entry.compress_type for entry in archive.infolist()):
            raise ValueError("it is compressed")  # torch.save packs nothing: that can be a trap
        hidden = any(entry.external_attr & DIRECTORY for entry in archive.infolist())
        if hidden or archive.testzip() is not None:
            raise ValueError("a checksum differs")
