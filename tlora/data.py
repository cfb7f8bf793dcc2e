"""Captioned pictures as tensors, and the views that training takes of them.

A view is a crop and perhaps a flip. It carries its own caption and loss mask, so that a flipped view can never meet another's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tlora.errors import PictureError
from tlora.flux.cached import content_key
from tlora.flux.model import Vae, encode_posterior, pixels_per_latent
from tlora.pictures.decode import decode_picture, picture_digest, picture_size, read_picture
from tlora.pictures.files import list_pictures, read_caption
from tlora.pictures.loss_mask import read_mask
from tlora.pictures.views import View, ViewSettings, take_view, views_of

PREPROCESSING = "1"  # changes whenever the same view of the same bytes would give other pixels


@dataclass(frozen=True)
class CaptionedPicture:
    """One view of a picture, (3, height, width) in -1..1, what it is called, and its loss mask in 0..1 if it has one."""

    name: str
    caption: str
    view: View
    pixels: Float[Tensor, "3 height width"]
    loss_mask: Float[Tensor, "height width"] | None = None


class CaptionDataset(Sequence[CaptionedPicture]):
    """The views of a folder of pictures with same-name .txt captions; a missing caption is an empty string.

    In order, each picture is decoded once for all of its views; its size is read from its head.

    Args:
        folder: Pictures and captions.
        views: Which views to take.
        multiple: Sides of a view are multiples of this many pixels, twice the VAE's factor.
        names: Pictures to take, by default all.
    """

    def __init__(self, folder: Path, views: ViewSettings, multiple: int, names: Sequence[str] | None = None) -> None:
        self.folder = folder
        self._latest: tuple[str, Image.Image, Image.Image | None] | None = None
        self._items = [
            (name, view)
            for name in (names if names is not None else [path.name for path in list_pictures(folder)])
            for view in views_of(picture_size(folder / name), views, multiple, _digest(folder / name, views))
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> CaptionedPicture:  # type: ignore[override]
        name, view = self._items[index]
        picture, mask = self._decode(name)
        weights = None if mask is None else to_weights(take_view(mask, view))
        return CaptionedPicture(name, read_caption(self.folder / name), view, to_pixels(take_view(picture, view)), weights)

    def _decode(self, name: str) -> tuple[Image.Image, Image.Image | None]:
        """Return a picture and its mask, the latest ones from memory."""
        if self._latest is None or self._latest[0] != name:
            self._latest = None  # two large pictures are never held at once
            picture = decode_picture(self.folder / name)
            self._latest = name, picture, read_mask(self.folder / name, picture.size)
        return self._latest[1:]


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


def view_key(encoder: str, sha256: str, view: View, mask_sha256: str = "") -> str:
    """Return a name for an encoded view: a hash of all that it is a function of.

    Args:
        encoder: What identifies the VAE.
        sha256: Digest of the picture's bytes.
        view: Which view of it.
        mask_sha256: Digest of its loss mask's bytes; empty if it has none.
    """
    crop = () if view.crop is None else (",".join(map(str, view.crop)),)
    return content_key(encoder, PREPROCESSING, sha256, str(view.width), str(view.height), str(view.flipped), mask_sha256, *crop)


def encode_view(vae: Vae, picture: Image.Image, mask: Image.Image | None, view: View, name: str) -> dict[str, Tensor]:
    """Return what is cached of a view: its latents, and what each of them counts where the picture has a loss mask.

    Raises:
        PictureError: If nothing is left of the mask in this view, naming the picture.
    """
    mean, std = encode_posterior(vae, to_pixels(take_view(picture, view))[None])
    tensors = {"mean": mean[0], "std": std[0]}
    if mask is not None:
        tensors["loss_mask"] = latent_weights(to_weights(take_view(mask, view)), pixels_per_latent(vae), name)
    return tensors


def _digest(picture: Path, views: ViewSettings) -> str:
    """Return what crops of a picture hang on; nothing where there are none."""
    return picture_digest(read_picture(picture)) if views.views_per_picture > 1 else ""
