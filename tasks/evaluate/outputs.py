"""What an evaluation came to, and the files that it is written to."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from tasks.evaluate.summary import Measured
from tasks.pages.scores import Entries, in_order, interval_of, metric_names
from tlora.evaluation.grid import labelled_grid
from tlora.evaluation.race import turns
from tlora.metadata.adapter import BASE
from tlora.runtime.atomic_file import write_json, write_png

SUMMARY = (
    "similarity_gain",
    "efficientnet_gain",
    "prompt_following",
    "contrast_change",
    "lost_prompts",
    "drift",
    "diversity_ratio",
    "copied",
)  # of one checkpoint, at a glance
LOST = "lost"
OTHERS_GRID = "others.png"
Pictures: TypeAlias = Mapping[str, Sequence[Sequence[Image.Image | None]]]  # None where nothing was drawn


def write_others(grids: Path, others: Pictures, prompts: Sequence[str]) -> None:
    """Write what was drawn without the trigger word as a grid, a row for the base and each checkpoint; none if nothing was."""
    if others:
        columns = [f"{prompt}, seed {i + 1}" for prompt, row in zip(prompts, others[BASE], strict=True) for i in range(len(row))]
        pictures = [[picture for row in rows for picture in row] for rows in others.values()]
        write_png(grids / OTHERS_GRID, labelled_grid(list(others), columns, pictures))


def lost_of(numbers: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the prompts that each checkpoint has lost."""
    return {name: list(entry.get("lost", [])) for name, entry in numbers["checkpoints"].items()}


def write_numbers(measured: Mapping[str, Measured], numbers: Mapping[str, Any], metrics: Path, report: Path) -> None:
    """Write what was measured.

    Args:
        measured: Every single score.
        numbers: What follows from them, the recommended checkpoint among it, and how it was come by.
        metrics: Output file, JSON: the few numbers that decide, for `dvc metrics show` and git.
        report: Output folder of every number, in evaluate.json, of single scores and of curves.
    """
    write_curves(report, numbers["checkpoints"])
    write_json(report / "scores.json", {name: _tables(own) for name, own in measured.items()})
    write_json(report / "evaluate.json", dict(numbers))
    write_json(metrics, summary_table(numbers))


def summary_table(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides about the recommended checkpoint, or about the last where none is recommended."""
    entries = numbers["checkpoints"]
    shown = numbers["recommended"] or in_order(entries)[-1]
    told: dict[str, Any] = {"recommended": numbers["recommended"] or "none", "checkpoint": shown, "step": entries[shown]["step"]}
    if opinion := numbers.get("second_opinion"):
        told["second_opinion"] = "agrees" if opinion["agrees"] else "disagrees"
    for name in SUMMARY:
        if value := interval_of(entries[shown].get(name)):
            told[name] = {"mean": round(value.mean, 4), "low": round(value.low, 4), "high": round(value.high, 4)}
    return told


def write_grids(
    folder: Path, pictures: Pictures, scales: Pictures, prompts: Sequence[str], lost: Mapping[str, Sequence[str]]
) -> None:
    """Write `grid.png` (a row for the base and each checkpoint) and one grid of all seeds for each that was drawn at all.

    In `grid.png` each prompt has the seed that the race draws first, so that all checkpoints have it. `scales.png` is like it,
    with a row for each strength, at the first seed.

    Args:
        folder: Where they go.
        pictures: By name, for each prompt, a picture per seed.
        scales: Likewise, one checkpoint at several strengths.
        prompts: The prompts.
        lost: The prompts that each checkpoint has lost; their pictures are marked in `grid.png`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first_round = sorted(cell for turn in turns(len(prompts), len(next(iter(pictures.values()))[0]))[:2] for cell in turn)[
        : len(prompts)
    ]
    firsts = [[rows[prompt][seed] for prompt, seed in first_round] for rows in pictures.values()]
    write_png(folder / "grid.png", labelled_grid(list(pictures), prompts, firsts, _marks(list(pictures), prompts, lost)))
    write_png(folder / "scales.png", labelled_grid(list(scales), prompts, [[row[0] for row in rows] for rows in scales.values()]))
    for name, rows in pictures.items():
        if not any(picture for row in rows for picture in row):
            continue
        seeds = [f"{name}, seed {i + 1}" for i in range(len(rows[0]))]
        by_seed = [[row[i] for row in rows] for i in range(len(seeds))]
        write_png(folder / f"{name}.png", labelled_grid(seeds, prompts, by_seed))


def _marks(rows: Sequence[str], prompts: Sequence[str], lost: Mapping[str, Sequence[str]]) -> dict[tuple[int, int], str]:
    return {(row, prompts.index(prompt)): LOST for row, name in enumerate(rows) for prompt in lost.get(name, ())}


def write_curves(folder: Path, entries: Entries) -> None:
    """Write one CSV per metric, a line per checkpoint with mean, low and high, for `dvc plots`."""
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    for metric in metric_names(entries):
        with (folder / "curves" / f"{metric}.csv").open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["step", "mean", "low", "high"])
            for name in in_order(entries):
                if value := interval_of(entries[name].get(metric)):
                    lines.writerow([entries[name]["step"], value.mean, value.low, value.high])


def _tables(measured: Measured) -> dict[str, Any]:
    """Return every single score as nested lists; null where nothing was drawn."""
    tables = {**measured.scores, "loss_train": measured.losses.train, "loss_held_out": measured.losses.held_out}
    return {
        name: [[None if math.isnan(cell) else cell for cell in row] for row in cells.tolist()] for name, cells in tables.items()
    }
