"""JSON with a checksum: what was written, or Damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from soundgan import files
from soundgan.dataset import checked_json

VALUE = {"labels": [0, 1, 2], "name": "côq \udce9", "pairs": [["a", "b"]], "nothing": None}


def test_what_is_written_is_read_and_is_json(tmp_path: Path):
    path = tmp_path / "meta.json"
    checked_json.write(path, VALUE)
    assert checked_json.read(path) == VALUE
    assert json.loads(path.read_bytes())["content"] == VALUE


def test_every_flipped_bit_every_cut_and_every_addition_is_found(tmp_path: Path):
    path = tmp_path / "meta.json"
    checked_json.write(path, VALUE)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            path.write_bytes(content)
            with pytest.raises(checked_json.Damaged, match="the checksum of meta"):
                checked_json.read(path)
        path.write_bytes(whole[:place])
        with pytest.raises(checked_json.Damaged):
            checked_json.read(path)
    path.write_bytes(whole + b"\n")
    with pytest.raises(checked_json.Damaged):
        checked_json.read(path)


def test_what_is_no_file_or_no_json(tmp_path: Path):
    path = tmp_path / "meta.json"
    with pytest.raises(FileNotFoundError):
        checked_json.read(path)
    for body in (b"{", b"[" * 100_000, b"\xff"):  # of another program, with a checksum
        content = checked_json.BEGIN % files.digest(body).encode() + body + checked_json.END
        path.write_bytes(content)
        with pytest.raises(checked_json.Damaged, match=r"meta\.json cannot be read"):
            checked_json.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(checked_json.Damaged, match="no regular file"):
        checked_json.read(path)
    path.rmdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(checked_json.Damaged, match="a link"):
        checked_json.read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_holds_nothing_up(tmp_path: Path):
    os.mkfifo(tmp_path / "meta.json")
    with pytest.raises(checked_json.Damaged, match="no regular file"):
        checked_json.read(tmp_path / "meta.json")
