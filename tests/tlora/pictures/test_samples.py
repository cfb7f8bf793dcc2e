"""TIFFs against tifffile, which reads them without pillow or libtiff; PNGs against their bytes."""

import io
import struct
from itertools import product

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.tasks.picture_corpus import encode, png, sample, tiff
from tlora.pictures.colour import Refused
from tlora.pictures.decode import decode_bytes

WHITE = 255


def ramps(bits: int, channels: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    rows, columns = np.mgrid[:48, :80]
    shares = (columns / 79, rows / 47, (rows + columns) / 126, 0.5 + 0.4 * np.sin(columns / 7))
    samples = np.stack([np.round(share * (2**bits - 1)) for share in shares[:channels]], axis=-1)
    return samples.astype(np.uint8 if bits == 8 else np.uint16)


def read(data: bytes) -> NDArray[np.int64]:
    return np.asarray(decode_bytes(data).picture).astype(np.int64)


def on_white(samples: NDArray[np.int64], bits: int, premultiplied: bool) -> NDArray[np.float64]:
    colour, alpha = samples[..., :3] / (2**bits - 1), samples[..., 3:] / (2**bits - 1)
    return WHITE * ((colour if premultiplied else colour * alpha) + 1 - alpha)


@pytest.mark.parametrize(("bits", "order"), [*product((8, 16), "<>")])
def test_colour_in_planes_tiles_and_strips_is_what_tifffile_reads(bits: int, order: str) -> None:
    for planes, tile, packed, extra in product(
        (False, True), (None, (32, 32)), (None, "zlib"), ((), ("unassalpha",), ("assocalpha",))
    ):
        samples = ramps(bits, 3 + len(extra))
        if extra == ("assocalpha",):
            samples[..., :3] = samples[..., :3] * (samples[..., 3:] / (2**bits - 1))
        laid_out = np.moveaxis(samples, -1, 0).copy() if planes else samples
        how = {"planarconfig": "separate" if planes else "contig", "tile": tile, "compression": packed, "byteorder": order}
        data = tiff(laid_out, photometric="rgb", extrasamples=extra or None, **how)
        known = tifffile.imread(io.BytesIO(data)).astype(np.int64)
        known = np.moveaxis(known, 0, -1) if planes else known
        meant = on_white(known, bits, extra == ("assocalpha",)) if extra else known >> (bits - 8)
        assert np.abs(read(data) - meant).max() <= 3, how  # the high bytes of colour and of alpha are mixed


@pytest.mark.parametrize(("photometric", "bits"), [*product(("minisblack", "miniswhite"), (8, 16))])
def test_grey_is_what_tifffile_reads_whichever_end_is_white(photometric: str, bits: int) -> None:
    data = tiff(ramps(bits, 1)[..., 0], photometric=photometric)
    known = tifffile.imread(io.BytesIO(data)) >> (bits - 8)
    assert np.array_equal(read(data)[..., 0], WHITE - known if photometric == "miniswhite" else known)


def test_twelve_bits_use_their_whole_range() -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x08, 0x00])  # 0x000, 0xfff, 0x800, 0x800
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 6}
    body = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<I", 14) + packed + struct.pack("<H", len(tags)) + body + bytes(4)
    assert read(data)[0, :, 0].tolist() == [0, 255, 128, 128]


def test_a_palette_of_8_bit_levels_is_no_black_picture() -> None:
    levels = np.array([[*range(256)]] * 3, np.uint16)
    assert read(tiff(np.full((4, 4), 200, np.uint8), photometric="palette", colormap=levels)).tolist()[0][0] == [200] * 3
    assert read(tiff(np.full((4, 4), 200, np.uint8), photometric="palette", colormap=levels * 257)).tolist()[0][0] == [200] * 3


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "seen"),
    [
        (16, 0, b"\x80\x01", b"\x80\x01", WHITE),
        (16, 0, b"\x80\x01", b"\x80\x02", 128),
        (16, 2, b"\x80\x01" * 3, b"\x80\x01" * 3, WHITE),
        (16, 2, b"\x80\x01" * 3, b"\x80\x01\x80\x01\x80\x02", 128),
        (8, 2, b"\x80" * 3, b"\x00\x80" * 3, WHITE),
        (8, 0, b"\x80", b"\x00\x80", WHITE),
        (4, 0, b"\x80", b"\x00\x08", WHITE),
        (4, 0, b"\x80", b"\x00\x88", 136),
        (2, 0, b"\x40", b"\x00\x01", WHITE),
        (1, 0, b"\x00", b"\x00\x00", WHITE),
        (1, 0, b"\x80", b"\x00\x00", WHITE),
    ],
)
def test_the_transparent_colour_of_a_png_is_compared_with_all_bits(
    depth: int, colour: int, row: bytes, key: bytes, seen: int
) -> None:
    assert read(png(1, 1, depth, colour, b"\0" + row, (b"tRNS", key))).tolist() == [[[seen] * 3]]


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_samples_are_refused_by_name(bits: int) -> None:
    with pytest.raises(Refused, match="signed integers"):
        decode_bytes(tiff(np.zeros((4, 4), f"i{bits // 8}"), photometric="minisblack"))


def test_a_tiff_of_an_unknown_kind_is_named_as_one() -> None:
    with pytest.raises(Refused, match="it is a TIFF of a kind that is not read here"):
        decode_bytes(tiff(np.zeros((4, 4, 3), np.float32), photometric="rgb"))


def test_what_pillow_writes_itself_is_as_before() -> None:
    for mode in ("1", "L", "RGB"):
        assert np.array_equal(read(encode(sample(mode), "TIFF")), np.asarray(sample(mode).convert("RGB")))
