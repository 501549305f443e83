"""Damage to the bytes of a file: of any file, of sound files by their format, and of texts."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable

Damage = Callable[[random.Random, bytearray], bytes]

# ---- any file ------------------------------------------------------------------------------------


def flip_one(rng: random.Random, content: bytearray) -> bytes:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def flip_many(rng: random.Random, content: bytearray) -> bytes:
    for _ in range(rng.randint(2, 40)):
        flip_one(rng, content)
    return bytes(content)


def flip_head(rng: random.Random, content: bytearray) -> bytes:
    for _ in range(rng.randint(1, 6)):
        content[rng.randrange(min(80, len(content)))] ^= 1 << rng.randrange(8)
    return bytes(content)


def cut(rng: random.Random, content: bytearray) -> bytes:
    return bytes(content[: rng.randrange(1, len(content))])


def cut_end(rng: random.Random, content: bytearray) -> bytes:
    return bytes(content[: -rng.randint(1, min(64, len(content) - 1))])


def cut_beginning(rng: random.Random, content: bytearray) -> bytes:
    return bytes(content[rng.randrange(1, min(200, len(content))) :])


def cut_out(rng: random.Random, content: bytearray) -> bytes:
    begin = rng.randrange(len(content))
    return bytes(content[:begin] + content[begin + rng.randint(1, 1 + len(content) // 4) :])


def insert(rng: random.Random, content: bytearray) -> bytes:
    at = rng.randrange(len(content))
    return bytes(content[:at] + rng.randbytes(rng.choice((1, 2, 7, 512, 4096))) + content[at:])


def overwrite(rng: random.Random, content: bytearray) -> bytes:
    begin = rng.randrange(len(content))
    size = min(len(content) - begin, rng.randint(1, 4096))
    content[begin : begin + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return bytes(content)


def twice(_: random.Random, content: bytearray) -> bytes:
    return bytes(content + content)


def empty(*_: object) -> bytes:
    return b""


def noise(rng: random.Random, content: bytearray) -> bytes:
    return rng.randbytes(len(content))


BYTES = (flip_one, flip_many, cut, cut_end, cut_out, insert, overwrite, twice, empty, noise)
SOUND = (flip_one, flip_many, flip_head, flip_head, cut, cut_end, cut_beginning, cut_out, insert)
SOUND += (overwrite, twice)

# ---- headers that lie ----------------------------------------------------------------------------

ABSURD = (0, 1, 2, 3, 63, 64, 65, 255, 256, 999, 8000, 65535, 768_000, 2**31 - 1, 2**31, 2**32 - 1)


def lie(rng: random.Random, content: bytearray) -> bytes:
    """Another number in one or two fields of a header: lengths, channels, rates, sizes."""
    fields = FIELDS.get(bytes(content[:4]), _anywhere)(content)
    for _ in range(rng.randint(1, 2)):
        at, form = rng.choice(fields)
        size = struct.calcsize(form)
        if at + size <= len(content):
            value = rng.choice((*ABSURD, rng.getrandbits(32))) % 2 ** (8 * size)
            content[at : at + size] = struct.pack(form, value)
    return bytes(content)


def _wav(content: bytearray) -> list[tuple[int, str]]:
    about, data = content.find(b"fmt "), content.find(b"data")
    fields = [(4, "<I"), (about + 4, "<I"), (data + 4, "<I"), (data + 4, "<I")]
    layout = ((8, "H"), (10, "H"), (10, "H"), (12, "I"), (12, "I"), (16, "I"), (20, "H"), (22, "H"))
    return fields + [(about + at, f"<{form}") for at, form in layout]


def _aiff(content: bytearray) -> list[tuple[int, str]]:
    about, data = content.find(b"COMM"), content.find(b"SSND")
    layout = ((4, "I"), (8, "H"), (10, "I"), (10, "I"), (14, "H"), (16, "H"), (18, "I"))
    return [(4, ">I"), (data + 4, ">I")] + [(about + at, f">{form}") for at, form in layout]


def _flac(_: bytearray) -> list[tuple[int, str]]:
    """Sizes of blocks; rate and channels; the number of samples, of which 0 is 'unknown'."""
    return [(8, ">H"), (10, ">H"), (12, ">I"), (18, ">H"), (20, ">H"), (21, ">I"), (22, ">I")]


def _ogg(content: bytearray) -> list[tuple[int, str]]:
    """Positions of the last page; channels and rate (with the page's checksum no longer right)."""
    last = content.rfind(b"OggS")
    return [(last + 6, "<I"), (last + 10, "<I"), (39, "<B"), (40, "<I"), (last + 14, "<I")]


def _anywhere(content: bytearray) -> list[tuple[int, str]]:
    return [(at, form) for at in range(0, min(60, len(content) - 8)) for form in ("<H", "<I", ">I")]


FIELDS = {
    b"RIFF": _wav,
    b"RF64": _wav,
    b"RIFX": _wav,
    b"FORM": _aiff,
    b"fLaC": _flac,
    b"OggS": _ogg,
}


def unknown_length(_: random.Random, content: bytearray) -> bytes:
    """What a pipe leaves: the number of samples was not known when the header was written."""
    head = bytes(content[:4])
    if head == b"fLaC":
        content[21] &= 0xF0
        content[22:26] = bytes(4)
    elif head in (b"RIFF", b"RF64"):
        data = content.find(b"data")
        content[4:8] = content[data + 4 : data + 8] = b"\xff" * 4
    elif head == b"FORM":
        about = content.find(b"COMM")
        content[about + 10 : about + 14] = b"\xff" * 4
    elif head == b"OggS":
        last = content.rfind(b"OggS")
        content[last + 6 : last + 14] = b"\xff" * 8
        _page_checksum(content, last)
    return bytes(content)


def _page_checksum(content: bytearray, at: int) -> None:
    """Make the checksum of an Ogg page right again."""
    content[at + 22 : at + 26] = bytes(4)
    value = 0
    for byte in content[at:]:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    content[at + 22 : at + 26] = struct.pack("<I", value)


# ---- texts ---------------------------------------------------------------------------------------


def drop_row(rng: random.Random, content: bytearray) -> bytes:
    lines = bytes(content).splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def cut_rows(rng: random.Random, content: bytearray) -> bytes:
    """Cut at the end of a row: what is left looks whole."""
    lines = bytes(content).splitlines(keepends=True)
    return b"".join(lines[: rng.randrange(1, max(2, len(lines)))])


def digit(rng: random.Random, content: bytearray) -> bytes:
    """Another digit in the place of one."""
    places = [k for k, byte in enumerate(content) if chr(byte).isdigit()]
    if places:
        at = rng.choice(places)
        content[at] = ord(rng.choice([d for d in "0123456789" if d != chr(content[at])]))
    return bytes(content)


def quote(rng: random.Random, content: bytearray) -> bytes:
    at = rng.randrange(len(content))
    return bytes(content[:at] + b'"' + content[at:])


def spreadsheet(rng: random.Random, content: bytearray) -> bytes:
    """What a spreadsheet saves: semicolons and decimal commas, UTF-16, a mark at the beginning."""
    text = bytes(content).decode("utf-8-sig", errors="replace")
    form = rng.randrange(4)
    if form == 0:
        return text.replace(",", ";").replace(".", ",").encode()
    if form == 1:
        return text.encode("utf-16")
    if form == 2:
        return text.replace(",", "\t").encode("utf-16")
    return b"\xef\xbb\xbf" + text.replace("\r\n", "\n").replace("\n", "\r\n").encode()


def column_gone(rng: random.Random, content: bytearray) -> bytes:
    rows = [line.split(",") for line in bytes(content).decode(errors="replace").splitlines()]
    gone = rng.randrange(max(1, len(rows[0])))
    return "\n".join(",".join(r[:gone] + r[gone + 1 :]) for r in rows).encode() + b"\n"


CSV = (drop_row, cut_rows, digit, quote, spreadsheet, column_gone)
VALUES = (None, True, -1, 0, 1e308, "x", [], {}, [1, 2], float("nan"), 2**70, "../..", 3.5)


def key_gone(rng: random.Random, content: bytearray) -> bytes:
    table, at = json.loads(bytes(content)), ""
    places = _places(table)
    if places:
        holder, at = rng.choice(places)
        del holder[at]
    return json.dumps(table, indent=2).encode()


def other_value(rng: random.Random, content: bytearray) -> bytes:
    table = json.loads(bytes(content))
    if places := _places(table):
        holder, at = rng.choice(places)
        holder[at] = rng.choice([value for value in VALUES if value != holder[at]])
    return json.dumps(table, indent=2).encode()


def _places(value: object) -> list[tuple[object, object]]:
    """All places in nested tables and lists, as (holder, key)."""
    if isinstance(value, dict):
        own = [(value, key) for key in value]
    elif isinstance(value, list):
        own = [(value, k) for k in range(len(value))]
    else:
        return []
    return own + [place for holder, key in own for place in _places(holder[key])]


JSON = (key_gone, other_value, digit, quote, drop_row)
