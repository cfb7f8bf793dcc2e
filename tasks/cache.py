"""Assemble a stage's output from items kept by content, and say what it holds in an index."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlora.data import INDEX
from tlora.whole_file import write_json


def assemble(folder: Path, store: Path, entries: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Fill an output folder with the items of its entries and nothing else.

    Args:
        folder: The output; whatever stood there before is replaced, so nothing stale stays.
        store: Where items are kept by content key.
        entries: What the index lists; each names its `file`.
        facts: What holds for all entries.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in sorted({str(entry["file"]) for entry in entries}):
        (folder / name).parent.mkdir(exist_ok=True)
        _link_or_copy(store / name, folder / name)
    write_json(folder / INDEX, {**facts, "items": [dict(entry) for entry in entries]})


def _link_or_copy(source: Path, target: Path) -> None:
    """Link where the disk allows it: DVC copies what it caches, and items are never written to again."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
