"""Captioned pictures, the views that training takes of them, and the cached items that stand for both.

A view is a crop and perhaps a flip. Latents are cached per picture *and* view, under a key of their content, so that a flipped
view can never meet another view's latents or another picture's caption.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tlora.errors import CacheError, PictureError
from tlora.loss_mask import read_mask
from tlora.pictures import decode_picture, list_pictures, read_caption
from tlora.views import View, ViewSettings, take_view, views_of

INDEX = "index.json"


@dataclass(frozen=True)
class CaptionedPicture:
    """One view of a picture, (3, height, width) in -1..1, what it is called, and its loss mask in 0..1 if it has one."""

    name: str
    caption: str
    view: View
    pixels: Float[Tensor, "3 height width"]
    loss_mask: Float[Tensor, "height width"] | None = None


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


class CaptionDataset(Sequence[CaptionedPicture]):
    """The views of a folder of pictures with same-name .txt captions; a missing caption is an empty string.

    Args:
        folder: Pictures and captions.
        views: Which views to take.
        multiple: Sides of a view are multiples of this many pixels, twice the VAE's factor.
        names: Pictures to take, by default all.
    """

    def __init__(self, folder: Path, views: ViewSettings, multiple: int, names: Sequence[str] | None = None) -> None:
        self.folder = folder
        self._items = [
            (name, view)
            for name in (names if names is not None else [path.name for path in list_pictures(folder)])
            for view in views_of(_size(folder / name), views, multiple)
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> CaptionedPicture:  # type: ignore[override]
        name, view = self._items[index]
        picture = decode_picture(self.folder / name)
        mask = read_mask(self.folder / name, picture.size)
        weights = None if mask is None else to_weights(take_view(mask, view))
        return CaptionedPicture(name, read_caption(self.folder / name), view, to_pixels(take_view(picture, view)), weights)


def to_pixels(picture: Image.Image) -> Float[Tensor, "3 height width"]:
    """Return a picture as a tensor in -1..1."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def to_weights(mask: Image.Image) -> Float[Tensor, "height width"]:
    """Return a grey picture as weights in 0..1."""
    return torch.from_numpy(np.array(mask)).float() / 255


def latent_weights(weights: Float[Tensor, "height width"], pixels_per_latent: int, picture: str) -> Float[Tensor, "h w"]:
    """Return the weight of each latent, the mean over its pixels.

    Raises:
        PictureError: If nothing is left of the mask in this view, naming the picture.
    """
    f = pixels_per_latent
    means = reduce(weights, "(h p) (w q) -> h w", "mean", p=f, q=f)
    if not bool(means.any()):
        raise PictureError(f"{picture}: its loss mask is black in the part that training sees: check the mask, or center_crop")
    return means


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
        raise CacheError(f"{path}: cached item is missing or damaged: delete the folder and run the stage again") from error


def read_index(folder: Path) -> list[dict[str, object]]:
    """Return the entries of a cache's index.

    Raises:
        CacheError: If there is none or it cannot be read.
    """
    try:
        return list(json.loads((folder / INDEX).read_text(encoding="utf-8"))["items"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{folder / INDEX}: not a readable cache index: run the stage that makes it again") from error


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


class PromptCache:
    """Cached caption embeddings on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {str(entry["caption"]): str(entry["file"]) for entry in read_index(folder)}

    def read(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return (batch, length, width) and (batch, pooled) for captions.

        Raises:
            CacheError: If a caption was never encoded.
        """
        missing = [caption for caption in captions if caption not in self.files]
        if missing:
            raise CacheError(f"{self.folder}: no embedding of {missing[0]!r}: run cache_prompts again")
        items = [read_item(self.folder / self.files[caption]) for caption in captions]
        return (
            torch.stack([item["prompt_embeds"] for item in items]),
            torch.stack([item["pooled_prompt_embeds"] for item in items]),
        )


def _size(path: Path) -> tuple[int, int]:
    return decode_picture(path).size
