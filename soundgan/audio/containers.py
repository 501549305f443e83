"""Where the samples of a sound file lie, whatever its header says of it.

libsndfile stops where a header says that the sound ends. A recorder that was switched off, a
program that writes to a pipe or files that were joined leave headers that say too little, or
nothing: here such a file gets another view, of the same bytes with a header that lets the decoder
go on to the end. No file is changed.
"""

from __future__ import annotations

import io
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

Span = tuple[int, int]  # first byte of a file, and the one after the last
View = tuple[
    Span | bytes, ...
]  # spans of a file and bytes to put between them, one after the other

WAVE_FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
TAGS = (b"ID3", b"TAG", b"APETAG", b"LYRICS", b"\0\0\0\0")  # what programs append to any file
UNKNOWN = b"\xff\xff\xff\xff"  # in WAV and AIFF: as far as the file goes
ID3 = b"ID3\4\0\0\0\0\0\x14" + bytes(20)  # a tag that says nothing
LEAST_REST = 4096  # bytes behind a sound that could be more of it
MAX_LINKS = 1000  # most Ogg streams joined in one file
MAX_PAGE = 65_307  # bytes of an Ogg page
MAX_PACKET = 8192  # samples of an Ogg packet


@dataclass(frozen=True)
class Header:
    """What was found about a file before it is decoded."""

    streams: tuple[View | None, ...] = (None,)  # one a sound in it; None: the file as it is
    doubtful: bool = False  # whether the end that it states cannot be


def look_into(file: BinaryIO, size: int) -> Header:
    """The sounds of a WAV, AIFF, FLAC, Ogg or MP3 file of `size` bytes.

    Looks at the containers only; where FLAC and MP3 end, `without_length` helps to find out.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] in WAVE_FORMS and head[8:12] == b"WAVE":
        return Header((_wave(file, size, head[:4]),))
    if head[:4] == b"FORM":
        return Header((_chunked(file, size, ">", b"SSND"),))
    if head[:4] == b"OggS":
        return _ogg(file, size)
    if head[:1] == b"\xff" and _has_resource_fork(os.fsdecode(file.name)):
        return Header(((ID3, (0, size)),))
    return Header()


# ---- a view of a file ----------------------------------------------------------------------------


class Viewed(io.RawIOBase):
    """A file to read that consists of spans of another one, and of bytes between them."""

    def __init__(self, file: BinaryIO, view: View) -> None:
        self.file, self.parts = file, view
        lengths = [len(p) if isinstance(p, bytes) else p[1] - p[0] for p in self.parts]
        self.starts = [0, *accumulate(lengths)]
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.starts[-1]}[whence]
        self.at = max(0, base + offset)
        return self.at

    def readinto(self, buffer: memoryview) -> int:
        done = 0
        while done < len(buffer) and self.at < self.starts[-1]:  # libsndfile wants all at once
            index = bisect_right(self.starts, self.at) - 1
            content = self._inside(index, min(len(buffer) - done, self.starts[index + 1] - self.at))
            if not content:  # the file was cut meanwhile
                break
            buffer[done : done + len(content)] = content
            done += len(content)
            self.at += len(content)
        return done

    def _inside(self, index: int, most: int) -> bytes:
        part, skip = self.parts[index], self.at - self.starts[index]
        if isinstance(part, bytes):
            return part[skip : skip + most]
        try:
            self.file.seek(part[0] + skip)
            return self.file.read(most)
        except OSError:  # libsndfile, which asks for it, can be told no more than "the end"
            return b""


def patched(size: int, *patches: tuple[int, bytes]) -> View:
    """A file of `size` bytes with other bytes at these offsets, which rise."""
    view: list[Span | bytes] = []
    at = 0
    for offset, content in patches:
        view += [(at, offset), content]
        at = offset + len(content)
    return (*view, (at, size))


# ---- WAV and AIFF: chunks ------------------------------------------------------------------------


def _wave(file: BinaryIO, size: int, form: bytes) -> View | None:
    if form in (b"RF64", b"BW64"):
        return _rf64(file, size)
    return _chunked(file, size, ">" if form == b"RIFX" else "<", b"data")


def _chunked(file: BinaryIO, size: int, order: str, wanted: bytes) -> View | None:
    """The same file with the sound to its end, where the size of its sound cannot be."""
    chunk = _chunk(file, size, order, wanted)
    if chunk is None or not _too_small(file, size, order, *chunk):
        return None
    return patched(size, (4, UNKNOWN), (chunk[0] - 4, UNKNOWN))


def _rf64(file: BinaryIO, size: int) -> View | None:
    """The sizes of more than 4 GB stand in a chunk of their own, ds64."""
    sizes, sound = _chunk(file, size, "<", b"ds64"), _chunk(file, size, "<", b"data")
    if sizes is None or sound is None:
        return None
    file.seek(sizes[0] + 8)
    stated = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
    begin = sound[0]
    if stated <= size - begin and not _too_small(file, size, "<", begin, stated):
        return None
    return patched(size, (sizes[0] + 8, struct.pack("<Q", size - begin)), (begin - 4, UNKNOWN))


def _chunk(file: BinaryIO, size: int, order: str, wanted: bytes) -> tuple[int, int] | None:
    """Offset and stated size of the content of a chunk, or None."""
    at = 12
    for _ in range(1000):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return None
        length = struct.unpack(order + "I", head[4:])[0]
        if head[:4] == wanted:
            return at + 8, length
        at += 8 + length + length % 2
        if at > size:
            return None
    return None


def _too_small(file: BinaryIO, size: int, order: str, begin: int, length: int) -> bool:
    """Whether more of a sound follows than its chunk states: what follows is no other chunk."""
    end = begin + length
    if size - end < LEAST_REST:
        return length == 0 and size > begin and not _is_chunk(file, size, order, begin)
    return not any(_is_chunk(file, size, order, at) for at in {end, end + length % 2})


def _is_chunk(file: BinaryIO, size: int, order: str, at: int) -> bool:
    file.seek(at)
    head = file.read(8)
    if head.startswith(TAGS):
        return True
    if len(head) < 8 or not re.fullmatch(rb"[ -~]{4}", head[:4]):
        return False
    return at + 8 + struct.unpack(order + "I", head[4:])[0] <= size


# ---- Ogg: pages ----------------------------------------------------------------------------------


def _ogg(file: BinaryIO, size: int) -> Header:
    """The streams that were joined to one file, each to be opened by itself."""
    begins, behind = [], -1
    for at in _first_pages(file):
        if at != behind:  # else it begins beside the one before: sound and picture of a film
            begins.append(at)
        file.seek(at + 26)
        segments = file.read(1 + 255)
        behind = at + 27 + segments[0] + sum(segments[1 : 1 + segments[0]]) if segments else -1
        if len(begins) > MAX_LINKS:
            break
    streams = [
        _pages(file, begin, end) for begin, end in zip(begins[:MAX_LINKS], [*begins[1:], size])
    ]
    if not streams:
        return Header()
    views = tuple(((span,) if span != (0, size) else None) for span, _ in streams)
    return Header(views, any(doubtful for _, doubtful in streams))


def _first_pages(file: BinaryIO) -> Iterator[int]:
    """Offsets of the pages with which Ogg streams begin."""
    at, overlap = 0, b""
    while True:
        file.seek(at)
        if not (piece := file.read(1 << 20)):
            return
        for match in re.finditer(rb"OggS\0[\x02\x03\x06\x07]", overlap + piece):
            yield at - len(overlap) + match.start()
        at += len(piece)
        overlap = piece[-5:]


def _pages(file: BinaryIO, begin: int, end: int) -> tuple[Span, bool]:
    """What to decode of one stream, and whether the length that its last page states cannot be."""
    start = max(begin, end - 2 * MAX_PAGE)
    file.seek(start)
    content = file.read(end - start)
    last = content.rfind(b"OggS\0")
    before = content.rfind(b"OggS\0", 0, last) if last > 0 else -1
    if before < 0 or content[before + 14 : before + 18] != content[last + 14 : last + 18]:
        return (begin, end), False  # one page, or of two streams side by side
    here, there = (
        struct.unpack("<q", content[at + 6 : at + 14].ljust(8, b"\0"))[0] for at in (before, last)
    )
    if 0 <= there < here:  # it would end before it does: without that page
        return (begin, start + last), False
    laces = content[last + 26 :]
    packets = sum(lace < 255 for lace in laces[1 : 1 + laces[0]]) if laces else 0
    return (begin, end), here >= 0 and there - here > MAX_PACKET * (packets + 1)


# ---- FLAC and MP3: a length in the header --------------------------------------------------------


def without_length(file: BinaryIO, size: int, kind: str, rate: int, channels: int) -> View | None:
    """A FLAC or MP3 file (`kind`, by libsndfile's name) whose header states no length, or None.

    The decoder then goes on to its end.
    """
    begin = _behind_id3(file)
    if kind == "FLAC":
        file.seek(begin)
        head = file.read(26)
        if head[:4] != b"fLaC" or len(head) < 26:
            return None
        # STREAMINFO: the low four bits of byte 21 and the next four hold the number of samples.
        return patched(size, (begin + 21, bytes([head[21] & 0xF0, 0, 0, 0, 0])))
    if kind != "MP3":
        return None
    file.seek(begin)
    head = file.read(4096)
    found = re.search(rb"(Xing|Info)\0\0\0.", head, re.DOTALL)
    if found and head[found.end() - 1] & 1:  # a number of frames follows
        view = patched(size, (begin + found.end(), UNKNOWN))
    else:
        view = ((0, begin), _xing_frame(rate, channels), (begin, size))
    return view if begin else (ID3, *view)


def counted_samples(file: BinaryIO, size: int, kind: str) -> int | None:
    """Where a FLAC or MP3 file (`kind`) ends by its frames, undecoded; None where that is unclear.

    Of an MP3, what its encoder added is counted too.
    """
    return _flac_samples(file, size) if kind == "FLAC" else _mp3_samples(file, size)


def _flac_samples(file: BinaryIO, size: int) -> int | None:
    """Each frame of a FLAC file says which it is: that is read of the last one."""
    file.seek(_behind_id3(file))
    head = file.read(26)
    usual = int.from_bytes(head[8:10], "big")  # samples of a block
    longest = int.from_bytes(head[15:18], "big") or 65_536  # bytes of a frame
    file.seek(max(0, size - longest - LEAST_REST))
    content = file.read()
    for match in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", content))):
        header = _flac_header(content[match.start() :][:16], usual)
        if header is not None:
            number, block = header
            return (number if match.group()[1] & 1 else number * usual) + block
    return None


def _flac_header(head: bytes, usual: int) -> tuple[int, int] | None:
    """Number of a FLAC frame, or of its first sample, and its samples; None where it is no frame.

    RFC 9639, section 9.1.
    """
    if len(head) < 16:
        return None
    ones = next((bit for bit in range(8) if not head[4] >> 7 - bit & 1), 8)  # as in UTF-8
    more = max(0, ones - 1)
    if ones in (1, 8) or any(byte >> 6 != 0b10 for byte in head[5 : 5 + more]):
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    at, code = 5 + more, head[2] >> 4
    if code in (6, 7):
        block = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    elif code < 2:
        block = 192 if code else usual
    else:
        block = 576 << code - 2 if code < 6 else 256 << code - 8
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    check = 0
    for byte in head[: at + 1]:  # with its own checksum, zero
        check ^= byte
        for _ in range(8):
            check = (check << 1 ^ (0x07 if check & 0x80 else 0)) & 0xFF
    return None if check else (number, block)


def _mp3_samples(file: BinaryIO, size: int) -> int | None:
    """The frames of an MP3, counted; None where anything else is among them."""
    at, count, key = _behind_id3(file), 0, 0
    while True:
        file.seek(at)
        piece = file.read(1 << 20)
        inside, most = 0, len(piece) - 3
        while inside < most and piece[inside] == 0xFF:
            key = (piece[inside + 1] & 0xFE) << 8 | piece[inside + 2] & 0xFE
            length = FRAME_BYTES.get(key)
            if length is None:
                break
            inside += length
            count += 1
        at += inside
        if inside < most or not inside:
            break
    if size - at > LEAST_REST or not count:
        return None
    return count * (1152 if key & 0x1800 == 0x1800 else 576)


def _frame_bytes() -> dict[int, int]:
    """Bytes of an MPEG layer III frame, by the bits of its header that decide."""
    kbits = {3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)}
    kbits[2] = kbits[0] = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    rates = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
    return {
        (0xE2 | version << 3) << 8 | kbit << 4 | rate << 2 | padding << 1: (
            (144_000 if version == 3 else 72_000) * kbits[version][kbit - 1] // rates[version][rate]
            + padding
        )
        for version in rates
        for kbit in range(1, 15)
        for rate in range(3)
        for padding in range(2)
    }


FRAME_BYTES = _frame_bytes()


def _has_resource_fork(path: str) -> bool:
    """Whether a Mac has left `._NAME` beside a file, on a disk of another system or in an archive.

    libsndfile takes an MP3 without a tag for the sound of that file, an SD2.
    """
    folder, name = os.path.split(path)
    beside = (os.path.join(folder, f"._{name}"), os.path.join(folder, ".AppleDouble", name))
    return any(map(os.path.exists, beside))


def _behind_id3(file: BinaryIO) -> int:
    """Where a file begins that may have an ID3v2 tag before it."""
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    length = 0
    for byte in head[6:10]:
        length = length << 7 | byte & 0x7F
    return 10 + length + (10 if head[5] & 0x10 else 0)


def _xing_frame(rate: int, channels: int) -> bytes:
    """An MPEG layer III frame of 64 kbit/s that holds no sound, and says that 2^32 - 1 follow."""
    version, low, kbits = (3, 32_000, 5) if rate >= 32_000 else (2, 16_000, 8)
    if rate < 16_000:
        version, low = 0, 8_000
    which = {low: 2, low * 44_100 // 32_000: 0, low * 48_000 // 32_000: 1}.get(rate, 0)
    head = bytes([0xFF, 0xE3 | version << 3, kbits << 4 | which << 2, 0xC0 if channels == 1 else 0])
    if version == 3:
        side, length = 17 if channels == 1 else 32, 144 * 64_000 // rate
    else:
        side, length = 9 if channels == 1 else 17, 72 * 64_000 // rate
    return (head + bytes(side) + b"Xing\0\0\0\1" + UNKNOWN).ljust(length, b"\0")
