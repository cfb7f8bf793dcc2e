"""Columns of pictures, drawn and turned into numbers: the base's, a checkpoint's, a checkpoint's at another strength."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from tasks.evaluate.checkpoints import attempt
from tasks.evaluate.drawing import Batch, Column, PictureDrawer, Rows
from tasks.evaluate.kept import Cell, KeptPictures
from tasks.evaluate.scoring import Encoders, Look, References, Scores, look_at, score_looks, score_movement, score_textures
from tasks.evaluate.stopwatch import Stopwatch
from tasks.evaluate.summary import Losses
from tasks.evaluate.team import Team
from tlora.errors import CheckpointError
from tlora.evaluation.intervals import Cells
from tlora.evaluation.memorisation import LossSettings, picture_losses
from tlora.flux.cached import LatentItem, PromptCache


@dataclass(frozen=True)
class CaptionedLatents:
    """Cached pictures with the embeddings of their captions."""

    views: Sequence[LatentItem]
    captions: PromptCache


@dataclass(frozen=True)
class Measurer:
    """What measures, alone or with other processes; it knows every cell that was drawn.

    Args:
        drawer: Draws.
        encoders: Turn pictures into embeddings.
        references: What they compare with.
        trained: Pictures that were trained on.
        unseen: Pictures that were held out.
        losses: At which noise the losses of both are taken.
        watch: Where the time is counted.
        kept: Where losses are kept, and pictures.
        team: Who draws.
    """

    drawer: PictureDrawer
    encoders: Encoders
    references: References
    trained: CaptionedLatents
    unseen: CaptionedLatents
    losses: LossSettings
    watch: Stopwatch
    kept: KeptPictures
    team: Team
    _looks: dict[str, dict[Cell, Look]] = field(default_factory=dict)
    _batches: dict[str, list[Batch]] = field(default_factory=dict)

    def measure_losses(self, columns: Sequence[Column], failures: dict[str, str]) -> dict[str, Losses]:
        """Return the losses of each column, but of those whose adapter cannot be trusted, does not fit or has diverged."""
        found = self.team.share(columns, self._losses_of, "evaluate: losses")
        failures |= {column.name: line for column, line in zip(columns, found, strict=True) if isinstance(line, str)}
        return {column.name: losses for column, losses in zip(columns, found, strict=True) if isinstance(losses, Losses)}

    def draw(self, wanted: Iterable[tuple[Column, Sequence[Cell]]], what: str) -> None:
        """Draw cells of columns, and look at them."""
        batches = [batch for column, cells in wanted for batch in self.drawer.batches(column, cells)]
        for batch, looks in zip(batches, self.team.share(batches, self._draw, what), strict=True):
            self._looks.setdefault(batch.column.name, {}).update(zip(batch.cells, looks, strict=True))
            self._batches.setdefault(batch.column.name, []).append(batch)

    def scores(self, column: str, prompts: int, seeds: Sequence[int]) -> Scores:
        """Return what the encoders say of a column, NaN where nothing was drawn; nothing where nothing was drawn at all."""
        looks = self._looks.get(column, {})
        if not looks:
            return {}
        return score_looks([[looks.get((prompt, seed)) for seed in seeds] for prompt in range(prompts)], self.references)

    def moved(self, column: str, base: str, cells: Sequence[Cell]) -> Cells | None:
        """Return how far cells of a column, all of them drawn, are from the base's; a row for each prompt; None where unseen."""
        prompts = sorted({prompt for prompt, _ in cells})
        own, still = (
            [[self._looks[name][cell] for cell in cells if cell[0] == prompt] for prompt in prompts] for name in (column, base)
        )
        return score_movement(own, still)

    def rows(self, column: str, prompts: Sequence[int], seeds: Sequence[int]) -> Rows:
        """Return the pictures of a column, of the prompts with these numbers."""
        pictures: dict[Cell, Image.Image] = {}
        for batch in self._batches.get(column, []):
            pictures |= dict(zip(batch.cells, self.drawer.draw(batch), strict=True))
        return [[pictures.get((prompt, seed)) for seed in seeds] for prompt in prompts]

    def textures(self, rows: Rows) -> Scores:
        """Return what the texture of pictures is worth."""
        with self.watch("looking"):
            return score_textures(rows, self.references.texture)

    def count(self, column: str) -> int:
        """Return how many pictures of a column there are."""
        return len(self._looks.get(column, {}))

    def _draw(self, batch: Batch) -> list[Look]:
        with self.watch("drawing"):
            pictures = self.drawer.draw(batch)
        with self.watch("looking"):
            return look_at(pictures, self.encoders)

    def _losses_of(self, column: Column) -> Losses | str:
        """Return losses, or why there are none."""
        failures: dict[str, str] = {}
        with self.watch("losses"):
            return attempt(failures, column.name, lambda: self._checked_losses(column)) or failures[column.name]

    def _checked_losses(self, column: Column) -> Losses:
        kept = self.kept.losses(column.adapter)
        if kept:
            return Losses(np.array(kept["train"]), np.array(kept["held_out"]))
        self.drawer.load(column.adapter)
        losses = Losses(self._losses(self.trained), self._losses(self.unseen))
        if not np.isfinite(losses.train).all() or not np.isfinite(losses.held_out).all():
            raise CheckpointError(f"{column.adapter}: its loss is not a finite number: lower learning_rate and train again")
        self.kept.keep_losses(column.adapter, {"train": losses.train.tolist(), "held_out": losses.held_out.tolist()})
        return losses

    def _losses(self, pictures: CaptionedLatents) -> Cells:
        return picture_losses(self.drawer.painter.transformer, pictures.views, pictures.captions.read, self.losses)
