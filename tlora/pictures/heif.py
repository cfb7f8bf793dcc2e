"""HEIC, as phones write it: decoded where the extra `heif` is installed, refused by the name of the extra where it is not."""

import importlib.metadata
import io
from typing import Any

from PIL import Image

from tlora.pictures.boxes import items_are_text
from tlora.pictures.colour import Refused

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BRAND_BYTES = slice(8, 64)  # the major one, then those that it is compatible with


def is_heif(data: bytes) -> bool:
    """Whether the bytes of a file are HEIF's; AVIF, which may call itself so too, is pillow's."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS and b"avif" not in data[_BRAND_BYTES]


def heif_version() -> str:
    """Return the version of what decodes HEIC; empty where nothing does."""
    try:
        return importlib.metadata.version("pi-heif")
    except importlib.metadata.PackageNotFoundError:
        return ""


def open_heif(data: bytes, max_pixels: int) -> Image.Image:
    """Return the primary picture, upright, with 8 bits a channel and its colour profile.

    Raises:
        Refused, ValueError, RuntimeError, EOFError, OSError: As `heif_size`.
    """
    picture: Image.Image = _read_head(data, max_pixels).to_pillow()
    return picture


def heif_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Return width and height of the primary picture once upright, without decoding it.

    Raises:
        Refused: If the extra is not installed, or there are too many pixels.
        ValueError, RuntimeError, EOFError, OSError: If it is damaged, in the decoder's words.
    """
    width, height = _read_head(data, max_pixels).size
    return width, height


def _read_head(data: bytes, max_pixels: int) -> Any:
    try:
        import pi_heif
    except ImportError as error:
        remedy = "pip install 'flux-tlora[heif]' here, or convert it to JPEG first"
        raise Refused("it is HEIC, which the optional extra 'heif' reads", remedy) from error
    if not items_are_text(data):
        raise ValueError("an item's kind or name is not text")
    heif = pi_heif.open_heif(io.BytesIO(data))
    width, height = heif.size
    if width * height > max_pixels:
        raise Refused(
            f"it has {width * height / 1e6:.0f} million pixels, more than {max_pixels / 1e6:.0f}", "save a smaller copy"
        )
    return heif
