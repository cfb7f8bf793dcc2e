"""Twelve procedural materials: texture coordinates in, colour out.

A texture is a plain function of (u, v) in wall units (a whole wall is 0..1), so any composition can bend the
coordinates and any other callable of the same shape, a photograph for instance, can take its place.
Feature sizes were chosen so that the smallest line still covers two to three pixels of a 64-pixel wall: finer ones are
lost in the VAE and the transformer never learns them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Texture = Callable[[Field, Field], Field]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (200, 40, 40),
    "orange": (235, 130, 30),
    "yellow": (235, 210, 50),
    "green": (50, 150, 60),
    "blue": (45, 80, 200),
    "purple": (125, 60, 170),
    "pink": (240, 140, 185),
    "brown": (125, 80, 45),
    "grey": (130, 130, 130),
    "teal": (30, 150, 150),
}
LIGHT = np.array((225, 220, 212), np.float32)
DARK = np.array((60, 60, 60), np.float32)


@dataclass(frozen=True)
class Finish:
    """What varies between two samples of one material: its tint, its scale and its noise."""

    tint: NDArray[np.float32]
    scale: float
    seed: int


def material_texture(material: str, colour: str, rng: np.random.Generator) -> Texture:
    """Draw one sample of a material and return it as a function of texture coordinates.

    Args:
        material: A key of `MATERIALS`.
        colour: A key of `COLOURS`.
        rng: Source of tint, scale, offset and noise.

    Returns:
        A function from u and v, each (height, width), to RGB in 0..255, (height, width, 3).

    Raises:
        KeyError: If the material or the colour is unknown.
    """
    tint = np.clip(np.array(COLOURS[colour], np.float32) + rng.normal(0, 6, 3), 0, 255).astype(np.float32)
    finish = Finish(tint, float(rng.uniform(0.88, 1.14)), int(rng.integers(1 << 20)))
    shift_u, shift_v = (float(x) for x in rng.uniform(0, 50, 2))
    paint = MATERIALS[material]
    return lambda u, v: paint(u + np.float32(shift_u), v + np.float32(shift_v), finish)


def lattice_noise(u: Field, v: Field, seed: int) -> Field:
    """Hash integer lattice points to [0, 1), the same on every machine."""
    a, b = u.astype(np.int64), v.astype(np.int64)
    x = (a * 374761393 + b * 668265263 + seed * 69069) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 1274126177) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 2246822519) & 0xFFFFFFFF
    return ((x >> 8) & 0xFFFF).astype(np.float32) / np.float32(65536)


def smooth_noise(u: Field, v: Field, seed: int) -> Field:
    """Interpolate `lattice_noise` smoothly between lattice points."""
    left, top = np.floor(u), np.floor(v)
    fu, fv = u - left, v - top
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    upper = lattice_noise(left, top, seed) * (1 - fu) + lattice_noise(left + 1, top, seed) * fu
    lower = lattice_noise(left, top + 1, seed) * (1 - fu) + lattice_noise(left + 1, top + 1, seed) * fu
    return upper * (1 - fv) + lower * fv


def _mix(a: Field, b: Field, weight: Field | NDArray[np.bool_]) -> Field:
    return a + (b - a) * weight[..., None].astype(np.float32)


def _flat(colour: Field, like: Field) -> Field:
    return colour * np.ones_like(like)[..., None]


def _brick(u: Field, v: Field, f: Finish) -> Field:
    course = np.floor(v * 4 * f.scale)
    along = u * 2 * f.scale + 0.5 * (course % 2)
    brick = np.floor(along)
    mortar = (along - brick < 0.08) | (v * 4 * f.scale - course < 0.16)
    shade = 0.8 + 0.4 * lattice_noise(brick, course, f.seed)
    return _mix(f.tint * shade[..., None], LIGHT, mortar)


def _tile(u: Field, v: Field, f: Finish) -> Field:
    column, row = np.floor(u * 3 * f.scale), np.floor(v * 3 * f.scale)
    x, y = u * 3 * f.scale - column, v * 3 * f.scale - row
    bevel = 1.03 - 0.18 * y + 0.1 * lattice_noise(column, row, f.seed)
    return _mix(f.tint * bevel[..., None], DARK, (x < 0.1) | (y < 0.1))


def _checkerboard(u: Field, v: Field, f: Finish) -> Field:
    light = (np.floor(u * 5 * f.scale) + np.floor(v * 5 * f.scale)) % 2
    return _mix(_flat(f.tint, u), LIGHT + 20, light)


def _stripes(across: Field, f: Finish) -> Field:
    return _mix(_flat(f.tint, across), LIGHT + 20, (across * 6 * f.scale) % 1 < 0.5)


def _horizontal_stripes(u: Field, v: Field, f: Finish) -> Field:
    return _stripes(v, f)


def _vertical_stripes(u: Field, v: Field, f: Finish) -> Field:
    return _stripes(u, f)


def _diagonal_stripes(u: Field, v: Field, f: Finish) -> Field:
    return _stripes((u + v) * np.float32(0.7071), f)


def _dots(u: Field, v: Field, f: Finish) -> Field:
    row = np.floor(v * 4 * f.scale)
    along = u * 4 * f.scale + 0.5 * (row % 2)
    x, y = along - np.floor(along) - 0.5, v * 4 * f.scale - row - 0.5
    return _mix(_flat(LIGHT + 15, u), f.tint, x * x + y * y < 0.1)


def _wood(u: Field, v: Field, f: Finish) -> Field:
    ring, grain = smooth_noise(u * 2, v * 7, f.seed), smooth_noise(u * 3, v * 45, f.seed + 1)
    wave = 0.5 + 0.5 * np.sin((v * 5 + ring * 1.6) * 2 * np.pi)
    gap = np.abs((v * 2 * f.scale) % 1 - 0.5) > 0.475
    return f.tint * ((0.62 + 0.3 * wave + 0.25 * grain) * (1 - 0.55 * gap)).astype(np.float32)[..., None]


def _marble(u: Field, v: Field, f: Finish) -> Field:
    cloud = smooth_noise(u * 3, v * 3, f.seed) + 0.5 * smooth_noise(u * 7, v * 7, f.seed + 1)
    cloud = cloud + 0.25 * smooth_noise(u * 14, v * 14, f.seed + 2)
    vein = np.abs(np.sin((u * 1.5 + v + cloud * 1.8) * np.pi)) ** 0.7
    return _mix(_flat(LIGHT + 28, u), f.tint, 1 - vein * 0.92)


def _gravel(u: Field, v: Field, f: Finish) -> Field:
    x, y = u * 9 * f.scale, v * 9 * f.scale
    nearest, second, shade = np.full_like(u, 9), np.full_like(u, 9), np.zeros_like(u)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            a, b = np.floor(x) + i, np.floor(y) + j
            stone_x = a + 0.15 + 0.7 * lattice_noise(a, b, f.seed)
            stone_y = b + 0.15 + 0.7 * lattice_noise(a, b, f.seed + 7)
            distance = (stone_x - x) ** 2 + (stone_y - y) ** 2
            nearer = distance < nearest
            second = np.where(nearer, nearest, np.minimum(second, distance))
            shade = np.where(nearer, lattice_noise(a, b, f.seed + 3), shade)
            nearest = np.where(nearer, distance, nearest)
    edge = np.clip((np.sqrt(second) - np.sqrt(nearest)) * 4, 0, 1)
    return f.tint * ((0.55 + 0.75 * shade) * (0.25 + 0.75 * edge)).astype(np.float32)[..., None]


def _grass(u: Field, v: Field, f: Finish) -> Field:
    blades = smooth_noise(u * 40 + 3 * smooth_noise(u * 4, v * 4, f.seed), v * 9, f.seed + 1)
    clumps = smooth_noise(u * 22 - v * 8, v * 6, f.seed + 2)
    return f.tint * (0.3 + 0.65 * blades + 0.5 * clumps)[..., None]


def _plaster(u: Field, v: Field, f: Finish) -> Field:
    noise = 0.5 * smooth_noise(u * 5, v * 5, f.seed) + 0.3 * smooth_noise(u * 12, v * 12, f.seed + 1)
    noise = noise + 0.2 * smooth_noise(u * 28, v * 28, f.seed + 2)
    return f.tint * (0.78 + 0.42 * noise)[..., None]


MATERIALS: dict[str, Callable[[Field, Field, Finish], Field]] = {
    "brick": _brick,
    "tile": _tile,
    "checkerboard": _checkerboard,
    "horizontal stripes": _horizontal_stripes,
    "vertical stripes": _vertical_stripes,
    "diagonal stripes": _diagonal_stripes,
    "dots": _dots,
    "wood": _wood,
    "marble": _marble,
    "gravel": _gravel,
    "grass": _grass,
    "plaster": _plaster,
}
