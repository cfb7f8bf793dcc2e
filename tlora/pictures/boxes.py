"""The boxes of AVIF and HEIC: the properties of the primary picture, of which decoders do not tell all.

Source:
    ISO/IEC 14496-12, section 4.2 (boxes); ISO/IEC 23008-12, sections 6.5 and 9.3 (`pitm`, `iprp`, `ipco`, `ipma`).
"""

import struct
from collections.abc import Iterator


def primary_properties(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return type and body of each property of the primary picture, in order; none of a damaged file."""
    try:
        meta = dict(_boxes(dict(_boxes(data))[b"meta"][4:]))
        described = list(_boxes(meta[b"iprp"]))
        properties = list(_boxes(dict(described)[b"ipco"]))
        wanted = _primary(meta[b"pitm"])
        numbers = [n for kind, body in described if kind == b"ipma" for item, n in _associations(body) if item == wanted]
        return [properties[n - 1] for n in numbers if 1 <= n <= len(properties)]
    except (KeyError, struct.error):
        return []


def items_are_text(data: bytes) -> bool:
    """Return whether the kinds and names of all items are UTF-8, as they must be; the decoder is not asked otherwise."""
    try:
        listed = dict(_boxes(dict(_boxes(data))[b"meta"][4:]))[b"iinf"]
        for kind, body in _boxes(listed[6 if listed[:1] == b"\0" else 8 :]):
            if kind == b"infe":
                body[8 if body[:1] <= b"\2" else 10 :].decode()
    except (KeyError, struct.error):
        return True  # the decoder refuses it
    except UnicodeDecodeError:
        return False
    return True


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        end = len(data) if length == 0 else at + length
        if end < at + head:
            return
        yield kind, data[at + head : end]
        at = end


def _primary(body: bytes) -> int:
    return int(struct.unpack_from(">H" if body[:1] == b"\0" else ">I", body, 4)[0])


def _associations(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield (item, number of a property) of an `ipma` box."""
    wide_items, wide_numbers = body[:1] != b"\0", bool(struct.unpack_from(">I", body)[0] & 1)
    (count,), at = struct.unpack_from(">I", body, 4), 8
    for _ in range(count):
        item, numbers = struct.unpack_from(">IB" if wide_items else ">HB", body, at)
        at += 5 if wide_items else 3
        for _ in range(numbers):
            (number,) = struct.unpack_from(">H" if wide_numbers else ">B", body, at)
            at += 2 if wide_numbers else 1
            yield item, number & (0x7FFF if wide_numbers else 0x7F)
