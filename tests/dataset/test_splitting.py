"""What is held out: whole sources, the same ones every time, never what a run has trained on."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import config
from soundgan import dataset
from soundgan.config_io import change
from soundgan.dataset import splitting
from soundgan.dataset.splitting import NAME, hold_out
from soundgan.errors import UserError
from soundgan.settings import Config


def clips_of(files: list[str], copies: dict[str, str] | None = None) -> dataset.Clips:
    """A decoded data set as far as the split looks at it; `copies`: file -> the one it is a copy
    of."""
    copies = copies or {}
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
        [f"{copies.get(name, name)} {number}" for name, number in zip(files, numbers)],
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


@pytest.mark.parametrize("rows", ["file,clip\ndog/1.wav,1\n", "file,clip,source\ndog/1.wav,one,\n"])
def test_a_damaged_record_is_an_error(default: Config, tmp_path: Path, rows: str) -> None:
    """Of a run of before, of which nothing else says what it held out."""
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 4})
    cfg.run_dir.mkdir(parents=True)
    (cfg.run_dir / "held_out.csv").write_text(rows)
    with pytest.raises(UserError, match=r"held_out\.csv is damaged"):
        dataset.split(cfg, clips_of([f"dog/{n}.wav" for n in range(30)]), known=True)


# ---- the list is what it was ---------------------------------------------------------------------

FILES = [f"dög/1-{n}00-A.wav" for n in range(30)]


@pytest.fixture
def begun(default: Config, tmp_path: Path) -> tuple[Config, dataset.Split, bytes]:
    """A run that holds out three of 30 clips: constants, split, and the list in its folder."""
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 4})
    split = dataset.split(cfg, clips_of(FILES), known=False)
    assert len(split.record) == len(split.held_out) == 3
    return cfg, split, (cfg.run_dir / NAME).read_bytes()


def fact(cfg: Config, split: dataset.Split) -> None:
    """What config.json says of the list."""
    said = {"held_out": splitting.summary(split.record)}
    (cfg.run_dir / "config.json").write_text(json.dumps(said))


def cells(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode())))


def replaced(path: Path, how: str, content: bytes) -> None:
    """Spoil a list in one of the ways in which lists are spoilt."""
    lines = content.splitlines(keepends=True)
    rows = cells(content)
    moved = [rows[0], [*rows[1][:2], rows[2][2]], [*rows[2][:2], rows[1][2]], *rows[3:]]
    new = {
        "emptied": b"",
        "header only": lines[0],
        "cut at a row's end": b"".join(lines[:-1]),
        "cut in a row": content[:-9],
        "one file edited": content.replace(b"00-A.wav", b"01-A.wav", 1),
        "sources swapped": "".join(",".join(row) + "\r\n" for row in moved).encode(),
        "noise": bytes(range(256)) * 4,
        "an open quote": content.replace(b"d", b'"d', 1),
    }
    path.unlink()
    if how == "a pipe":
        os.mkfifo(path)
    elif how == "a folder":
        path.mkdir()
    elif how != "removed":
        path.write_bytes(new[how])


SPOILT = (
    *("removed", "emptied", "header only", "cut at a row's end", "cut in a row", "noise"),
    *("one file edited", "sources swapped", "an open quote", "a pipe", "a folder"),
)


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_list_is_restored_from_the_checkpoint(
    begun: tuple, how: str, capsys: pytest.CaptureFixture
) -> None:
    cfg, split, content = begun
    path = cfg.run_dir / NAME
    replaced(path, how, content)
    saved = [list(row) for row in split.record]
    again = dataset.split(cfg, clips_of(FILES), known=True, saved=saved)
    assert (again.held_out, again.record) == (split.held_out, split.record)
    assert np.array_equal(again.training, split.training)
    assert path.read_bytes() == content
    assert "restored from the checkpoint (3 clips)" in capsys.readouterr().out
    kept = cfg.run_dir / "held_out.old1.csv"
    assert kept.exists() == (how != "removed")  # what was there is not deleted
    dataset.split(cfg, clips_of(FILES), known=True, saved=saved)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_list_is_never_read_as_none(begun: tuple, how: str) -> None:
    """No checkpoint has it, and the files are others: config.json knows that there was one."""
    cfg, split, content = begun
    fact(cfg, split)
    replaced(cfg.run_dir / NAME, how, content)
    assert not splitting.is_whole(cfg.run_dir)
    more = clips_of(sorted([*FILES, *(f"dög/2-{n}00-A.wav" for n in range(30))]))
    with pytest.raises(UserError, match=r"held_out\.csv .* no checkpoint has the list.*--run-name"):
        dataset.split(cfg, more, known=True)
    again = dataset.split(cfg, clips_of(FILES), known=True)  # the same files: by the same rule
    assert again.held_out == split.held_out
    assert (cfg.run_dir / NAME).read_bytes() == content


@pytest.mark.parametrize(
    "saved_by",
    [
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace("\r\n", "\n").encode("utf-8-sig"),
        lambda text: text.replace(",", "\t").encode("utf-16"),
        lambda text: text.replace(",", ";").encode("cp1252"),
        lambda text: unicodedata.normalize("NFD", text).encode(),
        lambda text: "\r\n".join([text.split()[0], *text.split()[:0:-1]]).encode(),  # sorted anew
    ],
)
def test_a_list_that_a_spreadsheet_saved_is_the_same(
    begun: tuple, saved_by: Callable[[str], bytes], capsys: pytest.CaptureFixture
) -> None:
    cfg, split, content = begun
    fact(cfg, split)
    (cfg.run_dir / NAME).write_bytes(saved_by(content.decode()))
    assert splitting.is_whole(cfg.run_dir)
    again = dataset.split(cfg, clips_of(FILES), known=True)
    assert again.held_out == split.held_out
    assert capsys.readouterr().out == ""


def test_a_list_that_comes_to_a_run_that_held_out_nothing_is_not_used(
    begun: tuple, capsys: pytest.CaptureFixture
) -> None:
    cfg, _, content = begun
    again = dataset.split(cfg, clips_of(FILES), known=True, saved=[])
    assert (len(again.training), again.held_out, again.record) == (30, [], [])
    assert "does not name the 0 clips" in capsys.readouterr().out
    assert (cfg.run_dir / "held_out.old1.csv").read_bytes() == content
    assert (cfg.run_dir / NAME).read_bytes() == b"file,clip,source\r\n"


def test_the_list_keeps_to_names_in_either_unicode_form(begun: tuple) -> None:
    cfg, split, _ = begun
    other = clips_of([unicodedata.normalize("NFD", name) for name in FILES])
    again = dataset.split(cfg, other, known=True, saved=split.record)
    assert [r.number for r in again.held_out] == [0, 0, 0]
    assert np.array_equal(again.training, split.training)
    assert np.array_equal(hold_out(cfg, other), hold_out(cfg, clips_of(FILES)))


def test_the_summary_counts_and_checks() -> None:
    rows = [("a/1.wav", 0, ""), ("b/2.wav", 3, "b")]
    one = splitting.summary(rows)
    assert one["clips"] == 2
    assert one == splitting.summary([list(row) for row in rows[::-1]])
    assert one != splitting.summary([rows[0], ("b/2.wav", 4, "b")])
    assert one["digest"] != splitting.summary(rows[:1])["digest"]


def test_where_all_held_out_clips_are_gone_that_is_said(begun: tuple) -> None:
    cfg, split, _ = begun
    gone = {row[0] for row in split.record}
    rest = [name for name in FILES if name not in gone]
    again = dataset.split(cfg, clips_of(rest), known=True, saved=split.record)
    assert "the 3 that this run held out are not there any more" in again.said
    assert again.record == split.record  # they may come back
    some = sorted([*rest, min(gone)])
    with pytest.raises(UserError, match=r"Of 3 clips that this run held out, one is below"):
        dataset.split(cfg, clips_of(some), known=True, saved=split.record)


def test_a_refused_run_leaves_no_list(default: Config, tmp_path: Path) -> None:
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 28})
    with pytest.raises(UserError):
        dataset.split(cfg, clips_of(FILES), known=False)
    assert not (cfg.run_dir / NAME).exists()


# ---- copies --------------------------------------------------------------------------------------


def sides(split: dataset.Split, clips: dataset.Clips) -> tuple[set[str], set[str]]:
    """Sounds that are trained on, and those that are held out."""
    return {clips.digests[i] for i in split.training}, {r.digest for r in split.held_out}


def test_without_copies_the_rule_is_that_of_before(default: Config) -> None:
    """Held out by version 0.1.0 of these files."""
    files = [f"dog/{n % 5 + 1}-{n}00-{k}.wav" for n in range(20) for k in "AB"]
    files += [f"rain/rain_{n:03d}.wav" for n in range(30)]
    people = [(d, who) for d in "01" for who in ("ada", "bob", "eve", "kim", "lea")]
    files += [f"speech/{d}_{who}_{n}.wav" for d, who in people for n in range(6)]
    assert held_out(default, sorted(files)) == [
        *("dog/2-600-A.wav", "dog/2-600-B.wav", "dog/5-1900-A.wav", "dog/5-1900-B.wav"),
        *("rain/rain_005.wav", "rain/rain_013.wav", "rain/rain_029.wav"),
        *(f"speech/1_lea_{n}.wav" for n in range(6)),
    ]


def test_copies_lie_on_one_side(default: Config, tmp_path: Path) -> None:
    """Copies of what the rule holds out: within the class and in another, and of their takes."""
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 4})
    files = [f"dog/1-{n}00-{k}.wav" for n in range(20) for k in "AB"]
    files += [f"rain/2-{n}00-A.wav" for n in range(40)]
    first = held_out(default, files)
    assert first[0].startswith("dog")
    copies = {"dog/1-1700-B.wav": first[0], "rain/2-3300-A.wav": first[0]}
    assert not set(copies) & set(first)
    clips = clips_of(files, copies)
    split = dataset.split(cfg, clips, known=False)
    training, apart = sides(split, clips)
    assert not training & apart
    assert "copies of a clip are on its side" in split.said
    takes = Counter(dataset.source_in_name(clips.files[i]) for i in split.training)
    assert all(count in (2, 1) for count in takes.values())
    out = {r.path.name for r in split.held_out}
    linked = {"1-1700-A.wav", "1-1700-B.wav", Path(first[0]).name, "2-3300-A.wav"}
    assert linked <= out or not linked & out


def test_a_sound_of_which_half_a_class_are_copies_is_trained_on(default: Config) -> None:
    files = [f"dog/bark{n}x.wav" for n in range(40)]
    clips = clips_of(files, dict.fromkeys(files[:20], files[0]))
    mask = hold_out(default, clips)
    assert (mask.sum(), mask[:20].sum()) == (4, 0)
    clips = clips_of(files, dict.fromkeys(files, files[0]))
    assert not hold_out(default, clips).any()


def test_the_end_of_a_long_recording_takes_its_copies_along(default: Config) -> None:
    clips = clips_of(["music/album.flac"] * 50)
    clips.digests[3] = clips.digests[49]
    mask = hold_out(change(default, {"sound.cut": "consecutive"}), clips)
    assert np.flatnonzero(mask).tolist() == [3, 46, 47, 48, 49]


def test_copies_that_come_later_go_to_the_side_of_what_they_copy(
    begun: tuple, capsys: pytest.CaptureFixture
) -> None:
    cfg, split, content = begun
    out, kept = split.record[0][0], FILES[split.training[0]]
    source = split.record[1][2]
    copies = {"dög/new1x.wav": out, "dög/new2x.wav": kept, f"dög/{source}-B.wav": kept}
    clips = clips_of(sorted([*FILES, *copies]), copies)
    again = dataset.split(cfg, clips, known=True, saved=split.record)
    assert {r.path.name for r in again.held_out} == {
        "new1x.wav",
        *(Path(row[0]).name for row in split.record),
    }
    training, apart = sides(again, clips)
    assert not training & apart
    assert again.record == split.record
    assert (cfg.run_dir / NAME).read_bytes() == content


def test_a_clip_that_was_renamed_stays_held_out(
    begun: tuple, capsys: pytest.CaptureFixture
) -> None:
    cfg, split, _ = begun
    out = split.record[0][0]
    there = [name for name in FILES if name != out]
    clips = clips_of(sorted([*there, "dög/quite another.wav"]), {"dög/quite another.wav": out})
    again = dataset.split(cfg, clips, known=True, saved=split.record, digests=split.digests)
    assert {r.path.name for r in again.held_out} == {
        "quite another.wav",
        *(Path(row[0]).name for row in split.record[1:]),
    }
    assert (
        "1 of the 3 clips that this run held out is not there any more" in capsys.readouterr().out
    )
    assert again.digests == split.digests
    # And it is known for good, whatever it is called next.
    gone = clips_of(there)
    assert dataset.split(cfg, gone, True, saved=split.record, digests=split.digests).digests == (
        split.digests
    )


def test_what_a_run_of_before_trained_on_is_not_scored_against(
    begun: tuple, capsys: pytest.CaptureFixture
) -> None:
    """Its list did not look at copies: those on both sides were trained on."""
    cfg, split, _ = begun
    out, kept = split.record[0][0], FILES[split.training[0]]
    clips = clips_of(FILES, {kept: out})
    again = dataset.split(cfg, clips, known=True)  # neither config.json nor a checkpoint has one
    assert [row[0] for row in again.record] == [row[0] for row in split.record[1:]]
    assert len(again.held_out) == 2
    assert f"as copies of clips it trained on (such as {out})" in capsys.readouterr().out
    once_more = dataset.split(cfg, clips, known=True, saved=again.record)
    assert once_more.held_out == again.held_out
    assert capsys.readouterr().out == ""


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
    assert split.record == []
    with pytest.raises(UserError, match="holdout_dir"):
        dataset.split(change(small, {"holdout_dir": str(tmp_path / "none")}), clips, known=False)


def test_copies_of_training_clips_in_a_named_folder_are_left_out(
    small: Config, sounds: Path, tmp_path: Path
) -> None:
    apart = tmp_path / "apart"
    (apart / "low").mkdir(parents=True)
    for name in ("0", "1"):
        shutil.copy(sounds / "low" / f"{name}.wav", apart / "low" / f"again{name}.wav")
    cfg = change(small, {"holdout_dir": str(apart)})
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    with pytest.raises(UserError, match="all of its clips are copies of training clips"):
        dataset.split(cfg, clips, known=False)
    for name in "ab":
        wave = 0.1 * np.random.default_rng(ord(name)).standard_normal(4000)
        soundfile.write(apart / "low" / f"{name}.wav", wave, 8000)
    split = dataset.split(cfg, clips, known=False)
    assert sorted(r.path.name for r in split.held_out) == ["a.wav", "b.wav"]
    assert "copies of training clips: 2 (such as low/again0.wav = low/0.wav)" in split.said
    (apart / "low" / "b.wav").unlink()
    with pytest.raises(UserError, match=r"one clip to score against.*--holdout-dir"):
        dataset.split(cfg, clips, known=False)


def test_what_is_left_must_fill_a_batch(default: Config, tmp_path: Path) -> None:
    cfg = change(default, {"output_dir": str(tmp_path), "batch_size": 28})
    with pytest.raises(UserError, match="3 more are held out") as raised:
        dataset.split(cfg, clips_of([f"dog/1-{n}00-A.wav" for n in range(30)]), known=False)
    assert "27 usable clips to train on" in str(raised.value)
    assert "batch_size is 28" in str(raised.value)
    assert "--batch-size 27" in str(raised.value)


def test_a_batch_of_one_is_advised_where_it_can_be_trained(default: Config, tmp_path: Path) -> None:
    clips = clips_of(["a/1.wav"])
    for recipe, advised in (("sn-wgan-gp", True), ("lofi-wgan", False)):
        cfg = change(config.RECIPES[recipe], {"output_dir": str(tmp_path)})
        with pytest.raises(UserError, match="1 usable clip to train on") as raised:
            dataset.split(cfg, clips, known=False)
        assert ("--batch-size 1" in str(raised.value)) == advised
