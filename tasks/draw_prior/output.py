"""The stage's output folder, whoever made the pictures: what is kept of each is laid out as training reads it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tlora.evaluation.grid import labelled_grid
from tlora.flux.cached import INDEX, LatentCache, assemble, item_file
from tlora.flux.prior_folder import PRIOR_GRID, PRIOR_LATENTS, PRIOR_PICTURES
from tlora.runtime.atomic_file import write_png

_SHOWN = 4  # pictures of each caption in the grid
_ROWS = 16  # captions in the grid


@dataclass(frozen=True)
class Kept:
    """One picture of one size, as it is kept by content.

    Args:
        key: Under which latents and picture are kept.
        caption: What it is trained under.
        size: Width and height in pixels.
        name: File name in the output folder.
    """

    key: str
    caption: str
    size: tuple[int, int]
    name: str

    def picture(self, store: Path) -> Path:
        """Return where the picture is kept."""
        return (store / item_file(self.key)).with_suffix(".png")

    def latents(self, store: Path) -> Path:
        """Return where the latents are kept."""
        return store / item_file(self.key)


def trained_sizes(latents: Path) -> tuple[int, list[tuple[int, int]]]:
    """Return how many pixels a latent covers on a side, and (width, height) in pixels of all sizes that are trained on."""
    factor = int(json.loads((latents / INDEX).read_text(encoding="utf-8"))["pixels_per_latent"])
    return factor, sorted({(width * factor, height * factor) for height, width in LatentCache(latents).shapes()})


def lay_out(folder: Path, store: Path, items: Sequence[Kept], facts: Mapping[str, Any]) -> None:
    """Fill the output folder with latents, pictures, and a grid of a few.

    Args:
        folder: Where.
        store: Where they are kept.
        items: What is trained on, those of one size after those of another.
        facts: What the latents' index says of all; `pixels_per_latent` among it.
    """
    factor = int(facts["pixels_per_latent"])
    assemble(folder / PRIOR_LATENTS, store, [_entry(item, factor) for item in items], facts)
    for item in items:
        write_png(folder / PRIOR_PICTURES / item.name, Image.open(item.picture(store)))
    write_png(folder / PRIOR_GRID, _grid(items, store))


def _entry(item: Kept, factor: int) -> dict[str, Any]:
    return {
        "file": item_file(item.key),
        "picture": item.name,
        "caption": item.caption,
        "flipped": False,
        "height": item.size[1] // factor,
        "width": item.size[0] // factor,
    }


def _grid(items: Sequence[Kept], store: Path) -> Image.Image:
    """Lay the first pictures of each caption out, those of the first size."""
    rows: dict[str, list[Image.Image | None]] = {}
    for item in items:
        if item.size == items[0].size and (item.caption in rows or len(rows) < _ROWS):
            row = rows.setdefault(item.caption, [])
            if len(row) < _SHOWN:
                row.append(Image.open(item.picture(store)))
    columns = max(len(row) for row in rows.values())
    padded = [row + [None] * (columns - len(row)) for row in rows.values()]
    return labelled_grid(list(rows), [f"{i + 1}" for i in range(columns)], padded)
