"""Any kind of pixels to 8-bit sRGB on white: what a picture looks like, not what its numbers are.

A phone's wide-gamut photograph read as if it were sRGB comes out pale, and an adapter learns the paleness. So an embedded
profile is applied, never dropped; what cannot be carried over exactly becomes a note.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from tlora.errors import PictureError

_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION  # as browsers do with the relative colorimetric intent
_PROFILE_MODES = {"RGB": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",), "Lab": ("LAB",)}


@dataclass(frozen=True)
class Note:
    """Something that a conversion could not carry over exactly."""

    kind: str
    reason: str
    remedy: str


class Refused(PictureError):
    """Something that must not be guessed at, its file not named yet: `reason` says what is wrong, `remedy` what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}: {remedy}")
        self.reason, self.remedy = reason, remedy


def to_srgb(image: Image.Image) -> tuple[Image.Image, tuple[Note, ...]]:
    """Convert a loaded picture of any mode to 8-bit sRGB on white.

    Returns:
        The picture in mode RGB (the very one given, if nothing had to change), and a note for each thing that was lost.

    Raises:
        Refused: If the samples have no agreed range (32-bit integers or floats).
    """
    profile = image.info.get("icc_profile")
    image = _to_profiled_mode(_to_eight_bits(image))
    image, colour_notes = _apply_profile(image, profile)
    image, alpha_notes = _put_on_white(image)
    image.info = {}  # else the profile just applied would be embedded again by whoever saves the picture
    return image, colour_notes + alpha_notes


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        kind = "32-bit floats" if image.mode == "F" else "32-bit integers"
        raise Refused(f"its samples are {kind}, of which nobody knows the white point", "export it with 8 or 16 bits a channel")
    if image.mode.startswith("I;16"):
        samples = np.asarray(image)
        return Image.fromarray((samples >> 8).astype(np.uint8))  # the high byte, as pillow takes it of 16-bit colour
    return image


def _to_profiled_mode(image: Image.Image) -> Image.Image:
    """Return one of the modes that a profile can speak of: L, RGB, RGBA, CMYK, LAB."""
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _apply_profile(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, tuple[Note, ...]]:
    if not profile:
        return _without_profile(image)
    try:
        space, description = _read_profile(profile)
        if space == "RGB" and image.mode == "L":
            image = image.convert("RGB")  # a grey picture saved by a program that attaches its RGB profile to everything
        if image.mode not in _PROFILE_MODES.get(space, ()):
            return _without_profile(image, f"is for {space or 'nothing known'} and the picture is {image.mode}")
        if description.startswith("sRGB"):
            return image, ()
        target = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.applyTransform(image, _transform(profile, image.mode, target))
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return _without_profile(image, f"cannot be read ({error})")
    assert converted is not None  # only an in-place transform returns None
    return converted, ()


def _without_profile(image: Image.Image, trouble: str = "") -> tuple[Image.Image, tuple[Note, ...]]:
    notes = []
    if trouble:
        reason = f"its colour profile {trouble}: the colours are read as if it had none"
        notes.append(Note("profile", reason, "open it in an editor and save it as sRGB"))
    if image.mode == "CMYK":
        notes.append(Note("cmyk", "it is CMYK without a usable profile: its colours are approximate", "export it as RGB"))
        return image.convert("RGB"), tuple(notes)
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None  # only an in-place transform returns None
        return converted, tuple(notes)
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB"), tuple(notes)


@lru_cache(maxsize=16)
def _read_profile(profile: bytes) -> tuple[str, str]:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return opened.profile.xcolor_space.strip(), (opened.profile.profile_description or "").strip()


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str, target: str) -> ImageCms.ImageCmsTransform:
    opened, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(opened, srgb, mode, target, ImageCms.Intent.RELATIVE_COLORIMETRIC, _FLAGS)


def _put_on_white(image: Image.Image) -> tuple[Image.Image, tuple[Note, ...]]:
    if image.mode == "RGB":
        return image, ()
    lowest = image.getchannel("A").getextrema()[0]
    if lowest == 255:
        return image.convert("RGB"), ()
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    note = Note("alpha", "it has transparent parts, which were put on white", "give it the background that it should have")
    return Image.alpha_composite(white, image).convert("RGB"), (note,)
