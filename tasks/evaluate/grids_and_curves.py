"""What evaluation shows: labelled grids, and the curves that `dvc plots` draws."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from tasks.pages.scores import Entries, estimate_of, in_order, metric_names
from tlora.evaluation.grid import labelled_grid

Pictures: TypeAlias = Mapping[str, Sequence[Sequence[Image.Image]]]


def write_grids(folder: Path, pictures: Pictures, scales: Pictures, prompts: Sequence[str]) -> None:
    """Write `grid.png` (a row for the base and each checkpoint, at the first seed) and one grid of all seeds for each.

    `scales.png` is like `grid.png`, with a row for each strength.

    Args:
        folder: Where they go.
        pictures: By name, for each prompt, a picture per seed.
        scales: Likewise, one checkpoint at several strengths.
        prompts: The prompts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for sets, file in ((pictures, "grid.png"), (scales, "scales.png")):
        first_seeds = [[seeds[0] for seeds in rows] for rows in sets.values()]
        _save(labelled_grid(list(sets), prompts, first_seeds), folder / file)
    for name, rows in pictures.items():
        seeds = [f"{name}, seed {i + 1}" for i in range(len(rows[0]))]
        by_seed = [[row[i] for row in rows] for i in range(len(seeds))]
        _save(labelled_grid(seeds, prompts, by_seed), folder / f"{name}.png")


def write_curves(folder: Path, entries: Entries) -> None:
    """Write one CSV per metric, a line per checkpoint with mean, low and high, for `dvc plots`."""
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    for metric in metric_names(entries):
        with (folder / "curves" / f"{metric}.csv").open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["step", "mean", "low", "high"])
            for name in in_order(entries):
                if value := estimate_of(entries[name].get(metric)):
                    lines.writerow([entries[name]["step"], value.mean, value.low, value.high])


def _save(picture: Image.Image, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    picture.save(temporary, format="PNG")
    os.replace(temporary, path)
