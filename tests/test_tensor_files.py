"""Files of tensors: written and read, and what is damaged anywhere in them."""

from __future__ import annotations

import random
import struct

import pytest
import torch

from soundgan import tensor_files


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "state.pt"
    tensor_files.write(path, {"a": torch.arange(100.0), "words": ["x", 1, None], "pair": (1, 2)})
    return path


def test_what_was_written_is_read_also_by_torch(path):
    for state in (tensor_files.read(path), torch.load(path, weights_only=True)):
        assert torch.equal(state["a"], torch.arange(100.0))
        assert state["words"] == ["x", 1, None]
        assert state["pair"] == (1, 2)


def test_a_bit_that_changed_anywhere_is_found(path):
    whole = path.read_bytes()
    rng = random.Random(0)
    places = [rng.randrange(8 * len(whole)) for _ in range(100)] + [8 * len(whole) - 1]
    for bit in places:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            state = tensor_files.read(path)
        except tensor_files.Damaged:
            continue
        # Only the checksum's own words may differ: then what they are of is whole.
        assert bit // 8 >= len(whole) - tensor_files.SEAL_BYTES - 2
        assert torch.equal(state["a"], torch.arange(100.0))


@pytest.mark.parametrize("length", [0, 1, 100, -1, -30])
def test_a_cut_file_is_damaged(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(tensor_files.Damaged):
        tensor_files.read(path)


def test_a_file_without_checksum_is_read_unless_an_entry_is_hidden(path):
    torch.save({"a": torch.arange(100.0)}, path)
    assert torch.equal(tensor_files.read(path)["a"], torch.arange(100.0))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    while struct.unpack_from("<I", content, entry + 20)[0] < 400:  # of 100 floats
        entry = content.index(b"PK\x01\x02", entry + 1)
    content[entry + 38] |= tensor_files.DIRECTORY  # torch reads nothing then, and says nothing
    path.write_bytes(content)
    with pytest.raises(tensor_files.Damaged, match="checksum"):
        tensor_files.read(path)


def test_code_is_not_loaded(path):
    torch.save({"a": print}, path)
    with pytest.raises(tensor_files.Damaged, match=r"weights_only|Weights only"):
        tensor_files.read(path)
