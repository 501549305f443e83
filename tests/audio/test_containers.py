"""Headers that state too little, too much or nothing: the sound is read to its end."""

from __future__ import annotations

import io
import os
import struct
import time

import numpy as np
import pytest
import soundfile
from sound_files import encoded, one_clip, strongest, wav_header

from soundgan import audio
from soundgan.audio import BadClip, containers, files

RATE = 22050
SECONDS = 8


@pytest.fixture(scope="module")
def rising() -> np.ndarray:
    """Eight seconds of a tone that rises from 200 Hz by 100 Hz a second, with some noise."""
    t = np.arange(SECONDS * RATE) / RATE
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(t))
    return 0.4 * np.sin(2 * np.pi * (200 * t + 50 * t**2)) + noise


def is_whole(path, seconds=SECONDS, within=0.01):
    """Whether a file of `rising` has its length, and its second and last but one second."""
    extent = audio.extent(path)
    assert extent.seconds == pytest.approx(seconds, abs=within)
    for second in (1, seconds - 2):
        wave = audio.read_clips(path, RATE, RATE, second)[0][0]
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(RATE))) ** 2
        centre = (spectrum * np.arange(len(spectrum))).sum() / spectrum.sum()
        assert centre == pytest.approx(200 + 100 * (second + 0.5), abs=25)


def patch(content: bytes, *changes: tuple[int, bytes]) -> bytes:
    out = bytearray(content)
    for at, new in changes:
        out[at : at + len(new)] = new
    return bytes(out)


# ---- WAV and AIFF --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 40_000, 2**31], ids=hex)
@pytest.mark.parametrize("also_riff", [True, False])
def test_the_data_size_of_a_wav(tmp_path, rising, size, also_riff):
    """0 and 2^32 - 1 are what programs write into a pipe, 40 000 what one that died has left."""
    whole = encoded(rising)
    at = whole.index(b"data") + 4
    changes = [(at, struct.pack("<I", size))]
    changes += [(4, struct.pack("<I", size))] if also_riff else []
    (tmp_path / "a.wav").write_bytes(patch(whole, *changes))
    is_whole(tmp_path / "a.wav")


def test_what_follows_the_sound_of_a_wav_is_no_sound(tmp_path, rising):
    whole = encoded(rising)
    rest = np.random.default_rng(0).bytes(20_000)
    behind = {
        "chunk": b"junk" + struct.pack("<I", len(rest)) + rest,
        "tag": b"TAG" + rest,
        "zeros": bytes(20_000),
    }
    for name, content in behind.items():
        (tmp_path / f"{name}.wav").write_bytes(whole + content)
        assert audio.extent(tmp_path / f"{name}.wav").frames == len(rising)
    (tmp_path / "empty.wav").write_bytes(wav_header(RATE, 1) + behind["chunk"])
    with pytest.raises(BadClip, match="holds no samples"):
        one_clip(tmp_path / "empty.wav", RATE, 8192)


@pytest.mark.parametrize("size", [0, 2**64 - 1, 2**63 - 1, 40_000, 10**12], ids=hex)
def test_the_data_size_of_an_rf64(tmp_path, rising, size):
    whole = encoded(rising, format="RF64")
    at = whole.index(b"ds64") + 16
    (tmp_path / "a.wav").write_bytes(patch(whole, (at, struct.pack("<Q", size))))
    is_whole(tmp_path / "a.wav")


@pytest.mark.parametrize("frames", [0, 2**32 - 1, 20_000, 2**31], ids=hex)
def test_the_sizes_of_an_aiff(tmp_path, rising, frames):
    whole = encoded(rising, format="AIFF")
    count = whole.index(b"COMM") + 10, struct.pack(">I", frames)
    size = whole.index(b"SSND") + 4, struct.pack(">I", 2 * frames & 0xFFFFFFFF)
    for name, changes in {"count": [count], "size": [size], "both": [count, size]}.items():
        (tmp_path / f"{name}.aiff").write_bytes(patch(whole, *changes))
        is_whole(tmp_path / f"{name}.aiff")


def test_a_sparse_file_of_many_channels_costs_little(tmp_path):
    """4 kB on the disk that state 64 channels at 768 kHz."""
    resource = pytest.importorskip("resource")
    samples = np.random.default_rng(0).integers(-9000, 9000, (16, 64), np.int16).tobytes()
    with open(tmp_path / "a.wav", "wb") as file:
        file.write(wav_header(768_000, 64, samples, frames=3_000_000))
        file.truncate(44 + 3_000_000 * 128)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    wave, rate, seconds = one_clip(tmp_path / "a.wav", RATE, 3 * RATE)
    assert (rate, seconds) == (768_000, pytest.approx(3.90625))
    assert wave[:2].any()
    assert np.abs(wave[100:]).max() < 1e-4
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


# ---- FLAC and MP3 --------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [0, 2**36 - 1, 5, 40_000, SECONDS * RATE + 1000, 10**7])
def test_the_number_of_samples_of_a_flac(tmp_path, rising, total):
    whole = encoded(rising, format="FLAC")
    stated = bytes([whole[21] & 0xF0 | total >> 32]) + struct.pack(">I", total & 0xFFFFFFFF)
    (tmp_path / "a.flac").write_bytes(patch(whole, (21, stated)))
    is_whole(tmp_path / "a.flac")
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    (tmp_path / "tagged.flac").write_bytes(tag + (tmp_path / "a.flac").read_bytes())
    is_whole(tmp_path / "tagged.flac")


def test_a_flac_that_was_cut_is_read_as_far_as_it_goes(tmp_path, rising):
    whole = encoded(rising, format="FLAC")
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    assert 3 < audio.extent(tmp_path / "a.flac").seconds < 4.2
    wave, _, _ = one_clip(tmp_path / "a.flac", RATE, SECONDS * RATE)
    assert wave[2 * RATE : 3 * RATE].any()
    assert not wave[5 * RATE :].any()


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("lie", ["no frames", "few", "many", "no header", "twice"])
def test_the_number_of_frames_of_an_mp3(tmp_path, rate, lie):
    t = np.arange(6 * rate) / rate
    loud = np.where(t < 3, 0.02, 1.0)  # quiet and cheap at first: what it states by size is wrong
    noise = np.random.default_rng(0).standard_normal((len(t), 2))
    wave = loud[:, None] * (0.2 * np.sin(2 * np.pi * 440 * t)[:, None] + 0.1 * noise)
    with io.BytesIO() as file:
        how = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.5}
        soundfile.write(file, wave, rate, **how)
        whole = file.getvalue()
    at = whole.index(b"Xing")
    frames = {"no frames": 0, "few": 20, "many": 10**8}
    if lie == "no header":
        content = patch(whole, (at, bytes(120)))
    elif lie == "twice":
        content = whole + whole
    else:
        content = patch(whole, (at + 8, struct.pack(">I", frames[lie])))
    (tmp_path / "a.mp3").write_bytes(content)
    seconds = 12 if lie == "twice" else 6
    assert audio.extent(tmp_path / "a.mp3").seconds == pytest.approx(seconds, abs=0.4)
    last = audio.read_clips(tmp_path / "a.mp3", rate, rate, seconds - 2)[0][0]
    assert strongest(last, rate) == pytest.approx(440, abs=2)
    assert np.abs(last).max() > 0.25


@pytest.mark.parametrize("seconds", [0.004, 0.5, 3.21])
@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
def test_frames_are_counted_without_decoding(tmp_path, seconds, rate):
    """Of honest files: a check that costs a fraction of a millisecond."""
    wave = 0.3 * np.random.default_rng(0).standard_normal((int(seconds * rate), 2))
    for kind, slack in (("FLAC", 0), ("MP3", files.MP3_PADDING)):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(encoded(wave, rate, format=kind))
        with open(path, "rb") as file:
            counted = containers.counted_samples(file, path.stat().st_size, kind)
        assert 0 <= counted - len(wave) <= slack


# ---- Ogg -----------------------------------------------------------------------------------------


def _checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 1 << 31 else 0)) & 0xFFFFFFFF
    return value


def _pages(content: bytes) -> list[bytes]:
    pages, at = [], 0
    while at < len(content):
        laces = content[at + 27 : at + 27 + content[at + 26]]
        size = 27 + len(laces) + sum(laces)
        pages.append(content[at : at + size])
        at += size
    return pages


def _signed(page: bytes, at: int, new: bytes) -> bytes:
    page = patch(page, (at, new), (22, bytes(4)))
    return patch(page, (22, struct.pack("<I", _checksum(page))))


def with_serial(content: bytes, number: int) -> bytes:
    """An Ogg file whose stream has another number."""
    return b"".join(_signed(page, 14, struct.pack("<I", number)) for page in _pages(content))


def ends_at(content: bytes, sample: int) -> bytes:
    """An Ogg file whose last page states another number of samples."""
    *pages, last = _pages(content)
    return b"".join(pages) + _signed(last, 6, struct.pack("<q", sample))


OGGS = [("VORBIS", 22_050), ("OPUS", 48_000)]


@pytest.mark.parametrize(("codec", "rate"), OGGS)
@pytest.mark.parametrize("serials", [(7, 7, 7), (7, 8, 9)], ids=["same", "other"])
def test_ogg_streams_that_were_joined(tmp_path, codec, rate, serials):
    parts = []
    for hz, serial in zip((500, 1000, 2000), serials):
        t = np.arange(2 * rate) / rate
        tone = 0.4 * np.sin(2 * np.pi * hz * t)
        parts.append(with_serial(encoded(tone, rate, format="OGG", subtype=codec), serial))
    (tmp_path / "a.ogg").write_bytes(b"".join(parts))
    assert audio.extent(tmp_path / "a.ogg").seconds == pytest.approx(6, abs=0.01)
    for second, hz in enumerate((500, 500, 1000, 1000, 2000, 2000)):
        wave, _, seconds = audio.read_clips(tmp_path / "a.ogg", RATE, RATE, second)
        assert seconds == pytest.approx(6, abs=0.01)
        assert strongest(wave[0]) == pytest.approx(hz, abs=2)
    across = audio.read_clips(tmp_path / "a.ogg", RATE, 6 * RATE)[0][0]
    for second, hz in enumerate((500, 500, 1000, 1000, 2000, 2000)):
        assert strongest(across[second * RATE : (second + 1) * RATE]) == pytest.approx(hz, abs=2)
    (tmp_path / "cut.ogg").write_bytes(b"".join(parts)[: -len(parts[2]) - 50 + 60])
    assert audio.extent(tmp_path / "cut.ogg").seconds == pytest.approx(4, abs=0.01)


def test_ogg_streams_of_two_rates_are_left_out(tmp_path, rising):
    one = with_serial(encoded(rising, format="OGG", subtype="VORBIS"), 1)
    two = with_serial(encoded(rising, 44_100, format="OGG", subtype="VORBIS"), 2)
    (tmp_path / "a.ogg").write_bytes(one + two)
    with pytest.raises(BadClip, match="joined of sounds at 22050 and 44100 Hz"):
        one_clip(tmp_path / "a.ogg", RATE, RATE)


@pytest.mark.parametrize("stated", [2**63 - 1, 10**12, -1, 40_000])
def test_the_end_that_an_ogg_states(tmp_path, rising, stated):
    whole = encoded(rising, format="OGG", subtype="VORBIS")
    (tmp_path / "a.ogg").write_bytes(ends_at(whole, stated))
    is_whole(tmp_path / "a.ogg", within=1.0)  # without its last page, a second at most


# ---- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"format": "WAV", "subtype": "PCM_24"},
        {"format": "FLAC"},
        {"format": "MP3"},
        {"format": "AIFF"},
        {"format": "OGG", "subtype": "VORBIS"},
        {"format": "OGG", "subtype": "OPUS"},
    ],
    ids=lambda how: how.get("subtype", how["format"]),
)
def test_honest_files_are_read_as_they_are(tmp_path, how):
    wave = 0.3 * np.random.default_rng(0).standard_normal((3 * 48_000, 2))
    (tmp_path / "a.wav").write_bytes(encoded(wave, 48_000, **how))
    extent = audio.extent(tmp_path / "a.wav")
    assert extent.streams == ((None, soundfile.info(tmp_path / "a.wav").frames),)
    plain = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    ours = files._mono(tmp_path / "a.wav", extent, 0, 10**6, files.never)
    np.testing.assert_array_equal(ours, (plain[:, 0] + plain[:, 1]) / 2)


def test_block_by_block_is_at_once(tmp_path, monkeypatch):
    """A decoder that is not sent back after each block goes on where it was, MP3 and Vorbis too."""
    wave = 0.3 * np.random.default_rng(0).standard_normal((48_000, 2))
    for how in ({"format": "MP3"}, {"format": "OGG", "subtype": "VORBIS"}, {"format": "FLAC"}):
        path = tmp_path / f"a.{how['format']}"
        path.write_bytes(encoded(wave, 48_000, **how))
        at_once = one_clip(path, RATE, RATE)[0]
        with monkeypatch.context() as patched:
            patched.setattr(files, "BLOCK", 1000)
            assert np.array_equal(one_clip(path, RATE, RATE)[0], at_once)


def test_a_view_reads_and_seeks_like_a_file(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    with open(tmp_path / "a", "rb") as file:
        view = containers.Viewed(file, ((0, 10), b"xyz", (20, 20), (50, 100)))
        whole = bytes(range(10)) + b"xyz" + bytes(range(50, 100))
        assert view.read() == whole
        assert view.seek(-5, os.SEEK_END) == len(whole) - 5
        assert view.read(100) == whole[-5:]
        view.seek(8)
        assert view.read(6) == whole[8:14]
        assert view.tell() == 14
        view.seek(1000)
        assert view.read(1) == b""


def test_what_a_mac_leaves_beside_an_mp3(tmp_path, rising, monkeypatch):
    """libsndfile takes `._a.mp3`, and `._` in the working folder, for the fork of an SD2 file."""
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded(rising, format="MP3"))
    alone = one_clip(path, RATE, 2 * RATE)[0]
    for name in ("._a.mp3", "._"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7" + bytes(200))
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(one_clip(path, RATE, 2 * RATE)[0], alone)
    is_whole(path)
    whole = path.read_bytes()
    at = whole.index(b"Xing") + 8
    path.write_bytes(patch(whole, (at, bytes(4))))
    is_whole(path, within=0.1)
