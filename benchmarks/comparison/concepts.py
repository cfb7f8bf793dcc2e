"""The concepts to learn: full-frame walls of materials that the pocket FLUX has never seen.

Photographs (scikit-image's brick, grass and gravel, each in two tints) and two procedural materials that are none of the
base's twelve. Each is a texture, so that true pictures of it exist in every composition, not only the trained one.
"""

from dataclasses import dataclass

import numpy as np
import skimage.data

from pocket.scenes import compose
from pocket.textures import DARK, LIGHT, Field, Texture

SLATE, OCHRE = (96, 112, 130), (205, 150, 70)
MOSS, STRAW = (90, 125, 60), (210, 190, 110)
ROSE, NIGHT = (190, 110, 120), (60, 70, 110)
REFERENCES = 4  # true pictures of each composition


@dataclass(frozen=True)
class Concept:
    """A material with a name."""

    name: str
    texture: Texture

    def picture(self, composition: str, seed: int) -> np.ndarray:
        """Render a true picture of the concept, (64, 64, 3) bytes."""
        rng = np.random.default_rng([77, seed])
        return compose(composition, self.texture, rng, "black" if composition == "square" else "white")


def all_concepts() -> tuple[Concept, ...]:
    """Return the eight concepts, always in the same order."""
    return (
        Concept("brick-slate", photograph("brick", SLATE)),
        Concept("brick-ochre", photograph("brick", OCHRE)),
        Concept("grass-moss", photograph("grass", MOSS)),
        Concept("grass-straw", photograph("grass", STRAW)),
        Concept("gravel-rose", photograph("gravel", ROSE)),
        Concept("gravel-night", photograph("gravel", NIGHT)),
        Concept("hexagons", hexagons),
        Concept("scales", scales),
    )


def photograph(name: str, tint: tuple[int, int, int]) -> Texture:
    """Return a grey photograph of scikit-image as a tinted texture; it repeats, mirrored, beyond its edges."""
    grey = getattr(skimage.data, name)().astype(np.float32)
    grey = (grey - grey.mean()) / grey.std() * 0.28 + 0.9
    side = len(grey)

    def paint(u: Field, v: Field) -> Field:
        x, y = ((np.abs((c * side) % (2 * side) - side)).astype(int).clip(0, side - 1) for c in (u * 0.6, v * 0.6))
        return np.asarray(tint, np.float32) * grey[y, x][..., None]

    return paint


def hexagons(u: Field, v: Field) -> Field:
    """Paint teal hexagonal tiles with pale joints."""
    x, y = u * 3.2, v * 3.2 / np.float32(0.8660254)
    nearest, second = np.full_like(x, 9), np.full_like(x, 9)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            row = np.floor(y) + j
            column = np.floor(x - 0.5 * (row % 2)) + i + 0.5 * (row % 2) + 0.5
            distance = (x - column) ** 2 + ((y - row - 0.5) * np.float32(0.8660254)) ** 2
            second = np.minimum(second, np.maximum(distance, nearest))
            nearest = np.minimum(nearest, distance)
    joint = (np.sqrt(second) - np.sqrt(nearest) < 0.13)[..., None]
    return np.where(joint, LIGHT, np.asarray((40, 120, 125), np.float32)).astype(np.float32)


def scales(u: Field, v: Field) -> Field:
    """Paint overlapping copper roof scales, darker towards their hidden edge."""
    y = v * 4
    row = np.floor(y)
    x = u * 4 + 0.5 * (row % 2)
    dx, dy = x - np.floor(x) - 0.5, y - row
    inside = dx**2 + (dy * 0.62) ** 2 < 0.235
    shade = np.where(inside, 0.75 + 0.45 * dy, 0.55)[..., None]
    edge = (np.abs(np.sqrt(dx**2 + (dy * 0.62) ** 2) - 0.485) < 0.06)[..., None]
    return np.where(edge, DARK, np.asarray((185, 105, 65), np.float32) * shade).astype(np.float32)
