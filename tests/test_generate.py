"""New sounds from a finished run: from two files alone, the same for the same seed."""

from __future__ import annotations

import errno
import os
import shutil
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import generate
from soundgan import files
from soundgan.audio import GriffinLim, write_wav
from soundgan.config_io import change
from soundgan.models.loading import packed, unpacked
from soundgan.models.sampling import GENERATED, draw_latents, file_stem, generate_clips
from train import train


@pytest.fixture
def run(small):
    return train(replace(small, epochs=1))


def sounds_of(run_dir, out, *more: str) -> dict[str, bytes]:
    assert generate.main([str(run_dir), "--out", str(out), *more]) == 0
    return sounds_in(out)


def sounds_in(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.wav"))}


def test_two_files_are_enough(run, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("generator.safetensors", "config.json"):
        shutil.copy(run.cfg.run_dir / name, alone)
    made = sounds_of(alone, tmp_path / "out", "--label", "low", "--count", "3", "--seed", "5")
    assert list(made) == [f"low_seed5_000{i}.wav" for i in range(3)]
    wave, rate = soundfile.read(tmp_path / "out" / "low_seed5_0000.wav")
    assert wave.shape == (32 * 64,)
    assert rate == 8000
    assert np.abs(wave).max() > 0.01


def test_sounds_are_the_generators(run, tmp_path):
    sounds_of(run.cfg.run_dir, tmp_path / "out", "--label", "mid", "--count", "1", "--seed", "3")
    z = draw_latents(run.cfg, 1, torch.Generator().manual_seed(3))
    mel = generate_clips(run.generator, z, torch.tensor([run.classes.index("mid")]))
    wave = GriffinLim(run.cfg, torch.device("cpu"))(mel)[0]
    write_wav(tmp_path / "expected.wav", wave, 8000)
    expected = soundfile.read(tmp_path / "expected.wav")[0]
    made = soundfile.read(tmp_path / "out" / "mid_seed3_0000.wav")[0]
    np.testing.assert_allclose(made, expected, atol=2 / 32768)


def test_the_spread_of_latents(run, tmp_path):
    z = draw_latents(run.cfg, 3, torch.Generator().manual_seed(3))
    wide = change(run.cfg, {"generator.latent_spread": 1.5})
    assert torch.equal(draw_latents(wide, 3, torch.Generator().manual_seed(3)), 1.5 * z)
    usual = sounds_of(run.cfg.run_dir, tmp_path / "a", "--label", "low", "--count", "1")
    one = ("--label", "low", "--count", "1", "--latent-spread")
    assert sounds_of(run.cfg.run_dir, tmp_path / "b", *one, "1") == usual
    narrow = sounds_of(run.cfg.run_dir, tmp_path / "c", *one, "0.3")
    assert list(narrow) == ["low_seed0_spread0.3_0000.wav"]
    assert set(narrow.values()) != set(usual.values())


def test_same_seed_same_sounds_and_more_only_adds(run, tmp_path):
    three = sounds_of(run.cfg.run_dir, tmp_path / "a", "--label", "low", "--count", "3")
    again = sounds_of(run.cfg.run_dir, tmp_path / "b", "--label", "low", "--count", "3")
    assert three == again
    other = sounds_of(run.cfg.run_dir, tmp_path / "c", "--label", "low", "--seed", "1")
    assert not set(three.values()) & set(other.values())
    assert len(set(three.values())) == 3
    five = sounds_of(run.cfg.run_dir, tmp_path / "d", "--label", "low", "--count", "5")
    assert {name: five[name] for name in three} == three


def test_every_class_by_default(run, tmp_path):
    made = sounds_of(run.cfg.run_dir, tmp_path / "out", "--count", "1")
    assert list(made) == ["high_seed0_0000.wav", "low_seed0_0000.wav", "mid_seed0_0000.wav"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--label", "hihg"], "no class 'hihg': did you mean high?"),
        (["--label", "LOW"], "did you mean low?"),
        (["--label", "zzz"], "known: high, low, mid."),
        (["--seed", "-1"], "seed = -1: must lie between"),
        (["--seed", str(10**30)], "seed = 1"),
        (["--seconds", "-1"], "seconds = -1: must lie between"),
        (["--count", "0"], "count = 0: must be at least 1 (--count)"),
    ],
)
def test_what_cannot_be_made_is_said(run, more, said, capsys):
    assert generate.main([str(run.cfg.run_dir), *more]) == 2
    assert said in capsys.readouterr().err


def test_folders_that_are_no_finished_run(run, tmp_path, capsys):
    folder = run.cfg.run_dir
    assert generate.main([str(tmp_path)]) == 2
    assert "is no run: it holds no config.json" in capsys.readouterr().err
    weights = folder / "generator.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:500])
    assert generate.main([str(folder)]) == 2
    assert "is damaged or of another run" in capsys.readouterr().err
    weights.unlink()
    assert generate.main([str(folder)]) == 2
    assert "holds no generator.safetensors yet" in capsys.readouterr().err
    assert generate.main([str(folder / "config.json")]) == 2
    assert "is no run" in capsys.readouterr().err
    text = (folder / "config.json").read_text()
    for old, new, said in (
        ('"hop"', '"hops"', "is damaged, or of another version of this program (Spectrogram has"),
        ('"hop"', '"hops"', "Spectrogram has no constant 'hops': did you mean hop?"),
        ('"hop": 64', '"hop": "64"', "sound.hop = '64': must be a whole number."),
        ('"high"', '"../high"', "its classes are no plain names"),
        ("{", "", "is damaged"),
    ):
        (folder / "config.json").write_text(text.replace(old, new))
        assert generate.main([str(folder)]) == 2
        assert said in capsys.readouterr().err


# ---- nothing is overwritten ----------------------------------------------------------------------


def test_names_carry_what_is_not_the_runs_own(run, tmp_path):
    cfg = run.cfg
    made = {}
    for more in (
        [],
        ["--seconds", "0.5"],
        ["--latent-spread", "0.3"],
        ["--vocoder", "librosa", "--seconds", "0.5"],
        ["--latent-spread", str(cfg.generator.latent_spread), "--vocoder", cfg.vocoder],
    ):
        one = ["--label", "low", "--count", "1", *more]
        before, made = made, sounds_of(cfg.run_dir, tmp_path / "out", *one)
        assert before.items() <= made.items()
    assert list(made) == [
        "low_seed0_0.5s_0000.wav",
        "low_seed0_0.5s_librosa_0000.wav",
        "low_seed0_0000.wav",
        "low_seed0_spread0.3_0000.wav",
    ]
    assert len(set(made.values())) == 4


def test_sounds_of_other_weights_get_a_number_and_the_same_ones_no_copy(run, tmp_path, capsys):
    out, two = tmp_path / "out", ("--label", "low", "--count", "2")
    first = sounds_of(run.cfg.run_dir, out, *two)
    assert sounds_of(run.cfg.run_dir, out, *two) == first
    path = run.cfg.run_dir / "generator.safetensors"
    weights, about = unpacked(path.read_bytes())
    path.write_bytes(packed({k: 0.9 * v for k, v in weights.items()}, about))
    for count in ("3", "3", "1"):
        both = sounds_of(run.cfg.run_dir, out, "--label", "low", "--count", count)
    assert first.items() <= both.items()
    assert list(both) == [  # those that were made together are called alike
        *("low_seed0_0000-2.wav", "low_seed0_0000.wav", "low_seed0_0001-2.wav"),
        *("low_seed0_0001.wav", "low_seed0_0002-2.wav"),
    ]
    assert "Wrote 1 WAV to" in capsys.readouterr().out
    foreign = tmp_path / "foreign.wav"
    foreign.write_bytes(b"mine")
    (out / "low_seed7_0000.wav").symlink_to(foreign)  # nor is a link followed
    assert "low_seed7_0000-2.wav" in sounds_of(run.cfg.run_dir, out, *two, "--seed", "7")
    assert foreign.read_bytes() == b"mine"


def test_a_folder_of_generated_sounds_is_marked_unless_it_holds_others(run, tmp_path, capsys):
    one = ("--label", "low", "--count", "1")
    for name in ("empty", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "own" / "bark.wav").write_bytes(b"")
    for name in ("new", "new", "empty", "own"):
        assert "holds other files, too" not in capsys.readouterr().out
        sounds_of(run.cfg.run_dir, tmp_path / name, *one)
    assert "own holds other files, too: training knows" in capsys.readouterr().out
    assert generate.main([str(run.cfg.run_dir), *one]) == 0
    marked = run.cfg.run_dir / "generated" / files.GENERATED_MARK
    assert marked.read_bytes() == files.GENERATED_TEXT
    there = [(tmp_path / n / files.GENERATED_MARK).exists() for n in ("new", "empty", "own")]
    assert there == [True, True, False]


def test_places_that_cannot_be_written_to_are_said(run, tmp_path, capsys):
    run_dir, one = str(run.cfg.run_dir), ("--label", "low", "--count", "1")
    (tmp_path / "file").write_text("x")
    assert generate.main([run_dir, "--out", str(tmp_path / "file"), *one]) == 2
    assert "file is no folder, and sounds need one: name another with --out." in said(capsys)
    assert generate.main([run_dir, "--out", str(tmp_path / "file" / "x"), *one]) == 2
    assert "name a folder: a file is in the way" in said(capsys)
    (tmp_path / "elsewhere").mkdir()
    (run.cfg.run_dir / "generated").symlink_to(tmp_path / "elsewhere")
    assert generate.main([run_dir, *one]) == 2
    assert "generated is a link, and nothing is written through a link" in said(capsys)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert generate.main([run_dir, "--out", f"{run_dir}/generated", *one]) == 0  # as it was named
    assert len(sounds_in(tmp_path / "elsewhere")) == 1


def said(capsys) -> str:
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1, text
    return text


def test_a_full_disk_is_named_and_leaves_no_half_file(run, tmp_path, monkeypatch, capsys):
    replace_file, writes = os.replace, []

    def full(source, target):
        writes.append(target)
        if len(writes) > 3:  # the mark and two sounds
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    arguments = [str(run.cfg.run_dir), "--label", "low", "--out", str(tmp_path / "out")]
    assert generate.main(arguments) == 2
    assert f"{tmp_path / 'out' / 'low_seed0_0002.wav'} cannot be read or written" in said(capsys)
    names = sorted(os.listdir(tmp_path / "out"))
    assert names == [".soundgan", "low_seed0_0000.wav", "low_seed0_0001.wav"]


def test_labels_are_equal_in_either_unicode_form_and_home_is_expanded(small, tmp_path, monkeypatch):
    (tmp_path / "data" / "low").rename(tmp_path / "data" / unicodedata.normalize("NFD", "côq"))
    cfg = train(replace(small, epochs=1)).cfg
    monkeypatch.setenv("HOME", str(tmp_path))
    place = f"~/{cfg.run_dir.relative_to(tmp_path)}"
    for form in ("NFC", "NFD"):
        label = unicodedata.normalize(form, "côq")
        arguments = [place, "--label", label, "--out", f"~/{form}", "--count", "1"]
        assert generate.main(arguments) == 0
        assert list(sounds_in(tmp_path / form)) == ["côq_seed0_0000.wav"]


def test_long_names_are_shortened():
    assert file_stem("dog", "_seed0_0000") == "dog_seed0_0000"
    rest = f"_seed{2**63 - 1}_spread0.123456_0.123456s_best_{'v' * 30}_0000"
    names = [file_stem(name, rest) for name in ("狗" * 60 + "a", "狗" * 60 + "b", "\udcff" * 250)]
    assert len(set(names)) == 3
    assert all(len(os.fsencode(f"{name}-9999.wav")) <= 255 for name in names)
    assert all(name.endswith(rest) for name in names)
    assert GENERATED.fullmatch(names[0] + "-2.wav")
    assert not GENERATED.fullmatch("bark.wav")
