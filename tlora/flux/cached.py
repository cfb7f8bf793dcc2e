"""What the base's encoders made, kept on disk: latents of views and embeddings of captions, each under a key of its content."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tlora.errors import CacheError
from tlora.runtime.atomic_file import write_json

INDEX = "index.json"
CLASS_INDEX = "class.json"  # of captions without the trigger word; apart, so that without preservation nothing hangs on it


@dataclass(frozen=True)
class LatentItem:
    """One cached view: posterior mean and standard deviation of the normalised latents, (c, h, w), float32.

    `loss_mask`, (h, w), says how much each latent counts in the loss; None means that all count alike.
    """

    picture: str
    caption: str
    mean: Float[Tensor, "c h w"]
    std: Float[Tensor, "c h w"]
    loss_mask: Float[Tensor, "h w"] | None = None


def content_key(*parts: str) -> str:
    """Return a name for cached content: a hash of everything that it is a function of, never of a step or a path."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def item_file(key: str) -> str:
    """Return where an item lies below its cache, in one of 256 folders: none of them grows too large to list."""
    return f"{key[:2]}/{key}.safetensors"


def write_item(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write cached tensors whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_item(path: Path) -> dict[str, Tensor]:
    """Read cached tensors.

    Raises:
        CacheError: If the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CacheError(f"{path}: cached item is missing or damaged", "cache") from error


def read_index(folder: Path, name: str = INDEX) -> list[dict[str, object]]:
    """Return the entries of a cache's index.

    Raises:
        CacheError: If there is none or it cannot be read.
    """
    try:
        return list(json.loads((folder / name).read_text(encoding="utf-8"))["items"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{folder / name}: not a readable cache index", "cache") from error


class LatentCache(Sequence[LatentItem]):
    """Cached views on disk, read when asked for, so that memory does not grow with the data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = read_index(folder)
        if not self.entries:
            raise CacheError(f"{folder}: the cache holds no views: is the data folder empty?")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> LatentItem:  # type: ignore[override]
        entry = self.entries[index]
        tensors = read_item(self.folder / str(entry["file"]))
        mask = tensors.get("loss_mask")
        return LatentItem(str(entry["picture"]), str(entry["caption"]), tensors["mean"].float(), tensors["std"].float(), mask)

    def shapes(self) -> list[tuple[int, int]]:
        """Return (height, width) of each item's latents, without reading them."""
        return [(int(str(e["height"])), int(str(e["width"]))) for e in self.entries]


class JoinedViews(Sequence[LatentItem]):
    """Cached views of several caches, one cache after the other."""

    def __init__(self, *caches: LatentCache) -> None:
        self.caches = caches

    def __len__(self) -> int:
        return sum(map(len, self.caches))

    def __getitem__(self, index: int) -> LatentItem:  # type: ignore[override]
        for cache in self.caches:
            if index < len(cache):
                return cache[index]
            index -= len(cache)
        raise IndexError("beyond the last view")

    def shapes(self) -> list[tuple[int, int]]:
        """Return (height, width) of each item's latents, without reading them."""
        return [shape for cache in self.caches for shape in cache.shapes()]


class PromptCache:
    """Cached caption embeddings on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {str(entry["caption"]): str(entry["file"]) for entry in read_index(folder)}
        self.class_captions: dict[str, str] = {}

    def with_class_captions(self) -> "PromptCache":
        """Read in, too, what each caption is without the trigger word.

        Raises:
            CacheError: If that was not encoded.
        """
        entries = read_index(self.folder, CLASS_INDEX)
        self.class_captions = {str(entry["of"]): str(entry["caption"]) for entry in entries}
        self.files |= {str(entry["caption"]): str(entry["file"]) for entry in entries}
        return self

    def with_captions_of(self, folder: Path) -> "PromptCache":
        """Read in, too, what another cache holds.

        Raises:
            CacheError: If there is none.
        """
        self.files = {str(e["caption"]): str((folder / str(e["file"])).resolve()) for e in read_index(folder)} | self.files
        return self

    def read(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return (batch, length, width) and (batch, pooled) for captions.

        Raises:
            CacheError: If a caption was never encoded.
        """
        missing = [caption for caption in captions if caption not in self.files]
        if missing:
            raise CacheError(f"{self.folder}: no embedding of {missing[0]!r}", "captions")
        items = [read_item(self.folder / self.files[caption]) for caption in captions]
        return (
            torch.stack([item["prompt_embeds"] for item in items]),
            torch.stack([item["pooled_prompt_embeds"] for item in items]),
        )


def assemble(
    folder: Path,
    store: Path,
    entries: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    of_class: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Fill an output folder with the items of its entries and nothing else.

    Args:
        folder: The output; whatever stood there before is replaced, so nothing stale stays.
        store: Where items are kept by content key.
        entries: What the index lists; each names its `file`.
        facts: What holds for all entries.
        of_class: Entries of an index of their own, of captions without the trigger word.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in sorted({str(entry["file"]) for entry in [*entries, *(of_class or [])]}):
        (folder / name).parent.mkdir(exist_ok=True)
        _link_or_copy(store / name, folder / name)
    write_json(folder / INDEX, {**facts, "items": [dict(entry) for entry in entries]})
    if of_class is not None:
        write_json(folder / CLASS_INDEX, {"items": [dict(entry) for entry in of_class]})


def _link_or_copy(source: Path, target: Path) -> None:
    """Link where the disk allows it: DVC copies what it caches, and items are never written to again."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
