"""The report before training, band statistics, and the demo set where there are no sounds."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from conftest import shrunk
from sound_files import HOSTILE, touch

import config
from soundgan import dataset
from soundgan.config_io import change
from soundgan.dataset import demo


def test_every_folder_without_a_usable_clip_is_said(small, sounds):
    (sounds / "empty").mkdir()
    touch(sounds, "apples/a.m4a")
    found = dataset.find_files(sounds)
    said = dataset.describe(dataset.load_clips(small, found), found)
    assert "  apples: no usable clip" in said
    assert "  empty: no usable clip" in said


def test_folds_are_pointed_out(small, sounds):
    for i, name in enumerate(("low", "mid", "high")):
        (sounds / name).rename(sounds / f"fold{i}")
    found = dataset.find_files(sounds)
    assert "look like folds" in dataset.describe(dataset.load_clips(small, found), found)


def test_the_report_counts_every_file(small, sounds, capsys):
    for number, (content, _) in enumerate(HOSTILE.values()):
        (sounds / "mid" / f"bad{number}.wav").write_bytes(content)
    clips = dataset.load(small, dataset.find_clips(small))
    dataset.list_left_out(clips, small.run_dir)
    said = capsys.readouterr().out
    assert len(clips) == 18
    assert f"Left out: {len(HOSTILE)} files" in said
    assert "mid        6 clips" in said
    assert "3.0 s  8000 Hz" in said
    listed = (small.run_dir / "left_out.csv").read_text().splitlines()
    assert len(listed) == 1 + len(HOSTILE)


def test_band_statistics_are_those_of_the_training_clips(sounds, tmp_path):
    best = shrunk(config.RECIPES["best"], sounds, tmp_path / "outputs")
    clips = dataset.load_clips(best, dataset.find_clips(best))
    rows = np.array([1, 4, 7, 9])
    mean, deviation = dataset.band_statistics(clips, rows)
    x = np.array(clips.data[rows])[:, 0]  # (4, M, T)
    np.testing.assert_allclose(mean[:, 0], x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(deviation[:, 0], x.std((0, 2)), rtol=1e-4)


def test_two_first_runs_at_once_share_one_demo_set(small, tmp_path, monkeypatch):
    """The one that comes second waits, and uses what the first one wrote."""
    monkeypatch.setattr(demo, "CLIPS", 1)
    write, written = demo.write, []

    def slowly(folder):
        written.append(folder)
        time.sleep(0.3)
        write(folder)

    monkeypatch.setattr(demo, "write", slowly)
    (tmp_path / "nothing").mkdir()
    cfg = change(small, {"data_dir": str(tmp_path / "nothing")})
    found = [dataset.find_clips(cfg) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        clips = list(pool.map(lambda nothing: dataset.load(cfg, nothing, keep=False), found))
    assert len(written) == 1
    assert [len(c.labels) for c in clips] == [5, 5]
