"""Any kind of pixels to 8-bit sRGB on white: what a picture looks like, not what its numbers are.

A phone's wide-gamut photograph read as if it were sRGB comes out pale, and an adapter learns the paleness. So an embedded
profile is applied, never dropped; what cannot be carried over exactly becomes a note.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tlora.errors import PictureError

_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION  # as browsers do with the relative colorimetric intent
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
_LEVELS = np.arange(256, dtype=np.int16)
_RAMPS = np.concatenate([_LEVELS[:, None] * np.array(hue, np.int16) for hue in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1))])
_MOST_OF_FIRST_STEP = 6  # levels between black and the next: 13 of linear light, 1 of sRGB


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


def to_srgb(image: Image.Image, profile: bytes | None, *, is_deep: bool = False) -> tuple[Image.Image, tuple[Note, ...]]:
    """Convert a loaded picture with 8 bits a sample to sRGB on white.

    Args:
        image: The picture, of any mode of 8 bits.
        profile: The ICC profile that says what its numbers mean; None means sRGB.
        is_deep: Whether the file has more than the 8 bits that were read.

    Returns:
        The picture in mode RGB (the very one given, if nothing had to change), and a note for each thing that was lost.
    """
    colours, alpha = _split_alpha(image)
    colours, colour_notes = _apply_profile(colours, profile, is_deep)
    picture, alpha_notes = (colours, ()) if alpha is None else _put_on_white(colours, alpha)
    picture.info = {}  # else the profile just applied would be embedded again by whoever saves the picture
    return picture, colour_notes + alpha_notes


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours in a mode that a profile can speak of (L, RGB, CMYK, LAB), and the alpha channel if there is one."""
    if image.has_transparency_data:
        straight = image.convert(image.mode.upper()) if image.mode in ("La", "RGBa") else image
        grey = straight.mode in ("1", "L", "LA")
        whole = straight.convert("LA" if grey else "RGBA")
        return whole.convert("L" if grey else "RGB"), whole.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _apply_profile(image: Image.Image, profile: bytes | None, is_deep: bool) -> tuple[Image.Image, tuple[Note, ...]]:
    if not profile:
        return _without_profile(image)
    try:
        space = _read_space(profile)
        if space == "RGB" and image.mode == "L":
            image = image.convert("RGB")  # a grey picture saved by a program that attaches its RGB profile to everything
        if image.mode != _PROFILE_MODES.get(space):
            return _without_profile(image, f"is for {space or 'nothing known'} and the picture is {image.mode}")
        if image.mode == "RGB" and _changes_nothing(profile):
            return image, ()
        converted = ImageCms.applyTransform(image, _transform(profile, image.mode))
        notes = _depth_notes(profile, image.mode) if is_deep else ()
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return _without_profile(image, f"cannot be read ({error})")
    assert converted is not None  # only an in-place transform returns None
    return converted, notes


def _changes_nothing(profile: bytes) -> bool:
    """Return whether a profile is sRGB as far as 8 bits can tell; its name is no proof."""
    return bool(np.abs(_response(profile, "RGB") - _RAMPS).max() <= 1)


def _depth_notes(profile: bytes, mode: str) -> tuple[Note, ...]:
    if mode not in ("L", "RGB") or int(_response(profile, mode)[1].min()) <= _MOST_OF_FIRST_STEP:
        return ()
    reason = "its samples are linear light of which the highest 8 bits are read, so its dark parts are in steps"
    return (Note("linear", reason, "save it as sRGB"),)


@lru_cache(maxsize=16)
def _response(profile: bytes, mode: str) -> NDArray[np.int16]:
    """Return what becomes of greys and pure colours, the levels 0, 1, 2, ... of greys first."""
    ramps = Image.fromarray(_RAMPS[None].astype(np.uint8)).convert(mode)
    converted = ImageCms.applyTransform(ramps, _transform(profile, mode))
    assert converted is not None  # only an in-place transform returns None
    return np.asarray(converted)[0].astype(np.int16)


def _without_profile(image: Image.Image, trouble: str = "") -> tuple[Image.Image, tuple[Note, ...]]:
    notes = []
    if trouble:
        reason = f"its colour profile {trouble}: the colours are read as if it had none"
        notes.append(Note("profile", reason, "open it in an editor and save it as sRGB"))
    if image.mode == "CMYK":
        notes.append(Note("cmyk", "it is CMYK without a usable profile: its colours are approximate", "export it as RGB"))
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None  # only an in-place transform returns None
        return converted, tuple(notes)
    return image if image.mode == "RGB" else image.convert("RGB"), tuple(notes)


@lru_cache(maxsize=16)
def _read_space(profile: bytes) -> str:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    opened, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(opened, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, _FLAGS)


def _put_on_white(colours: Image.Image, alpha: Image.Image) -> tuple[Image.Image, tuple[Note, ...]]:
    if alpha.getextrema()[0] == 255:
        return colours, ()
    seen_through = colours.copy()
    seen_through.putalpha(alpha)
    white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
    note = Note("alpha", "it has transparent parts, which were put on white", "give it the background that it should have")
    return Image.alpha_composite(white, seen_through).convert("RGB"), (note,)
