"""Which views training takes of a picture: how large, cut how, mirrored or not. Pillow only, no torch."""

import math
from dataclasses import dataclass

from PIL import Image, ImageOps

from tlora.errors import SettingsError
from tlora.flux.files import picture_multiple
from tlora.flux.spec import ModelSpec


@dataclass(frozen=True)
class ViewSettings:
    """Which views of a picture training may see.

    Args:
        resolution: Pixels on a side of a square view; of a bucket, the side of the square of equal area.
        center_crop: Crop the middle to a square. Off keeps the picture's shape, in buckets of similar aspect.
        random_flip: Also cache the mirrored view, and draw either.
    """

    resolution: int
    center_crop: bool = True
    random_flip: bool = False

    def __post_init__(self) -> None:
        if self.resolution < 16:
            raise ValueError(f"resolution must be at least 16 pixels, got {self.resolution}")


@dataclass(frozen=True)
class View:
    """A crop of width x height pixels, perhaps mirrored."""

    width: int
    height: int
    flipped: bool


def require_resolution(settings: ViewSettings, spec: ModelSpec) -> int | None:
    """Check that a base model takes the resolution; return of what its pictures' sides are multiples, None if it is not here.

    Raises:
        SettingsError: With the nearest that it takes.
    """
    multiple = picture_multiple(spec)
    if multiple:
        views_of((multiple, multiple), settings, multiple)
    return multiple


def views_of(size: tuple[int, int], settings: ViewSettings, multiple: int) -> list[View]:
    """Return the views of a picture of (width, height) pixels.

    Raises:
        SettingsError: If the resolution is not a multiple of `multiple`.
    """
    if settings.resolution % multiple:
        raise SettingsError(
            f"resolution must be a multiple of {multiple} for this base model, got {settings.resolution}:"
            f" use {settings.resolution // multiple * multiple or multiple}"
        )
    square = (settings.resolution, settings.resolution)
    width, height = square if settings.center_crop else choose_bucket(size, settings.resolution, multiple)
    return [View(width, height, flipped) for flipped in ((False, True) if settings.random_flip else (False,))]


def choose_bucket(size: tuple[int, int], resolution: int, multiple: int) -> tuple[int, int]:
    """Return (width, height) nearest in aspect to the picture: multiples of `multiple`, of about resolution**2 pixels.

    Example:
        >>> choose_bucket((1600, 900), 512, 16)
        (688, 384)
    """
    area = (resolution // multiple) ** 2
    sides = [(w, max(1, round(area / w))) for w in range(max(1, resolution // multiple // 2), 2 * resolution // multiple + 1)]
    wanted = math.log(size[0] / size[1])
    width, height = min(sides, key=lambda side: (abs(math.log(side[0] / side[1]) - wanted), side))
    return width * multiple, height * multiple


def take_view(picture: Image.Image, view: View) -> Image.Image:
    """Scale a picture until it covers the view, cut the middle out, and mirror it if the view is mirrored."""
    cut = ImageOps.fit(picture, (view.width, view.height), method=Image.Resampling.LANCZOS)
    return ImageOps.mirror(cut) if view.flipped else cut
