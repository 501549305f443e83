"""The synthetic set: deterministic, audible, and a distribution rather than one sound a class."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from soundgan import audio, dataset
from soundgan.dataset import demo
from soundgan.errors import UserError


def test_deterministic_and_of_the_stated_form(tmp_path):
    demo.write(tmp_path / "a", clips=2)
    demo.write(tmp_path / "b", clips=2)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.wav"))
    assert len(files) == 10
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        info = soundfile.info(tmp_path / "a" / name)
        assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
        assert 3 <= info.duration <= 5
        wave = soundfile.read(tmp_path / "a" / name)[0]
        assert 0.01 < np.abs(wave).max() < 1
    assert "not recordings" in (tmp_path / "a" / demo.MARK).read_text()
    assert dataset.find_files(tmp_path / "a").files == [f.as_posix() for f in files]


def test_classes_differ_and_vary(default, tmp_path):
    """No two clips are alike, and still they are nearer to their own class than to others."""
    demo.write(tmp_path, clips=8)
    transform = audio.Transform(default)
    features, labels = [], []
    for index, name in enumerate(demo.CLASSES):
        for path in sorted((tmp_path / name).iterdir()):
            waves, _, _ = audio.read_clips(path, 22050, 64_000)
            mel = transform(torch.from_numpy(waves))[0, 0]
            change = mel.diff(dim=1).abs().mean(1)
            features.append(torch.cat([mel.mean(1), mel.std(1), 4 * change]))
            labels.append(index)
    x, y = torch.stack(features), torch.tensor(labels)
    distance = torch.cdist(x, x)
    own = y[:, None] == y
    assert distance[own & ~torch.eye(len(y), dtype=torch.bool)].min() > 1  # no two alike
    assert distance[own].sum() / (own.sum() - len(y)) < 0.8 * distance[~own].mean()
    distance.fill_diagonal_(torch.inf)
    assert (y[distance.argmin(1)] == y).float().mean() > 0.6  # by chance: 0.2


def test_nobodys_sounds_are_replaced(tmp_path):
    """Neither in a folder of the same name nor among clips that were made here before."""
    (tmp_path / "a" / "siren").mkdir(parents=True)
    (tmp_path / "a" / "siren" / "mine.wav").write_bytes(b"x")
    demo.write(tmp_path / "b", clips=1)
    (tmp_path / "b" / "siren" / "deeper").mkdir()
    (tmp_path / "b" / "siren" / "deeper" / "mine.wav").write_bytes(b"x")
    for folder, mine in (("a", "siren/mine.wav"), ("b", "siren/deeper/mine.wav")):
        with pytest.raises(UserError, match="the demo set would replace"):
            demo.write(tmp_path / folder, clips=1)
        assert (tmp_path / folder / mine).exists()
    demo.write(tmp_path / "c", clips=1)
    demo.write(tmp_path / "c", clips=2)  # its own it may
    assert len(list((tmp_path / "c").rglob("*.wav"))) == 10


@pytest.mark.parametrize(
    "name", ["siren/siren_000.wav", "siren/siren_007.wav", "siren", "SYNTHETIC.txt", ".demo/x.wav"]
)
def test_what_has_a_name_of_the_set_is_kept_where_it_is_not_of_the_set(tmp_path, name):
    """A recording, a link to one's own folder, a text: refused. A hidden folder is not touched."""
    demo.write(tmp_path / "data", clips=1)
    path = tmp_path / "data" / name
    if name == "siren":
        (tmp_path / "mine").mkdir()
        (path / "siren_000.wav").rename(tmp_path / "mine" / "siren_000.wav")
        path.rmdir()
        path.symlink_to(tmp_path / "mine")
        path = path / "siren_000.wav"
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((tmp_path / "data" / "drilling" / "drilling_000.wav").read_bytes())
    before = path.read_bytes()
    if name.startswith("."):
        demo.write(tmp_path / "data", clips=1)
    else:
        with pytest.raises(UserError, match="the demo set would replace it: move it elsewhere"):
            demo.write(tmp_path / "data", clips=1)
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.soundgan-tmp"))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        demo.write(tmp_path / "data", clips=1)
    assert str(tmp_path / "data") in str(error.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_the_command(tmp_path, monkeypatch, capsys):
    """It writes the set and says where, or ends in one sentence."""
    (tmp_path / "siren").mkdir()
    (tmp_path / "siren" / "mine.wav").touch()
    done = subprocess.run(
        [sys.executable, "-m", "soundgan.dataset.demo", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(demo.__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (1, "")
    pattern = r"Error: .*mine\.wav exists, and the demo set would replace .*\n"
    assert re.fullmatch(pattern, done.stderr)
    (tmp_path / "siren" / "mine.wav").unlink()
    monkeypatch.setattr(demo, "CLIPS", 1)
    demo.main(str(tmp_path))
    said = capsys.readouterr().out
    assert said.startswith("Wrote 1 clips of each of siren, drilling, dog_bark, ")
    assert len(list(tmp_path.rglob("*.wav"))) == 5
