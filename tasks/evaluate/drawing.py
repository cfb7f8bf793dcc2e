"""Pictures with whichever adapter is loaded: one pipeline, loaded once, nothing copied, and every picture kept as it comes.

What is drawn together is fixed: a turn of the race, cut into batches. So a picture's bytes depend on its prompt, its seed and
its adapter, and not on which other pictures are wanted, or were there already.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from tasks.evaluate.kept import Cell, KeptPictures
from tlora.checkpoint import attach_adapter, load_tlora_weights
from tlora.inject import eject_tlora_from_transformer
from tlora.metadata.adapter import AdapterMetadata, find_weights, read_metadata
from tlora.sampling import Painter, SampleSettings, draw_pictures

Rows: TypeAlias = list[list[Image.Image | None]]  # for each prompt, a picture per seed; None where it was not drawn


@dataclass(frozen=True)
class Column:
    """One way of drawing every prompt at every seed.

    Args:
        name: What it is called.
        adapter: Folder of the checkpoint; None for the bare base.
        strength: Of the adapter.
    """

    name: str
    adapter: Path | None
    strength: float


@dataclass(frozen=True)
class Batch:
    """Pictures that are drawn together."""

    column: Column
    cells: tuple[Cell, ...]


class PictureDrawer:
    """A base model that carries at most one adapter.

    Args:
        painter: The base model.
        embeddings: Of the prompts.
        sample: Size, steps and guidance; the strength is the column's.
        batch: Most pictures drawn at once.
        kept: What was drawn already.
    """

    def __init__(
        self, painter: Painter, embeddings: tuple[Tensor, Tensor], sample: SampleSettings, batch: int, kept: KeptPictures
    ) -> None:
        self.painter = painter
        self._embeddings, self._sample, self._batch, self._kept = embeddings, sample, batch, kept
        self._adapter: AdapterMetadata | None = None
        self._loaded: Path | None = None

    def batches(self, column: Column, cells: Sequence[Cell]) -> list[Batch]:
        """Return the batches that draw cells."""
        firsts = range(0, len(cells), self._batch)
        return [Batch(column, tuple(cells[first : first + self._batch])) for first in firsts]

    def load(self, adapter: Path | None) -> None:
        """Put an adapter, or none, in the place of the one before; layers of equal shape and schedule are used again.

        Raises:
            CheckpointError: If it cannot be trusted or does not fit.
            InjectionError: If its targets do not fit.
        """
        if adapter == self._loaded:
            return
        transformer, before = self.painter.transformer, self._adapter
        metadata = None if adapter is None else read_metadata(find_weights(adapter))
        same = before and metadata and (before.config, before.target_modules) == (metadata.config, metadata.target_modules)
        self._loaded = None
        if not same:
            eject_tlora_from_transformer(transformer)
            self._adapter = None
        if adapter is not None:
            (load_tlora_weights if same else attach_adapter)(transformer, adapter)
        transformer.eval()
        self._adapter, self._loaded = metadata, adapter

    def draw(self, batch: Batch) -> list[Image.Image]:
        """Return the pictures of a batch: those that are kept, or drawn now and then kept."""
        column, cells = batch.column, batch.cells
        if pictures := self._kept.pictures(column.adapter, column.strength, cells):
            return pictures
        self.load(column.adapter)
        rows = torch.tensor([prompt for prompt, _ in cells])
        embeddings = (self._embeddings[0][rows], self._embeddings[1][rows])
        sample = dataclasses.replace(self._sample, lora_scale=column.strength)
        drawn = draw_pictures(self.painter, embeddings, [seed for _, seed in cells], sample)
        self._kept.keep_pictures(column.adapter, column.strength, cells, drawn)
        return drawn
