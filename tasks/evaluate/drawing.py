"""Every prompt at every seed, drawn with whichever adapter is loaded: one pipeline, loaded once, nothing copied."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from tlora.checkpoint import attach_adapter, load_tlora_weights
from tlora.inject import eject_tlora_from_transformer
from tlora.metadata.adapter import AdapterMetadata, find_weights, read_metadata
from tlora.runtime.progress import Progress
from tlora.sampling import Painter, SampleSettings, draw_pictures

Rows: TypeAlias = list[list[Image.Image]]  # for each prompt, a picture per seed


class PictureDrawer:
    """A base model that carries at most one adapter.

    Args:
        painter: The base model.
        embeddings: Of the prompts.
        batch: Pictures drawn at once; prompts and seeds share a batch.
    """

    def __init__(self, painter: Painter, embeddings: tuple[Tensor, Tensor], batch: int) -> None:
        self.painter = painter
        self._embeddings, self._batch = embeddings, batch
        self._adapter: AdapterMetadata | None = None

    @property
    def step(self) -> int:
        """Return the step of the loaded adapter, 0 for the bare base."""
        return self._adapter.step if self._adapter else 0

    def batches(self, seeds: int) -> int:
        """Return in how many batches `draw` draws so many seeds of every prompt."""
        return -(-len(self._embeddings[0]) * seeds // self._batch)

    def load_adapter(self, adapter: Path) -> None:
        """Put an adapter in the place of the one before; layers of equal shape and schedule are used again.

        Raises:
            CheckpointError: If it cannot be trusted or does not fit.
            InjectionError: If its targets do not fit.
        """
        transformer, metadata = self.painter.transformer, read_metadata(find_weights(adapter))
        before = self._adapter
        if before and (before.config, before.target_modules) == (metadata.config, metadata.target_modules):
            load_tlora_weights(transformer, adapter)
        else:
            eject_tlora_from_transformer(transformer)
            self._adapter = None
            attach_adapter(transformer, adapter)
            transformer.eval()
        self._adapter = metadata

    def draw(self, seeds: Sequence[int], sample: SampleSettings, progress: Progress) -> Rows:
        """Draw every prompt at every seed, counting a step for each batch."""
        cells = [(prompt, seed) for prompt in range(len(self._embeddings[0])) for seed in seeds]
        drawn: list[Image.Image] = []
        for first in range(0, len(cells), self._batch):
            batch = cells[first : first + self._batch]
            rows = torch.tensor([prompt for prompt, _ in batch])
            embeddings = (self._embeddings[0][rows], self._embeddings[1][rows])
            drawn += draw_pictures(self.painter, embeddings, [seed for _, seed in batch], sample)
            progress.advance()
        return [drawn[i : i + len(seeds)] for i in range(0, len(drawn), len(seeds))]
