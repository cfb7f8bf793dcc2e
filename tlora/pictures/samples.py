"""The samples of a file as 8-bit ones, where pillow alone would misread them: deep pictures, their transparency, odd TIFFs.

Pillow says nothing of what it misreads, so what has been seen to come out wrong is read in another way here, or refused.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.ImageFile import _Tile

from tlora.pictures.colour import Refused

_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANAR, _COLOUR_MAP = 258, 259, 262, 284, 320  # tags of TIFF
_INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBSAMPLING = 332, 338, 339, 530
_WHITE_IS_ZERO, _CMYK, _YCBCR, _LAB, _SEPARATE, _SIGNED, _OTHER_INKS = 0, 5, 6, 8, 2, 2, 2  # values of them
_UNCOMPRESSED, _PREMULTIPLIED = 1, 1
_RESAVE = "save it again as an ordinary TIFF or as PNG"
_DEPTH_BYTE = 24  # of a PNG


def load_samples(image: Image.Image, data: bytes) -> Image.Image:
    """Load an opened picture and return it with 8 bits a sample, transparency included.

    Args:
        image: As pillow opened it.
        data: The file's bytes.

    Raises:
        Refused: If its samples cannot be read right.
        OSError, SyntaxError, ValueError, and what else pillow raises: If it is damaged.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _load_tiff(image)
    image.load()
    if image.format == "PNG" and "transparency" in image.info and image.mode in ("L", "RGB", "I;16"):
        return _keyed_png(image, data)
    return eight_bits(image)


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Return whether the file holds more than 8 bits a sample, of which the highest 8 are read."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(_BITS, (1,))) > 8
    return image.mode.startswith("I;16") or (image.format == "PNG" and data[_DEPTH_BYTE] == 16)


def eight_bits(image: Image.Image, bits: int = 16, *, inverted: bool = False) -> Image.Image:
    """Return a picture with 8 bits a sample: the highest 8 of each.

    Raises:
        Refused: If the samples have no agreed range (signed or 32-bit integers, floats).
    """
    if image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "signed or 32-bit integers"
        raise Refused(f"its samples are {kind}, of which nobody knows the white point", "export it with 8 or 16 bits a channel")
    if not image.mode.startswith("I;16"):
        return image
    samples = _high_bytes(np.asarray(image), bits)
    return Image.fromarray(255 - samples if inverted else samples)


def _load_tiff(image: TiffImagePlugin.TiffImageFile) -> Image.Image:
    tags = image.tag_v2
    photometric, bits = tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO), max(tags.get(_BITS, (1,)))
    _refuse_tiff(image, photometric)
    if tags.get(_PLANAR) == _SEPARATE and tags.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED and len(image.getbands()) > 2:
        _read_by_libtiff(image, bits)
    image.load()
    if image.mode == "P" and max(tags[_COLOUR_MAP]) < 256:
        image.putpalette(bytes(np.array(tags[_COLOUR_MAP], np.uint8).reshape(3, -1).T))  # 8-bit levels, as libtiff guesses too
    return eight_bits(image, bits, inverted=photometric == _WHITE_IS_ZERO)


def _refuse_tiff(image: TiffImagePlugin.TiffImageFile, photometric: int) -> None:
    tags = image.tag_v2
    separate = tags.get(_PLANAR) == _SEPARATE
    if _SIGNED in tags.get(_SAMPLE_FORMAT, (1,)):
        raise Refused("its samples are signed integers, of which nobody knows the white point", "export it with 8 or 16 bits")
    if separate and image.mode in ("LAB", "LA", "La", "PA"):
        what = "Lab" if photometric == _LAB else "grey with transparency"
        raise Refused(f"it is a TIFF of {what} in separate planes, which is not read right", _RESAVE)
    if photometric == _CMYK and tags.get(_INK_SET, 1) == _OTHER_INKS:
        raise Refused("its inks are others than cyan, magenta, yellow and black", "export it as RGB")
    plain = tags.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    if photometric == _YCBCR and plain and (separate or tuple(tags.get(_SUBSAMPLING, (2, 2))) != (1, 1)):
        raise Refused("it is an uncompressed YCbCr TIFF, which is not read right", _RESAVE)


def _read_by_libtiff(image: TiffImagePlugin.TiffImageFile, bits: int) -> None:
    """Leave an uncompressed picture to libtiff, as compressed ones are: pillow's own reader takes planes of 16 bits for 8.

    Source:
        Pillow 13, `TiffImageFile._setup`, the branch of `use_load_libtiff`.
    """
    is_premultiplied = _PREMULTIPLIED in image.tag_v2.get(_EXTRA_SAMPLES, ())
    mode = (image.mode.replace("A", "a") if is_premultiplied else image.mode) + (";16N" if bits == 16 else "")
    image.use_load_libtiff = True
    image.tile = [_Tile("libtiff", (0, 0, *image._tile_size), 0, (mode, False, image.tag_v2.offset))]


def _keyed_png(image: Image.Image, data: bytes) -> Image.Image:
    """Return a PNG one of whose colours is transparent with that as alpha: pillow compares it with the high byte alone."""
    key, depth = image.info["transparency"], data[_DEPTH_BYTE]
    if image.mode == "L":
        levels = np.asarray(image)
        is_clear = levels == key * 255 // (2**depth - 1) if depth < 8 else levels == key % 256  # pillow stretches 2 and 4 bits
        return _with_alpha(Image.fromarray(levels), is_clear)
    if image.mode == "I;16":
        return _with_alpha(eight_bits(image), np.asarray(image) == key)
    high = np.asarray(image)
    if depth == 16:
        is_clear = ((high == [part >> 8 for part in key]) & (_low_bytes(data) == [part & 255 for part in key])).all(axis=-1)
    else:
        is_clear = (high == [part & 255 for part in key]).all(axis=-1)
    return _with_alpha(Image.fromarray(high), is_clear)


def _low_bytes(data: bytes) -> NDArray[np.uint8]:
    """Return the low bytes of a 48-bit PNG, which pillow reads as the high ones of the other order of bytes."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
        again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
        return np.asarray(again)


def _with_alpha(colours: Image.Image, is_clear: NDArray[np.bool_]) -> Image.Image:
    colours.putalpha(Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8)))
    return colours


def _high_bytes(samples: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    return (samples >> (bits - 8)).astype(np.uint8)
