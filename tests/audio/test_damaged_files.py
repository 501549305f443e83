"""Files of every format, damaged at random: used, or left out with a reason, and soon done."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sound_files import encoded

from soundgan import audio

FORMATS = {
    "wav": {"format": "WAV"},
    "float": {"format": "WAV", "subtype": "FLOAT"},
    "adpcm": {"format": "WAV", "subtype": "MS_ADPCM"},
    "rf64": {"format": "RF64"},
    "aiff": {"format": "AIFF"},
    "flac": {"format": "FLAC"},
    "mp3": {"format": "MP3"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
RATE = 16_000
EACH = 12  # damaged files of each format


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Flips, cuts, inserts and numbers that lie, most of them in the header."""
    out = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        most = 200 if rng.random() < 0.6 else len(out)
        at = int(rng.integers(min(most, len(out))))
        kind = rng.integers(5)
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del out[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            out[at:at] = rng.bytes(int(rng.integers(1, 500)))
        elif kind == 3:
            out[at : at + 4] = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff"][rng.integers(3)]
        else:
            del out[at + 100 :]
        if not out:
            return b""
    return bytes(out)


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_survived(tmp_path, name):
    rng = np.random.default_rng(sum(map(ord, name)))
    wave = 0.3 * rng.standard_normal((2 * RATE, 2))
    content = encoded(wave, RATE, **FORMATS[name])
    path = tmp_path / "a.wav"
    reasons = []
    for _ in range(EACH):
        path.write_bytes(damaged(content, rng))
        start = time.perf_counter()
        try:
            extent = audio.extent(path)
            assert 0 <= extent.frames <= 100 * 2 * RATE
            for first, count in ((0, 1), (1, 1), (0, 4)):
                waves, rate, _ = audio.read_clips(path, RATE, RATE // 2, first, count, extent)
                assert 1 <= len(waves) <= count
                assert waves.shape[1] == RATE // 2
                assert np.isfinite(waves).all()
                assert rate == extent.rate
        except audio.BadClip as reason:
            reasons.append(str(reason))
        assert time.perf_counter() - start < 5
    assert reasons
    assert all(len(reason) > 5 for reason in reasons)
