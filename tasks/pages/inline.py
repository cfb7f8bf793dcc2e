"""Pictures inside a page, as data URIs that together stay within a budget of bytes."""

import base64
import io
import math
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

BUDGET = 16_000_000  # bytes of base64 in one page: browsers, mail and MLflow's viewer still open it at once
_SMALLEST_SIDE = 64  # pixels; below, a picture shows nothing
_QUALITY = 80
_BASE64 = 4 / 3


def inline_pictures(files: Iterable[Path], budget: int = BUDGET) -> dict[Path, str]:
    """Return the data URI of each WebP: the file as it is if all of them fit, else all of them smaller by the same factor.

    Args:
        files: What to show.
        budget: Bytes for all of them together. It is passed only where pictures of 64 pixels do not fit either.
    """
    originals = {file: file.read_bytes() for file in files}
    shown, side = originals, max((_longest_side(data) for data in originals.values()), default=0)
    while (total := _BASE64 * sum(map(len, shown.values()))) > budget and side > _SMALLEST_SIDE:
        side = max(_SMALLEST_SIDE, int(side * min(0.95, math.sqrt(budget / total))))
        shown = {file: _encode(Image.open(io.BytesIO(data)), side) for file, data in originals.items()}
    return {file: _uri(data) for file, data in shown.items()}


def inline_thumbnail(picture: Image.Image, side: int) -> str:
    """Return the data URI of a picture made smaller."""
    return _uri(_encode(picture, side))


def _longest_side(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as picture:
        return max(picture.size)


def _encode(picture: Image.Image, side: int) -> bytes:
    small, buffer = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue()


def _uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
