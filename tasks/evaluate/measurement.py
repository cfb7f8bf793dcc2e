"""One set of pictures, drawn and turned into numbers: the base's, a checkpoint's, a checkpoint's at another strength."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.evaluate.drawing import PictureDrawer, Rows
from tasks.evaluate.scoring import Encoders, References, score_rows
from tasks.evaluate.stopwatch import Stopwatch
from tasks.evaluate.summary import Losses, Measured, compare
from tlora.errors import CheckpointError
from tlora.evaluation.intervals import Cells
from tlora.evaluation.memorisation import LossSettings, picture_losses
from tlora.flux.cached import LatentItem, PromptCache
from tlora.runtime.progress import Progress
from tlora.sampling import SampleSettings


@dataclass(frozen=True)
class CaptionedLatents:
    """Cached pictures with the embeddings of their captions."""

    views: Sequence[LatentItem]
    captions: PromptCache


@dataclass(frozen=True)
class Measurer:
    """What measures the bare base or the loaded adapter.

    Args:
        drawer: Draws.
        encoders: Turn pictures into embeddings.
        references: What they compare with.
        trained: Pictures that were trained on.
        unseen: Pictures that were held out.
        losses: At which noise the losses of both are taken.
        full_frame: How many prompts, from the first, show the material over the whole frame.
        watch: Where the time is counted.
    """

    drawer: PictureDrawer
    encoders: Encoders
    references: References
    trained: CaptionedLatents
    unseen: CaptionedLatents
    losses: LossSettings
    full_frame: int
    watch: Stopwatch

    def measure_checkpoint(
        self, folder: Path, seeds: Sequence[int], sample: SampleSettings, progress: Progress
    ) -> tuple[Rows, Measured]:
        """Load a checkpoint and measure it.

        Raises:
            CheckpointError: If it cannot be trusted, does not fit, or has diverged.
            InjectionError: If its targets do not fit.
        """
        self.drawer.load_adapter(folder)
        rows, measured = self.measure(self.drawer.step, seeds, sample, progress)
        if not np.isfinite(measured.losses.train).all() or not np.isfinite(measured.losses.held_out).all():
            raise CheckpointError(f"{folder}: its loss is not a finite number: lower learning_rate and train again")
        return rows, measured

    def measure(self, step: int, seeds: Sequence[int], sample: SampleSettings, progress: Progress) -> tuple[Rows, Measured]:
        """Draw with what is loaded, and return the pictures and everything that can be said of them."""
        with self.watch("losses"):
            losses = Losses(self._losses(self.trained), self._losses(self.unseen))
        rows = self._draw(seeds, sample, progress)
        return rows, Measured(step, self._score(rows), losses)

    def measure_scales(
        self, base: Measured, scales: Sequence[float], seed: int, sample: SampleSettings, progress: Progress
    ) -> tuple[dict[str, Rows], list[dict[str, Any]]]:
        """Draw with what is loaded at several strengths and one seed; return the pictures and the differences to the base there.

        Args:
            base: Measured at the same seed first.
            scales: The strengths.
            seed: The seed.
            sample: All but the strength.
            progress: Counts batches.
        """
        at_first_seed = {name: cells[:, :1] for name, cells in base.scores.items()}
        drawn, entries = {}, []
        for scale in scales:
            rows = self._draw([seed], dataclasses.replace(sample, lora_scale=scale), progress)
            drawn[f"{scale:g}"] = rows
            entries.append({"scale": scale, **compare(self._score(rows), at_first_seed)})
        return drawn, entries

    def _draw(self, seeds: Sequence[int], sample: SampleSettings, progress: Progress) -> Rows:
        with self.watch("drawing"):
            return self.drawer.draw(seeds, sample, progress)

    def _score(self, rows: Rows) -> Mapping[str, Cells]:
        with self.watch("looking"):
            return score_rows(rows, self.encoders, self.references, self.full_frame)

    def _losses(self, pictures: CaptionedLatents) -> Cells:
        return picture_losses(self.drawer.painter.transformer, pictures.views, pictures.captions.read, self.losses)
