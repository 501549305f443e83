"""A checkpoint is whole, or the one before it is taken."""

from __future__ import annotations

import pytest
import torch

from soundgan import files
from soundgan.errors import UserError
from soundgan.training import checkpoints
from soundgan.training.checkpoints import (
    find_checkpoint,
    put_damaged_aside,
    save_checkpoint,
)


def test_the_newest_checkpoint_is_loaded_and_the_one_before_kept(tmp_path):
    assert find_checkpoint(tmp_path) is None
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path, {"epoch": epoch, "weights": torch.arange(3.0) * epoch})
    state = find_checkpoint(tmp_path).state
    assert state["epoch"] == 3
    assert torch.equal(state["weights"], torch.tensor([0.0, 3.0, 6.0]))
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["last.pt", "previous.pt"]
    assert torch.load(folder / "previous.pt")["epoch"] == 2


@pytest.mark.parametrize("put_aside", [True, False])
def test_a_damaged_checkpoint_is_put_aside_where_that_is_wanted(tmp_path, put_aside, capsys):
    for epoch in (1, 2):
        save_checkpoint(tmp_path, {"epoch": epoch})
    folder = tmp_path / "checkpoints"
    content = bytearray((folder / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "last.pt").write_bytes(content)
    found = find_checkpoint(tmp_path)
    assert found.state["epoch"] == 1
    if put_aside:
        put_damaged_aside(found)
    assert f"{folder / 'last.pt'} is damaged" in capsys.readouterr().out
    assert (folder / "damaged-last.pt").exists() == put_aside
    assert (folder / "last.pt").exists() != put_aside


def test_no_whole_checkpoint_is_an_error_and_renames_nothing(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last.pt", "previous.pt"):
        (folder / name).write_bytes(b"rubbish")
    for _ in range(2):
        with pytest.raises(UserError, match="No whole checkpoint"):
            find_checkpoint(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["last.pt", "previous.pt"]


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, {"epoch": 1})

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(checkpoints.tensor_files.torch, "load", full)
    with pytest.raises(MemoryError):
        find_checkpoint(tmp_path)
    assert (tmp_path / "checkpoints" / "last.pt").exists()


def test_a_crash_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, {"epoch": 1})
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {"epoch": 2})
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before
