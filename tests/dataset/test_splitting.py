"""What is held out: whole sources, the same ones every time, never what a run has trained on."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundgan import dataset
from soundgan.config_io import change
from soundgan.dataset.splitting import hold_out
from soundgan.errors import UserError
from soundgan.settings import Config


def clips_of(files: list[str]) -> dataset.Clips:
    """A decoded data set as far as the split looks at it."""
    classes = sorted({name.partition("/")[0] for name in files})
    labels = [classes.index(name.partition("/")[0]) for name in files]
    ones = [1] * len(files)
    numbers = [files[:i].count(name) for i, name in enumerate(files)]
    return dataset.Clips(
        None,
        labels,
        classes,
        files,
        numbers,
        ones,
        ones,
        list(map(str, range(len(labels)))),
        [],
        "/sounds",
        "",
    )


def held_out(cfg: Config, files: list[str]) -> list[str]:
    mask = hold_out(cfg, clips_of(files))
    return [name for name, out in zip(files, mask) if out]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("dog/3-12345-B.wav", "3-12345"),
        ("dog/3-12345-B-0.ogg", "3-12345"),
        ("dog_bark/100032-3-0-7.wav", "100032"),
        ("yes/0a7c2a8d_nohash_2.wav", "0a7c2a8d"),
        ("7/7_jackson_32.wav", "jackson"),
        ("rain/garden_b.flac", "garden"),
        ("rain/garden (12).flac", "garden"),
        ("rain/rain_004.wav", ""),
        ("rain/thunder.wav", "thunder"),
    ],
)
def test_the_source_in_a_name(name: str, source: str) -> None:
    assert dataset.source_in_name(name) == source


def test_takes_of_one_recording_stay_together(default: Config) -> None:
    files = [f"a/{1 + n % 5}-9{n}00-{take}.wav" for n in range(20) for take in "AB"]
    files += [f"b/2-{n}00-A.wav" for n in range(40)]
    out = held_out(default, files)
    counts = Counter(name[0] for name in out)
    assert counts == {"a": 4, "b": 4}  # a tenth of 40 each
    takes = Counter(dataset.source_in_name(name) for name in out if name[0] == "a")
    assert set(takes.values()) == {2}


def test_a_speaker_is_held_out_of_all_classes_at_once(default: Config) -> None:
    files = [f"{d}/{d}_{who}_{n}.wav" for d in "0123" for who in "abcdefghij" * 2 for n in range(3)]
    files = sorted(set(files))
    out = held_out(default, files)
    assert {dataset.source_in_name(name) for name in out} == {dataset.source_in_name(out[0])}
    assert Counter(name[0] for name in out) == dict.fromkeys("0123", 3)


def test_sub_folders_are_sources(default: Config) -> None:
    files = [f"dog/speaker{s}/{n}.wav" for s in range(10) for n in range(4)]
    out = held_out(default, files)
    assert len({Path(name).parent for name in out}) == 1
    assert len(out) == 4


def test_a_source_that_would_take_half_a_class_is_passed_over(default: Config) -> None:
    files = [f"dog/{'park' if n % 2 else 'house'}_{n}.wav" for n in range(40)]
    assert len(held_out(default, files)) == 4  # single files then


def test_small_classes_and_zero_hold_nothing_out(default: Config) -> None:
    files = [f"dog/bark{n}x.wav" for n in range(19)]
    assert held_out(default, files) == []
    none = change(default, {"holdout": 0.0})
    assert held_out(none, [f"dog/bark{n}x.wav" for n in range(40)]) == []


def test_the_end_of_one_long_recording_is_held_out(default: Config) -> None:
    clips = clips_of(["music/album.flac"] * 50)
    mask = hold_out(change(default, {"sound.cut": "consecutive"}), clips)
    assert np.flatnonzero(mask).tolist() == [45, 46, 47, 48, 49]


def test_more_files_change_nothing_for_a_known_run(default: Config, tmp_path: Path) -> None:
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 4})
    files = [f"dog/1-{n}00-A.wav" for n in range(30)]
    first = dataset.split(cfg, clips_of(files), known=False)
    out = {recording.path.name for recording in first.held_out}
    assert len(out) == 3
    later = [f"dog/1-{n}00-{t}.wav" for n in range(40) for t in "AB"]
    again = dataset.split(cfg, clips_of(sorted(later)), known=True)
    sources = {name.rpartition("-")[0] for name in out}
    assert {r.path.name.rpartition("-")[0] for r in again.held_out} == sources
    assert len(again.held_out) == 6  # the new takes of the held-out recordings with them
    with open(cfg.run_dir / "held_out.csv") as file:
        assert {row["file"] for row in csv.DictReader(file)} == {f"dog/{name}" for name in out}


def test_names_that_are_no_utf8_stay_held_out(default: Config, tmp_path: Path) -> None:
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 4})
    files = [f"dog/\udce9{n}-A.wav" for n in range(20)]
    first = dataset.split(cfg, clips_of(files), known=False)
    again = dataset.split(cfg, clips_of(files), known=True)
    assert again.held_out == first.held_out
    assert len(first.held_out) == 2


def test_one_clip_is_too_little_to_score_against(default: Config, tmp_path: Path) -> None:
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 4, "holdout": 0.01})
    with pytest.raises(UserError, match=r"One clip is held out.*--holdout 0\.1"):
        dataset.split(cfg, clips_of([f"dog/{n}.wav" for n in range(30)]), known=False)


def test_without_a_record_a_known_run_has_trained_on_all(default: Config, tmp_path: Path) -> None:
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 4})
    split = dataset.split(cfg, clips_of([f"dog/{n}00-A.wav" for n in range(30)]), known=True)
    assert (len(split.training), split.held_out) == (30, [])
    assert "this run trained on all of them" in split.said


def test_a_damaged_record_is_an_error(default: Config, tmp_path: Path) -> None:
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 4})
    cfg.run_dir.mkdir(parents=True)
    (cfg.run_dir / "held_out.csv").write_text("file,clip\ndog/1.wav,one\n")
    with pytest.raises(UserError, match=r"held_out\.csv is damaged"):
        dataset.split(cfg, clips_of([f"dog/{n}.wav" for n in range(30)]), known=True)


def test_a_folder_can_be_named_instead(small: Config, sounds: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    for name in ("low", "high", "other"):
        (apart / name).mkdir(parents=True)
        wave = 0.1 * np.random.default_rng(0).standard_normal(4000)
        soundfile.write(apart / name / "a.wav", wave, 8000)
    cfg = change(small, {"holdout_dir": str(apart)})
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    split = dataset.split(cfg, clips, known=False)
    assert len(split.training) == 18
    assert {(r.path.parent.name, clips.classes[r.label]) for r in split.held_out} == {
        ("low", "low"),
        ("high", "high"),
    }
    with pytest.raises(UserError, match="holdout_dir"):
        dataset.split(change(small, {"holdout_dir": str(tmp_path / "none")}), clips, known=False)


def test_what_is_left_must_fill_a_batch(default: Config, tmp_path: Path) -> None:
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 28})
    with pytest.raises(UserError, match="3 more are held out") as raised:
        dataset.split(cfg, clips_of([f"dog/1-{n}00-A.wav" for n in range(30)]), known=False)
    assert "--batch-size 27" in str(raised.value)
