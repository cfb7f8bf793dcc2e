"""What an evaluation has drawn and measured so far: one that is killed goes on with it, and processes hand each other pictures.

A folder for all that a picture is a function of, apart from the adapter; below it one for each adapter and strength. It goes once
the evaluation is finished.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from tlora.metadata.adapter import BASE, adapter_digest, find_weights
from tlora.metadata.digests import FINGERPRINT, digest_of
from tlora.runtime.atomic_file import write_json, write_png

Cell = tuple[int, int]  # the number of a prompt, and a seed
_LOSSES = "losses.json"


class KeptPictures:
    """Pictures and losses, by adapter.

    Args:
        folder: Where those of all evaluations lie.
        fields: Everything but the adapter that a picture or a loss is a function of.
    """

    def __init__(self, folder: Path, fields: Mapping[str, Any]) -> None:
        self.folder = folder / digest_of(fields)[:16]
        self._fields = fields

    def open(self) -> int:
        """Make the folder if it is missing; return how many pictures are there."""
        if not (self.folder / FINGERPRINT).exists():
            write_json(self.folder / FINGERPRINT, self._fields)
        return sum(int(file.stem.split("-")[0]) for file in self.folder.glob("*/*.png"))

    def pictures(self, adapter: Path | None, strength: float, cells: Sequence[Cell]) -> list[Image.Image]:
        """Return pictures that were kept together, or none where they were not."""
        file = self._file(adapter, strength, cells)
        if not file.exists():
            return []
        with Image.open(file) as strip:
            height = strip.height // len(cells)
            return [strip.crop((0, i * height, strip.width, (i + 1) * height)) for i in range(len(cells))]

    def keep_pictures(
        self, adapter: Path | None, strength: float, cells: Sequence[Cell], pictures: Sequence[Image.Image]
    ) -> None:
        """Keep pictures of one size exactly, all of them or none, one below the other."""
        width, height = pictures[0].size
        strip = Image.new("RGB", (width, height * len(pictures)))
        for index, picture in enumerate(pictures):
            strip.paste(picture, (0, index * height))
        write_png(self._file(adapter, strength, cells), strip)

    def losses(self, adapter: Path | None) -> dict[str, Any] | None:
        """Return what `keep_losses` kept, or None."""
        file = self._of(adapter) / _LOSSES
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def keep_losses(self, adapter: Path | None, losses: Mapping[str, Any]) -> None:
        """Keep losses exactly."""
        write_json(self._of(adapter) / _LOSSES, dict(losses))

    def close(self) -> None:
        """Remove all of it: the evaluation is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, adapter: Path | None, strength: float, cells: Sequence[Cell]) -> Path:
        own = self._of(adapter) if adapter is None else self._of(adapter).with_name(f"{self._of(adapter).name}-{strength:g}")
        return own / f"{len(cells)}-{digest_of(list(cells))[:16]}.png"

    def _of(self, adapter: Path | None) -> Path:
        return self.folder / (BASE if adapter is None else _digest(find_weights(adapter).resolve())[:16])


@cache
def _digest(file: Path) -> str:
    return adapter_digest(file)
