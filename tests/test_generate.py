"""New sounds from a finished run: from two files alone, the same for the same seed."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import generate
from soundgan.audio import GriffinLim, write_wav
from soundgan.config_io import change
from soundgan.models.sampling import draw_latents, generate_clips
from train import train


@pytest.fixture
def run(small):
    return train(replace(small, epochs=1))


def sounds_of(run_dir, out, *more: str) -> dict[str, bytes]:
    assert generate.main([str(run_dir), "--out", str(out), *more]) == 0
    return {p.name: p.read_bytes() for p in sorted(out.iterdir())}


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
    assert sounds_of(run.cfg.run_dir, tmp_path / "c", *one, "0.3") != usual


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
        ('"hop": 64', '"hop": "64"', "a constant has the wrong type"),
        ('"high"', '"../high"', "its classes are no plain names"),
        ("{", "", "is damaged"),
    ):
        (folder / "config.json").write_text(text.replace(old, new))
        assert generate.main([str(folder)]) == 2
        assert said in capsys.readouterr().err
