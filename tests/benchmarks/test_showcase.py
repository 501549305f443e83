"""The picture and the sounds of the README, made from a run."""

from __future__ import annotations

import matplotlib.image
import pytest
import showcase
import soundfile

import train
from soundgan.config_io import change


@pytest.mark.slow
def test_a_run_is_shown(small, tmp_path, monkeypatch):
    train.train(change(small, {"epochs": 1}))
    out = tmp_path / "docs"
    words = [str(small.run_dir), "--classes", "low", "high", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["showcase.py", *words])
    showcase.main()
    assert matplotlib.image.imread(out / "samples.png").shape == (440, 520, 4)
    for name in ("low", "high"):
        wave, rate = soundfile.read(out / "sounds" / f"{name}.mp3")
        assert rate == 8000
        assert len(wave) == pytest.approx(32 * 64, abs=1152)  # MP3 comes in frames of 576
        assert 0.01 < abs(wave).max() <= 1
    assert not (out / "sounds" / "mid.mp3").exists()
    monkeypatch.setattr("sys.argv", ["showcase.py", str(small.run_dir), "--classes", "mids"])
    with pytest.raises(SystemExit, match="knows no class mids"):
        showcase.main()
