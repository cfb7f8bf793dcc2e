"""ICC profiles made of a few numbers, primaries, white and a curve, for files that say their colours by code.

LittleCMS then converts all pictures alike, whichever way they say what their numbers mean.
"""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]  # CIE 1931 x, y
D65: Point = (0.3127, 0.3290)
SRGB_PRIMARIES: tuple[Point, Point, Point] = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
ADOBE_RGB_PRIMARIES: tuple[Point, Point, Point] = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
ADOBE_RGB_GAMMA = 563 / 256
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def matrix_profile(primaries: Sequence[Point], white: Point, curve: Sequence[float]) -> bytes:
    """Return an RGB profile of version 4.

    Args:
        primaries: Of red, green and blue.
        white: The white point.
        curve: A gamma alone, or the five numbers g, a, b, c, d of `(a x + b)^g` from d on and `c x` below.

    Raises:
        ValueError: If the points make no colour space.

    Source:
        ICC.1:2010, sections 7.2, 9.2 and 10.15 (`parametricCurveType`, functions 0 and 3), annex E (Bradford).
    """
    columns = _adapted(primaries, white)
    kind = {1: 0, 5: 3}[len(curve)]
    tone = b"para" + bytes(4) + struct.pack(">HH", kind, 0) + b"".join(map(_fixed, curve))
    tags = [(b"wtpt", _xyz(_D50))]
    tags += [(name + b"XYZ", _xyz(columns[:, n])) for n, name in enumerate((b"r", b"g", b"b"))]
    tags += [(name + b"TRC", tone) for name in (b"r", b"g", b"b")]
    return _assemble(tags)


def profile_tags(profile: bytes) -> dict[bytes, bytes]:
    """Return a profile's tags by name; none of a damaged one."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        entries = [struct.unpack_from(">4sII", profile, 132 + 12 * n) for n in range(min(count, 100))]
    except struct.error:
        return {}
    return {name: profile[start : start + length] for name, start, length in entries}


def _adapted(primaries: Sequence[Point], white: Point) -> NDArray[np.float64]:
    """Return the XYZ of red, green and blue as columns, adapted from the white point to D50."""
    try:
        at_white = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
        xyz_white = np.array([white[0] / white[1], 1.0, (1 - sum(white)) / white[1]])
        scaled = at_white * np.linalg.solve(at_white, xyz_white)
    except (ZeroDivisionError, np.linalg.LinAlgError) as error:
        raise ValueError("primaries that make no colour space") from error
    gains = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ xyz_white)
    adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ scaled
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 100:
        raise ValueError("primaries that make no colour space")
    return adapted


def _assemble(tags: Sequence[tuple[bytes, bytes]]) -> bytes:
    start, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags:
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", start + len(body), b"", 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    head += bytes(28) + b"".join(map(_fixed, _D50))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def _xyz(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))
