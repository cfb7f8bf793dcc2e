"""What files say of their colours, against the formulas of the standards: another way than LittleCMS's."""

import base64
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.tasks.picture_corpus import (
    HEIC,
    adobe_rgb_by_exif,
    bmp_with_profile,
    encode,
    linear_profile,
    nclx,
    png,
    sample,
    swapped_profile,
    tiff,
    with_clap,
)
from tlora.pictures.boxes import primary_properties
from tlora.pictures.cicp import cicp_profile
from tlora.pictures.colour import Refused, to_srgb
from tlora.pictures.decode import decode_bytes
from tlora.pictures.icc import matrix_profile

D65 = (0.3127, 0.3290)
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
ADOBE = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
Points = tuple[tuple[float, float], ...]
Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def decoded_srgb(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def by_formula(pixels: NDArray[np.uint8], primaries: Points, curve: Curve) -> NDArray[np.float64]:
    """Return sRGB levels by IEC 61966-2-1 and the matrices of primaries; the white point is D65, so nothing is adapted."""

    def to_xyz(points: Points) -> NDArray[np.float64]:
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points]).T
        return columns * np.linalg.solve(columns, [D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])

    light = curve(pixels / 255) @ to_xyz(primaries).T @ np.linalg.inv(to_xyz(SRGB)).T
    light = np.clip(light, 0, 1)
    return np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize(
    ("code", "primaries", "curve"),
    [
        ((12, 13), P3, decoded_srgb),
        ((12, 1), P3, decoded_srgb),
        ((9, 14), BT2020, decoded_srgb),
        ((1, 8), SRGB, lambda v: v),
        ((1, 4), SRGB, lambda v: v**2.2),
        ((12, 5), P3, lambda v: v**2.8),
    ],
)
def test_code_points_mean_what_the_formulas_say(code: tuple[int, int], primaries: Points, curve: Curve) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    picture, _ = to_srgb(Image.fromarray(pixels), cicp_profile(*code))
    assert np.abs(np.asarray(picture) - by_formula(pixels, primaries, curve)).max() <= 1


@pytest.mark.parametrize("code", [(1, 13), (2, 2), (1, 1), (1, 6), (2, 13)])
def test_code_points_of_srgb_change_nothing(code: tuple[int, int]) -> None:
    assert cicp_profile(*code) is None


def one_pixel(*extra: tuple[bytes, bytes], level: tuple[int, int, int] = (200, 60, 60)) -> tuple[int, ...]:
    picture = decode_bytes(png(1, 1, 8, 2, b"\0" + bytes(level), *extra)).picture
    return tuple(np.asarray(picture)[0, 0].tolist())


def profile_chunk(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"sRGB\0\0" + zlib.compress(profile)


def test_a_png_says_its_colours_the_newer_way_first() -> None:
    p3, srgb_code = (b"cICP", bytes([12, 13, 0, 1])), (b"cICP", bytes([1, 13, 0, 1]))
    linear = (b"gAMA", struct.pack(">I", 100_000))
    assert one_pixel(p3) == (217, 42, 52)
    assert one_pixel(p3, profile_chunk(swapped_profile())) == (217, 42, 52)
    assert one_pixel(srgb_code, profile_chunk(swapped_profile())) == (200, 60, 60)
    assert one_pixel(profile_chunk(swapped_profile()), linear)[1] > 150
    assert one_pixel((b"sRGB", b"\0"), linear) == (200, 60, 60)
    assert one_pixel(linear, level=(55, 55, 55)) == (128, 128, 128)


def test_gamma_and_primaries_of_a_png_are_applied_unless_they_are_srgbs() -> None:
    def points(*pairs: tuple[float, float]) -> tuple[bytes, bytes]:
        return b"cHRM", struct.pack(">8I", *(round(100_000 * number) for pair in pairs for number in pair))

    gamma = (b"gAMA", struct.pack(">I", 45_455))
    pixel = np.array([[[200, 60, 60]]], np.uint8)
    assert one_pixel(gamma) == one_pixel(gamma, points(D65, *SRGB)) == (200, 60, 60)
    meant = by_formula(pixel, ADOBE, lambda v: v**2.2)
    assert np.abs(np.array(one_pixel(gamma, points(D65, *ADOBE))) - meant).max() <= 1
    assert one_pixel((b"gAMA", bytes(4))) == (200, 60, 60)
    assert one_pixel(points((0, 0), (0, 0), (0, 0), (0, 0))) == (200, 60, 60)


@pytest.mark.parametrize("data", [encode(Image.new("RGB", (64, 64), (200, 60, 60)), "AVIF", quality=100, subsampling="4:4:4")])
def test_display_p3_by_nclx_is_applied_and_hdr_refused(data: bytes) -> None:
    pixel = np.asarray(decode_bytes(nclx(data, 12, 13)).picture)[5, 5].astype(int)
    assert np.abs(pixel - (217, 42, 52)).max() <= 1
    for file in (data, base64.b64decode(HEIC)):
        for transfer, name in ((16, "PQ"), (18, "HLG")):
            with pytest.raises(Refused, match=rf"it is HDR \({name}\)"):
                decode_bytes(nclx(file, 9, transfer))
    plain, wide = (np.asarray(decode_bytes(nclx(base64.b64decode(HEIC), p, 13)).picture)[5, 42].astype(int) for p in (1, 12))
    assert wide[0] > plain[0] + 5


def test_hdr_said_within_a_profile_is_refused() -> None:
    profile = matrix_profile(BT2020, D65, (2.4,))
    (count,) = struct.unpack_from(">I", profile, 128)
    moved = bytearray(profile[:128] + struct.pack(">I", count + 1))
    for n in range(count):
        name, start, length = struct.unpack_from(">4sII", profile, 132 + 12 * n)
        moved += struct.pack(">4sII", name, start + 12, length)
    body = profile[132 + 12 * count :]
    moved += struct.pack(">4sII", b"cicp", 144 + 12 * count + len(body), 12) + body + b"cicp" + bytes(4) + bytes([9, 16, 0, 1])
    moved[:4] = struct.pack(">I", len(moved))
    with pytest.raises(Refused, match="HDR"):
        decode_bytes(encode(sample(), "PNG", icc_profile=bytes(moved)))


def test_a_profile_is_judged_by_what_it_does_and_never_by_its_name() -> None:
    grey = Image.new("RGB", (1, 1), (55, 55, 55))
    named_srgb = decode_bytes(encode(grey, "PNG", icc_profile=linear_profile()))
    assert np.asarray(named_srgb.picture).tolist() == [[[128, 128, 128]]]
    assert named_srgb.notes == ()
    real = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(np.asarray(decode_bytes(encode(sample(), "PNG", icc_profile=real)).picture), np.asarray(sample()))


def test_a_grey_profile_holds_for_a_picture_with_transparency_too() -> None:
    opened = matrix_profile(SRGB, D65, (1.0,))
    start = opened.index(b"para")
    tags = [(b"wtpt", opened[opened.index(b"XYZ ", 132 + 12 * 7) :][:20]), (b"kTRC", opened[start : start + 16])]
    body, table = b"", b""
    for name, data in tags:
        table += struct.pack(">4sII", name, 132 + 24 + len(body), len(data))
        body += data
    grey = opened[:16] + b"GRAY" + opened[20:128] + struct.pack(">I", 2) + table + body
    grey = struct.pack(">I", len(grey)) + grey[4:]
    for mode, pixel in (("L", 55), ("LA", (55, 255)), ("LA", (55, 128))):
        decoded = decode_bytes(encode(Image.new(mode, (1, 1), pixel), "PNG", icc_profile=grey))
        meant = 128 if pixel != (55, 128) else round(128 * 128 / 255 + 127)
        assert abs(int(np.asarray(decoded.picture)[0, 0, 0]) - meant) <= 1
        assert "profile" not in [note.kind for note in decoded.notes]


def test_adobe_rgb_that_only_exif_tells_of_is_applied() -> None:
    picture = Image.new("RGB", (16, 16), (200, 60, 60))
    meant = by_formula(np.array([[[200, 60, 60]]], np.uint8), ADOBE, lambda v: v ** (563 / 256))
    assert np.abs(np.asarray(decode_bytes(adobe_rgb_by_exif(picture)).picture).astype(int)[8, 8] - meant[0, 0]).max() <= 2


def test_the_profile_in_a_bmp_and_the_primaries_of_a_tiff_are_applied() -> None:
    swapped = decode_bytes(encode(sample(), "PNG", icc_profile=swapped_profile())).picture
    assert np.array_equal(np.asarray(decode_bytes(bmp_with_profile(sample(), swapped_profile())).picture), np.asarray(swapped))
    numbers = [round(1000 * number) for point in P3 for number in point]
    tags = [(319, 5, 6, [part for number in numbers for part in (number, 1000)], True)]
    data = tiff(np.full((4, 4, 3), (200, 60, 60), np.uint8), photometric="rgb", extratags=tags)
    assert np.asarray(decode_bytes(data).picture)[0, 0].tolist() == [217, 42, 52]


def test_sixteen_bits_of_linear_light_are_noted_and_eight_bits_are_not() -> None:
    linear = (b"gAMA", struct.pack(">I", 100_000))
    assert [note.kind for note in decode_bytes(png(1, 1, 16, 2, b"\0" + bytes(6), linear)).notes] == ["linear"]
    assert decode_bytes(png(1, 1, 8, 2, b"\0" + bytes(3), linear)).notes == ()


def test_an_avif_that_is_to_be_cropped_is_noted() -> None:
    data = with_clap(encode(sample(), "AVIF"))
    assert [kind for kind, _ in primary_properties(data)][-1] == b"clap"
    assert [note.kind for note in decode_bytes(data).notes] == ["uncropped"]


def test_damaged_boxes_and_profiles_are_no_properties_and_no_crash() -> None:
    whole = encode(sample(), "AVIF")
    rng = np.random.default_rng(0)
    for n in range(300):
        data = bytearray(whole[:400])
        for position in rng.integers(0, len(data), 1 + n % 4):
            data[position] = rng.integers(256)
        primary_properties(bytes(data))
    for length in (0, 100, 131, 140, 200):
        picture = io.BytesIO()
        sample().save(picture, "PNG", icc_profile=swapped_profile()[:length] or b"x")
        decode_bytes(picture.getvalue())
