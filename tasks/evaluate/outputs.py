"""What an evaluation came to, and the files that it is written to."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from tasks.evaluate.drawing import Rows
from tasks.evaluate.page import EvaluationFiles
from tasks.evaluate.summary import Measured
from tasks.pages.scores import Entries, estimate_of, in_order, metric_names
from tasks.results.album import CHECKPOINTS, SCALES, write_album
from tlora.evaluation.grid import labelled_grid
from tlora.metadata.adapter import BASE
from tlora.runtime.atomic_file import write_json, write_png

Pictures: TypeAlias = Mapping[str, Sequence[Sequence[Image.Image]]]


@dataclass(frozen=True)
class Outcome:
    """What was drawn and measured.

    Args:
        drawn: Pictures of the base and of every checkpoint.
        measured: Their numbers.
        summary: What follows from them, the recommended checkpoint among it.
        shown: The checkpoint that is drawn at several strengths.
        scales: Its pictures, by strength.
        scale_scores: Their numbers.
    """

    drawn: dict[str, Rows]
    measured: dict[str, Measured]
    summary: dict[str, Any]
    shown: str
    scales: dict[str, Rows]
    scale_scores: list[dict[str, Any]]

    @property
    def count(self) -> int:
        """Pictures in all."""
        return sum(len(row) for rows in [*self.drawn.values(), *self.scales.values()] for row in rows)


def write_outcome(
    outcome: Outcome,
    seeds: Sequence[int],
    prompts: Sequence[str],
    told: Mapping[str, Any],
    grids: Path,
    report: Path,
    files: EvaluationFiles,
) -> None:
    """Write pictures and numbers.

    Args:
        outcome: What there is to write.
        seeds: The seeds that every prompt was drawn with; strengths were drawn with the first.
        prompts: The prompts.
        told: What else the numbers' file says.
        grids: Output folder of labelled picture grids.
        report: Output folder of scores and curves.
        files: Where numbers and single pictures go.
    """
    base = {BASE: [row[:1] for row in outcome.drawn[BASE]]}
    at_scales = base | {f"{outcome.shown} x {scale}": rows for scale, rows in outcome.scales.items()}
    write_grids(grids, outcome.drawn, at_scales, prompts)
    write_album(files.album, {CHECKPOINTS: outcome.drawn, SCALES: at_scales}, prompts, seeds)
    write_curves(report, outcome.summary["checkpoints"])
    write_json(report / "scores.json", {name: _tables(own) for name, own in outcome.measured.items()})
    scales = {"checkpoint": outcome.shown, "seed": seeds[0], "entries": outcome.scale_scores}
    write_json(files.metrics, {**outcome.summary, "scales": scales, **told})


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
        write_png(folder / file, labelled_grid(list(sets), prompts, first_seeds))
    for name, rows in pictures.items():
        seeds = [f"{name}, seed {i + 1}" for i in range(len(rows[0]))]
        by_seed = [[row[i] for row in rows] for i in range(len(seeds))]
        write_png(folder / f"{name}.png", labelled_grid(seeds, prompts, by_seed))


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


def _tables(measured: Measured) -> dict[str, Any]:
    """Return every single score as nested lists."""
    tables = {**measured.scores, "loss_train": measured.losses.train, "loss_held_out": measured.losses.held_out}
    return {name: cells.tolist() for name, cells in tables.items()}
