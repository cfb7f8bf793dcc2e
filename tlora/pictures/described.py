"""What a file says of its colours besides the pixels: by a profile, by code points, by gamma and primaries, or by EXIF.

All of it becomes one ICC profile. What says nothing is taken for sRGB, as browsers do.
"""

import struct
from dataclasses import dataclass

from PIL import Image, TiffImagePlugin

from tlora.pictures.boxes import primary_properties
from tlora.pictures.cicp import cicp_profile
from tlora.pictures.colour import Note, Refused
from tlora.pictures.heif import is_heif
from tlora.pictures.icc import (
    ADOBE_RGB_GAMMA,
    ADOBE_RGB_PRIMARIES,
    D65,
    SRGB_CURVE,
    SRGB_PRIMARIES,
    Point,
    matrix_profile,
    profile_tags,
)
from tlora.pictures.samples import is_deep

_WHITE_POINT, _PRIMARY_CHROMATICITIES = 318, 319  # TIFF 6.0, section 20
_EXIF, _COLOUR_SPACE, _INTEROPERABILITY, _INDEX = 0x8769, 0xA001, 0xA005, 1
_ADOBE_RGB = 2
_USUAL_GAMMA, _NEAR_GAMMA, _NEAR_POINT = 0.45455, 0.01, 0.005
_BMP_KIND, _BMP_OFFSET, _BMP_V5 = 70, 126, 124  # of a BMP: where its profile's kind and place stand; the header that has them
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, RuntimeError, KeyError, struct.error)


@dataclass(frozen=True)
class Described:
    """What the colours of a file mean.

    Args:
        profile: An ICC profile; None means sRGB.
        is_deep: Whether it has more than 8 bits a sample.
        notes: What the decoder does not carry over.
    """

    profile: bytes | None
    is_deep: bool = False
    notes: tuple[Note, ...] = ()


def describe(image: Image.Image, data: bytes) -> Described:
    """Return what an opened file says of its colours.

    Raises:
        Refused: If it is HDR, or says them in a way that is not known here.
    """
    if image.format == "AVIF" or is_heif(data):
        return _describe_boxes(image, data)
    if image.format == "PNG":
        profile = _png_profile(image, data)
    elif image.format == "BMP":
        profile = _bmp_profile(data)
    else:
        profile = image.info.get("icc_profile") or _tiff_profile(image) or _exif_profile(image)
    _refuse_hdr(profile)
    return Described(profile, is_deep(image, data))


def _describe_boxes(image: Image.Image, data: bytes) -> Described:
    properties = primary_properties(data)
    profile, said = image.info.get("icc_profile"), [body for kind, body in properties if kind == b"colr" and body[:4] == b"nclx"]
    if not profile and said and len(said[0]) >= 8:
        profile = cicp_profile(*struct.unpack_from(">HH", said[0], 4))
    _refuse_hdr(profile)
    depths = [body[5] for kind, body in properties if kind == b"pixi" and len(body) > 5]
    notes: tuple[Note, ...] = ()
    if image.format == "AVIF" and any(kind == b"clap" for kind, _ in properties):  # libheif cuts, libavif leaves it to others
        reason = "it says that only a part of it is to be shown, and the whole of it is used"
        notes = (Note("uncropped", reason, "crop it in an editor"),)
    return Described(profile, max(depths, default=8) > 8, notes)


def _refuse_hdr(profile: bytes | None) -> None:
    """Refuse a profile that says HDR by code points, for which its curves are only a stopgap."""
    tag = profile_tags(profile).get(b"cicp", b"") if profile else b""
    if len(tag) >= 10 and tag[9] in (16, 18):
        cicp_profile(tag[8], tag[9])


def _png_profile(image: Image.Image, data: bytes) -> bytes | None:
    """Return what a PNG says, the newer way before the older one.

    Source:
        PNG 3, section 4.3 (`cICP` before `iCCP` before `sRGB` before `gAMA` and `cHRM`).
    """
    code = _png_chunk(data, b"cICP")
    if len(code) == 4:
        if code[3] != 1:
            raise Refused("its samples are of video's narrow range (cICP)", "export it as sRGB")
        return cicp_profile(code[0], code[1])
    profile: bytes | None = image.info.get("icc_profile")
    if profile or "srgb" in image.info:
        return profile
    gamma, numbers = image.info.get("gamma"), image.info.get("chromaticity")
    white, *primaries = [(numbers[n], numbers[n + 1]) for n in range(0, 8, 2)] if numbers else [D65, *SRGB_PRIMARIES]
    is_usual = not gamma or abs(gamma - _USUAL_GAMMA) < _NEAR_GAMMA
    if is_usual and _near([white, *primaries], [D65, *SRGB_PRIMARIES]):
        return None
    return _profile_or_none(primaries, white, (1 / gamma,) if gamma else SRGB_CURVE)


def _png_chunk(data: bytes, wanted: bytes) -> bytes:
    """Return the body of the first chunk of a name that stands before the pixels; empty if there is none."""
    at = 8
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == wanted:
            return data[at + 8 : at + 8 + length]
        if name == b"IDAT":
            break
        at += 12 + length
    return b""


def _bmp_profile(data: bytes) -> bytes | None:
    """Return the profile that a BMP of version 5 holds; pillow passes it over."""
    if len(data) < 14 + _BMP_V5 or struct.unpack_from("<I", data, 14)[0] != _BMP_V5:
        return None
    kind = data[_BMP_KIND : _BMP_KIND + 4]
    if kind == b"KNIL":
        raise Refused("its colour profile is in another file", "save it as PNG, with its profile or as sRGB")
    start, length = struct.unpack_from("<II", data, _BMP_OFFSET)
    return data[14 + start : 14 + start + length] if kind == b"DEBM" else None


def _tiff_profile(image: Image.Image) -> bytes | None:
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or _PRIMARY_CHROMATICITIES not in image.tag_v2:
        return None
    numbers = [float(number) for number in image.tag_v2[_PRIMARY_CHROMATICITIES]]
    white = tuple(float(number) for number in image.tag_v2.get(_WHITE_POINT, D65))
    if len(numbers) != 6 or len(white) != 2:
        return None
    primaries = [(numbers[n], numbers[n + 1]) for n in range(0, 6, 2)]
    return None if _near([white, *primaries], [D65, *SRGB_PRIMARIES]) else _profile_or_none(primaries, white, SRGB_CURVE)


def _exif_profile(image: Image.Image) -> bytes | None:
    """Return Adobe RGB where EXIF says so and there is no profile, as cameras do.

    Source:
        DCF 2.0 (JEITA CP-3461), section 4.5: the interoperability index `R03` is the optional colour space, Adobe RGB.
    """
    if not image.info.get("exif"):
        return None
    try:
        exif = image.getexif()
        index = exif.get_ifd(_INTEROPERABILITY).get(_INDEX, "")
        is_adobe = str(index).startswith("R03") or exif.get_ifd(_EXIF).get(_COLOUR_SPACE) == _ADOBE_RGB
    except _DAMAGED:
        return None
    return matrix_profile(ADOBE_RGB_PRIMARIES, D65, (ADOBE_RGB_GAMMA,)) if is_adobe else None


def _profile_or_none(primaries: list[Point], white: Point, curve: tuple[float, ...]) -> bytes | None:
    try:
        return matrix_profile(primaries, white, curve)
    except ValueError:
        return None  # numbers that mean nothing, as some writers leave them


def _near(points: list[Point], others: list[Point]) -> bool:
    pairs = zip(points, others, strict=True)
    return all(abs(a - b) < _NEAR_POINT for point, other in pairs for a, b in zip(point, other, strict=True))
