"""The models that look at pictures: a CLIP, and if wanted a DINOv2 for a second opinion. transformers' door for evaluation.

They stay on the CPU in float32, so that a picture's embedding does not depend on the machine's GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Model,
)

from tlora.errors import ModelError


@dataclass(frozen=True)
class PictureEncoder:
    """What turns pictures into embeddings.

    Args:
        processor: Pictures to pixel values.
        features: Pixel values to features.
    """

    processor: Any
    features: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Evaluator:
    """A CLIP: pictures and texts to embeddings that can be compared."""

    pictures: PictureEncoder
    clip: CLIPModel
    tokenizer: CLIPTokenizer


def load_evaluator(path: str, revision: str = "") -> Evaluator:
    """Load a CLIP from a folder or the hub.

    Raises:
        ModelError: If it cannot be loaded.
    """
    clip, processor, tokenizer = _load((CLIPModel, CLIPImageProcessorPil, CLIPTokenizer), path, revision, "evaluate.evaluator")
    encoder = PictureEncoder(processor, lambda pixels: _tensor(clip.get_image_features(pixel_values=pixels)))
    return Evaluator(encoder, clip, tokenizer)


def load_dinov2(path: str, revision: str = "") -> PictureEncoder:
    """Load a DINOv2 from a folder or the hub; its feature is that of the class token.

    Raises:
        ModelError: If it cannot be loaded.

    Source:
        DINOv2 (arXiv:2304.07193); as a metric of fidelity it follows DreamBooth (arXiv:2208.12242), which used its forerunner.
    """
    model, processor = _load((Dinov2Model, BitImageProcessorPil), path, revision, "evaluate.dinov2")
    return PictureEncoder(processor, lambda pixels: _tensor(model(pixel_values=pixels)))


@torch.no_grad()
def embed_pictures(encoder: PictureEncoder, pictures: Sequence[Image.Image], batch: int = 32) -> Float[Tensor, "pictures width"]:
    """Return unit embeddings of pictures."""
    parts = []
    for first in range(0, len(pictures), batch):
        pixels = encoder.processor(list(pictures[first : first + batch]), return_tensors="pt")["pixel_values"]
        parts.append(_unit(encoder.features(pixels)))
    return torch.cat(parts)


@torch.no_grad()
def embed_texts(evaluator: Evaluator, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
    """Return unit embeddings of texts."""
    tokens = evaluator.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    features = evaluator.clip.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return _unit(_tensor(features))


def _load(parts: Sequence[Any], path: str, revision: str, setting: str) -> list[Any]:
    """Load the parts of an evaluator, models frozen."""
    if not Path(path).exists() and (path.count("/") != 1 or Path(path).parent.is_dir()):
        raise ModelError(f"{path}: no evaluator there: check {setting} in params.yaml, or 'dvc pull -r shipped'")
    try:
        loaded = []
        for part in parts:
            options = {"dtype": torch.float32} if issubclass(part, torch.nn.Module) else {}
            loaded.append(part.from_pretrained(path, revision=revision or "main", **options))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: the evaluator cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    for part in loaded:
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return loaded


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def _tensor(output: object) -> Tensor:
    """Accept what either generation of transformers returns: features, or an output that holds them."""
    return output if isinstance(output, Tensor) else output.pooler_output  # type: ignore[attr-defined]
