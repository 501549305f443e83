"""Sound files as they come, and the WAVs that are written."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile
import torch
from sound_files import HOSTILE, NOISE, RATE, encoded, one_clip, strongest, tone, wav_header

from soundgan import audio
from soundgan.audio import BadClip
from soundgan.errors import UserError

FORMATS = [
    *[{"format": "WAV", "subtype": s} for s in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")],
    *[{"format": "WAV", "subtype": s} for s in ("PCM_U8", "ALAW", "ULAW", "IMA_ADPCM", "MS_ADPCM")],
    {"format": "WAVEX", "subtype": "PCM_16"},
    {"format": "RF64", "subtype": "PCM_16"},
    {"format": "FLAC"},
    {"format": "OGG", "subtype": "VORBIS"},
    {"format": "MP3"},
    {"format": "AIFF"},
]


@pytest.mark.parametrize("how", FORMATS, ids=lambda how: "-".join(how.values()))
def test_formats(tmp_path, how):
    path = tmp_path / "sound.wav"  # under any name: the content decides
    path.write_bytes(encoded(tone(1000), **how))
    wave, rate, seconds = one_clip(path, RATE, 8192)
    assert wave.shape == (8192,)
    assert wave.dtype == np.float32
    assert rate == RATE
    assert strongest(wave) == pytest.approx(1000, abs=5)
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.1)
    assert seconds == pytest.approx(0.5, abs=0.06)  # MP3 pads


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_16", "PCM_16"])
def test_what_cannot_be_sought_is_decoded_from_its_beginning(tmp_path, subtype):
    """Clip after clip, it is what all of it at once is."""
    path = tmp_path / "a.wav"
    t = np.arange(3 * RATE) / RATE
    path.write_bytes(encoded(0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t), subtype=subtype))
    whole, _, _ = audio.read_clips(path, RATE, 8192, 0, 7)
    again = [audio.read_clips(path, RATE, 8192, number)[0][0] for number in range(7)]
    np.testing.assert_array_equal(np.stack(again), whole)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels(tmp_path, rate, channels):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(tone(1000, 1.0, rate, channels), rate))
    wave, found, _ = one_clip(path, RATE, 16384)
    assert found == rate
    assert strongest(wave) == pytest.approx(1000, abs=5)
    middle = wave[2000:-2000]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.01)


def test_resampling_lets_nothing_alias(tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded(tone(15_000, 1.0, 44100), 44100))
    wave, _, _ = one_clip(tmp_path / "a.wav", RATE, 16384)
    assert np.abs(wave[2000:-2000]).max() < 1e-3  # above the new half rate: gone, not folded


def test_cut_and_padded(tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded(tone(500, 1.0)))
    cut, _, _ = one_clip(tmp_path / "a.wav", RATE, 1000)
    padded, _, _ = one_clip(tmp_path / "a.wav", RATE, 40_000)
    np.testing.assert_allclose(cut, tone(500, 1.0)[:1000], atol=1e-4)
    assert np.abs(padded[20_000:22_050]).max() > 0.4
    assert not padded[22_050:].any()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_file_has_a_reason(tmp_path, name):
    content, reason = HOSTILE[name]
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadClip, match=reason):
        one_clip(tmp_path / "a.wav", RATE, 8192)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_every_depth_is_mixed_alike(tmp_path, subtype):
    wave = 0.9 * np.random.default_rng(0).uniform(-1, 1, (4000, 3))
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype=subtype)
    mono = soundfile.read(tmp_path / "a.wav", dtype="float32")[0].mean(axis=1)
    mixed, _, _ = one_clip(tmp_path / "a.wav", RATE, 4000)
    np.testing.assert_allclose(mixed, mono, rtol=0, atol=1e-7)


def test_a_header_that_promises_too_much_reads_what_is_there(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_header(RATE, 1, NOISE, frames=2**29))
    wave, _, _ = one_clip(tmp_path / "a.wav", RATE, 8192)
    assert wave[:2000].any()
    assert not wave[2000:].any()


def test_a_folder_or_a_dangling_link_under_a_sounds_name(tmp_path):
    (tmp_path / "a.wav").mkdir()
    (tmp_path / "b.wav").symlink_to(tmp_path / "gone")
    for name, reason in {"a.wav": "a folder", "b.wav": "No such file"}.items():
        with pytest.raises(BadClip, match=f"cannot be read: {reason}"):
            one_clip(tmp_path / name, RATE, 8192)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_and_a_device_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "b.wav").symlink_to("/dev/zero")
    for name in ("a.wav", "b.wav"):
        with pytest.raises(BadClip, match="a pipe or a device, not a regular file"):
            one_clip(tmp_path / name, RATE, 8192)


def test_silence_of_the_beginning_is_not_silence_of_the_file(tmp_path):
    wave = np.concatenate([np.zeros(2 * RATE), tone(500, 3)])
    (tmp_path / "late.wav").write_bytes(encoded(wave))
    said = r"silent in its first 1\.5 s of 5\.0 s: --sound\.cut consecutive uses all of it"
    with pytest.raises(audio.SilentClip, match=said):
        one_clip(tmp_path / "late.wav", RATE, 3 * RATE // 2)
    (tmp_path / "never.wav").write_bytes(encoded(np.zeros(RATE)))
    with pytest.raises(audio.SilentClip, match=r"^silent \(mixed to mono"):
        one_clip(tmp_path / "never.wav", RATE, 3 * RATE // 2)


def test_a_clip_is_read_where_the_file_has_changed_since(small, sounds):
    """What is remembered of a file is of its size and time."""
    path = sounds / "low" / "0.wav"
    soundfile.write(path, np.concatenate([tone(300, 1, 8000), tone(1000, 1, 8000)]), 8000)
    assert strongest(audio.read_clip(small, path, 5).numpy(), 8000) == pytest.approx(1000, abs=9)
    soundfile.write(path, tone(2000, 0.4, 8000), 8000)
    assert strongest(audio.read_clip(small, path, 0).numpy(), 8000) == pytest.approx(2000, abs=9)
    with pytest.raises(UserError, match=r"0\.wav can no longer be read \(ends after 0\.4 s"):
        audio.read_clip(small, path, 5)


def test_a_sound_that_has_gone_is_named(small, sounds):
    with pytest.raises(UserError, match=r"0\.wav can no longer be read"):
        audio.read_clip(small, sounds / "none" / "0.wav", 0)


def test_wavs_are_16_bit_and_never_clipped(tmp_path):
    loud = torch.sin(torch.arange(1000) / 10) * 3
    audio.write_wav(tmp_path / "loud.wav", loud, RATE)
    wave, rate = soundfile.read(tmp_path / "loud.wav", dtype="int16")
    assert rate == RATE
    assert soundfile.info(tmp_path / "loud.wav").subtype == "PCM_16"
    assert 32000 < np.abs(wave).max() < 32767
    np.testing.assert_allclose(wave / 32768, loud.numpy() * 0.999 / 3, atol=1e-4)
    audio.write_wav(tmp_path / "quiet.wav", loud / 30, RATE)
    quiet = soundfile.read(tmp_path / "quiet.wav")[0]
    np.testing.assert_allclose(quiet, loud.numpy() / 30, atol=1e-4)  # not turned up either
