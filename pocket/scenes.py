"""Scenes: six compositions of one material each, and which of their combinations pretraining never sees.

One tenth of the (composition, material, colour) combinations is held out, so that "the base follows prompts" means
prompts it was never taught, not prompts it remembers.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pocket.textures import COLOURS, MATERIALS, Field, Texture, material_texture

COMPOSITIONS = ("wall", "floor", "ball", "cube", "circle", "square")
SHAPE_COLOURS = {"white": (250, 250, 250), "black": (12, 12, 12)}
PICTURE_SIZE = 64
SUPERSAMPLING = 2
HELD_OUT_SHARE = 0.1
HELD_OUT_SEED = 20251


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `shape_colour` only matters to circle and square."""

    composition: str
    material: str
    colour: str
    shape_colour: str


Combination = tuple[str, str, str]


def held_out_combinations() -> frozenset[Combination]:
    """Return the combinations that pretraining never draws: every tenth of a seeded shuffle."""
    everything = list(product(COMPOSITIONS, MATERIALS, COLOURS))
    order = np.random.default_rng(HELD_OUT_SEED).permutation(len(everything))
    return frozenset(everything[i] for i in order[: round(HELD_OUT_SHARE * len(everything))])


def training_combinations() -> tuple[Combination, ...]:
    """Return the combinations that pretraining draws from, in a fixed order."""
    held_out = held_out_combinations()
    return tuple(c for c in product(COMPOSITIONS, MATERIALS, COLOURS) if c not in held_out)


def draw_scene(rng: np.random.Generator, combinations: tuple[Combination, ...]) -> Scene:
    """Draw one scene, every combination equally likely."""
    composition, material, colour = combinations[int(rng.integers(len(combinations)))]
    return Scene(composition, material, colour, "white" if rng.random() < 0.5 else "black")


def render_scene(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render a scene as RGB, (64, 64, 3)."""
    return compose(scene.composition, material_texture(scene.material, scene.colour, rng), rng, scene.shape_colour)


def compose(
    composition: str, texture: Texture, rng: np.random.Generator, shape_colour: str = "white", size: int = PICTURE_SIZE
) -> NDArray[np.uint8]:
    """Put any texture into a composition.

    Args:
        composition: One of `COMPOSITIONS`.
        texture: Function of (u, v) to RGB; a photograph serves as well as a procedural material.
        rng: Source of position, size and background.
        shape_colour: Colour of the circle or the square.
        size: Pixels on a side.

    Returns:
        RGB, (size, size, 3).
    """
    axis = (np.arange(size * SUPERSAMPLING, dtype=np.float32) + np.float32(0.5)) / np.float32(size * SUPERSAMPLING)
    u, v = np.meshgrid(axis, axis)
    if composition == "wall":
        picture = texture(u, v)
    elif composition == "floor":
        picture = _floor(u, v, texture, rng)
    elif composition == "ball":
        picture = _ball(u, v, texture, rng)
    elif composition == "cube":
        picture = _cube(u, v, texture, rng)
    else:
        picture = _wall_with_shape(u, v, texture, rng, (composition, shape_colour))
    pixels = np.clip(picture, 0, 255).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3).mean((1, 3))
    return pixels.astype(np.uint8)


def _background(u: Field, rng: np.random.Generator) -> Field:
    colour = np.array((218, 222, 228), np.float32) + np.float32(rng.uniform(-10, 10))
    return colour * np.ones_like(u)[..., None]


def _centre(rng: np.random.Generator, spread: float) -> tuple[np.float32, np.float32]:
    x, y = 0.5 + rng.uniform(-spread, spread, 2)
    return np.float32(x), np.float32(y)


def _wall_with_shape(u: Field, v: Field, texture: Texture, rng: np.random.Generator, shape: tuple[str, str]) -> Field:
    kind, colour = shape
    x, y = _centre(rng, 0.05)
    radius = np.float32(rng.uniform(0.2, 0.27))
    if kind == "circle":
        inside = (u - x) ** 2 + (v - y) ** 2 < radius**2
    else:
        inside = np.maximum(np.abs(u - x), np.abs(v - y)) < radius * np.float32(0.95)
    return np.where(inside[..., None], np.array(SHAPE_COLOURS[colour], np.float32), texture(u, v))


def _floor(u: Field, v: Field, texture: Texture, rng: np.random.Generator) -> Field:
    horizon = np.float32(rng.uniform(0.3, 0.4))
    depth = np.float32(0.42) / (np.maximum(v - horizon, np.float32(0.004)) + np.float32(0.12))
    ground = texture((u - np.float32(0.5)) * depth * np.float32(1.1), depth * np.float32(1.3))
    sky = np.array((190, 212, 236), np.float32) - 25 * (1 - v / horizon)[..., None]
    return np.where((v > horizon)[..., None], ground, sky)


def _ball(u: Field, v: Field, texture: Texture, rng: np.random.Generator) -> Field:
    (centre_x, centre_y), radius = _centre(rng, 0.055), np.float32(rng.uniform(0.3, 0.38))
    x, y = (u - centre_x) / radius, (v - centre_y) / radius
    squared = x * x + y * y
    z = np.sqrt(np.maximum(1 - squared, 0))
    surface = texture(np.arctan2(x, z + np.float32(1e-3)) * np.float32(0.42), np.arcsin(np.clip(y, -1, 1)) * np.float32(0.42))
    light = np.clip(0.35 + 0.75 * (-0.45 * x - 0.55 * y + 0.7 * z), 0.15, 1.15)
    shadow = (x - 0.25) ** 2 + ((y - 0.95) / 0.25) ** 2 < 1
    ground = _background(u, rng) * np.where(shadow, 0.72, 1.0)[..., None]
    return np.where((squared < 1)[..., None], surface * light[..., None], ground)


def _cube(u: Field, v: Field, texture: Texture, rng: np.random.Generator) -> Field:
    (centre_x, centre_y), half = _centre(rng, 0.045), np.float32(rng.uniform(0.33, 0.39))
    across, down = (u - centre_x) / half / np.float32(0.8660254), (v - centre_y) / half  # isometric: axes at 30 degrees
    left_v, right_v = down - across / 2, down + across / 2
    top_u, top_v = across / 2 - down, -across / 2 - down
    left = (across >= -1) & (across < 0) & (left_v >= 0) & (left_v < 1)
    right = (across >= 0) & (across < 1) & (right_v >= 0) & (right_v < 1)
    top = (top_u >= 0) & (top_u < 1) & (top_v >= 0) & (top_v < 1)
    face_u = np.where(left, across + 1, np.where(right, across + 2, top_u))
    face_v = np.where(left, left_v, np.where(right, right_v, top_v + 2))
    surface = texture(face_u * np.float32(0.55), face_v * np.float32(0.55))
    shade = np.where(left, 0.85, np.where(right, 0.55, 1.1))
    return np.where((left | right | top)[..., None], surface * shade[..., None], _background(u, rng))
