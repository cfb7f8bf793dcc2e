"""Which views training takes of a picture: how large, cut how, mirrored or not. Pillow only, no torch."""

import math
import random
from dataclasses import dataclass, replace

from PIL import Image, ImageOps

from tlora.errors import SettingsError
from tlora.flux.files import picture_multiple
from tlora.flux.spec import ModelSpec

MOST_VIEWS = 1000
MOST_OVERLAP = 0.5  # of the area that two views show together; more, and they are nearly equal
_TRIES = 20  # for each view
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ViewSettings:
    """Which views of a picture training may see.

    Args:
        resolution: Pixels on a side of a square view; of a bucket, the side of the square of equal area.
        center_crop: Crop the middle to a square. Off keeps the picture's shape, in buckets of similar aspect.
        random_flip: Also cache the mirrored view, and draw either.
        views_per_picture: 1 is the picture as a whole; more are crops of it beside that, as many as fit without being alike.
        min_scale: Smallest crop, as a share of the largest that the picture holds; none is enlarged.
        max_scale: Largest crop.
    """

    resolution: int
    center_crop: bool = True
    random_flip: bool = False
    views_per_picture: int = 1
    min_scale: float = 0.25
    max_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.resolution < 16:
            raise ValueError(f"resolution must be at least 16 pixels, got {self.resolution}")
        if not 1 <= self.views_per_picture <= MOST_VIEWS:
            raise ValueError(f"views_per_picture must be in 1..{MOST_VIEWS}, got {self.views_per_picture}")
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise ValueError(f"need 0 < min_scale <= max_scale <= 1, got {self.min_scale} and {self.max_scale}")


@dataclass(frozen=True)
class View:
    """A picture, or a crop of it, scaled to width x height pixels and perhaps mirrored.

    Args:
        width: Pixels.
        height: Pixels.
        flipped: Whether it is mirrored.
        crop: Left, top, right and bottom in the upright picture; None is all of it, of which the middle is taken.
    """

    width: int
    height: int
    flipped: bool
    crop: Box | None = None


def require_resolution(settings: ViewSettings, spec: ModelSpec) -> int | None:
    """Check that a base model takes the resolution; return of what its pictures' sides are multiples, None if it is not here.

    Raises:
        SettingsError: With the nearest that it takes.
    """
    multiple = picture_multiple(spec)
    if multiple:
        views_of((multiple, multiple), settings, multiple)
    return multiple


def views_of(size: tuple[int, int], settings: ViewSettings, multiple: int, content: str = "") -> list[View]:
    """Return the views of a picture of (width, height) pixels: the whole first, then crops; each also mirrored if that is asked.

    Args:
        size: Of the upright picture.
        settings: Which views.
        multiple: Sides of a view are multiples of this many pixels.
        content: Digest of the picture, which decides where crops lie: the same picture has the same crops, and asking for more
            leaves the earlier ones as they are.

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
    crops = [None, *_crops(size, (width, height), settings, content)]
    return [
        View(width, height, flipped, crop) for crop in crops for flipped in ((False, True) if settings.random_flip else (False,))
    ]


def without_crops(settings: ViewSettings) -> ViewSettings:
    """Return settings with one view of each picture, as of those held out."""
    return replace(settings, views_per_picture=1)


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
    """Scale a picture, or the view's crop of it, until it covers the view, cut the middle out, and mirror it if need be."""
    part = picture if view.crop is None else picture.crop(view.crop)
    cut = ImageOps.fit(part, (view.width, view.height), method=Image.Resampling.LANCZOS)
    return ImageOps.mirror(cut) if view.flipped else cut


def _crops(size: tuple[int, int], shape: tuple[int, int], settings: ViewSettings, content: str) -> list[Box]:
    """Return crops of the shape of a view, none much like another or the whole; fewer than asked for where no more fit."""
    largest = min(size[0] / shape[0], size[1] / shape[1])  # pixels of the picture to one of the view
    least = max(1.0, settings.min_scale * largest)
    most = settings.max_scale * largest
    if settings.views_per_picture == 1 or most < least:
        return []
    draws = random.Random(f"{content}:{size}:{shape}")
    taken = [_middle(size, shape, largest)]
    for _ in range(_TRIES * settings.views_per_picture):
        factor = least * (most / least) ** draws.random()  # as many between 1 and 2 as between 2 and 4
        box = _place(size, shape, factor, draws)
        if all(overlap(box, other) <= MOST_OVERLAP for other in taken):
            taken.append(box)
        if len(taken) == settings.views_per_picture:
            break
    return taken[1:]


def overlap(one: Box, other: Box) -> float:
    """Return how much of the area of two boxes is common to both, 0 to 1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0, width) * max(0, height)
    return common / (_area(one) + _area(other) - common)


def _place(size: tuple[int, int], shape: tuple[int, int], factor: float, draws: random.Random) -> Box:
    width, height = (min(whole, round(side * factor)) for whole, side in zip(size, shape, strict=True))
    left, top = draws.randint(0, size[0] - width), draws.randint(0, size[1] - height)
    return left, top, left + width, top + height


def _middle(size: tuple[int, int], shape: tuple[int, int], factor: float) -> Box:
    width, height = (min(whole, round(side * factor)) for whole, side in zip(size, shape, strict=True))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
