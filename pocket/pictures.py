"""The rendered training pictures: scenes drawn from one seed each, kept as one array on disk."""

import os
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket.scenes import PICTURE_SIZE, Scene, draw_scene, render_scene, training_combinations

VALIDATION_PICTURES = 256  # the first ones of the array: of trained combinations, but never trained on themselves
_SCENE_SEED = 11


def scene_of(index: int) -> Scene:
    """Return the scene of picture number `index`."""
    return draw_scene(np.random.default_rng([_SCENE_SEED, index]), training_combinations())


def render_picture(index: int) -> NDArray[np.uint8]:
    """Render picture number `index`, (64, 64, 3)."""
    rng = np.random.default_rng([_SCENE_SEED, index])
    return render_scene(draw_scene(rng, training_combinations()), rng)


def load_pictures(count: int, folder: Path) -> NDArray[np.uint8]:
    """Return `count` pictures, (count, 64, 64, 3), rendering them on two processes the first time."""
    path = folder / f"pictures-{count}.npy"
    if not path.exists():
        with Pool(2) as pool:
            pictures = np.stack(pool.map(render_picture, range(count), chunksize=100))
        temporary = path.with_suffix(".partial.npy")
        np.save(temporary, pictures)
        os.replace(temporary, path)
    pictures = np.load(path, mmap_mode="r")
    assert pictures.shape == (count, PICTURE_SIZE, PICTURE_SIZE, 3)
    return pictures


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Turn (batch, height, width, 3) bytes into (batch, 3, height, width) in -1..1, on the default device."""
    return torch.tensor(pictures, device=torch.get_default_device()).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(pictures: Tensor) -> NDArray[np.uint8]:
    """Turn (batch, 3, height, width) in -1..1 into (batch, height, width, 3) bytes."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
