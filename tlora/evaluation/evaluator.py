"""The models that look at pictures: a CLIP, and if wanted a DINOv2 and an EfficientNet. transformers' door for evaluation.

They stay on the CPU in float32, so that a picture's embedding does not depend on the machine's GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import is_offline_mode, try_to_load_from_cache
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Model,
    PreTrainedConfig,
)

from tlora.errors import ModelError
from tlora.evaluation.efficientnet import DEVIATION, MEAN, SIDE, find_efficientnet, read_efficientnet


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
    clip, processor, tokenizer = _load((CLIPModel, CLIPImageProcessorPil, CLIPTokenizer), path, revision)
    encoder = PictureEncoder(processor, lambda pixels: _tensor(clip.get_image_features(pixel_values=pixels)))
    return Evaluator(encoder, clip, tokenizer)


def load_dinov2(path: str, revision: str = "") -> PictureEncoder:
    """Load a DINOv2 from a folder or the hub; its feature is that of the class token.

    Raises:
        ModelError: If it cannot be loaded.

    Source:
        DINOv2 (arXiv:2304.07193); as a metric of fidelity it follows DreamBooth (arXiv:2208.12242), which used its forerunner.
    """
    model, processor = _load((Dinov2Model, BitImageProcessorPil), path, revision)
    return PictureEncoder(processor, lambda pixels: _tensor(model(pixel_values=pixels)))


def load_efficientnet() -> PictureEncoder:
    """Load EfficientNet-Lite0 from the extra `second-opinion`; its feature is the mean over the last map.

    Raises:
        ModelError: If the extra is not installed, or its weights are not the ones that are known.

    Source:
        EfficientNet (arXiv:1905.11946), in the variant without squeeze and excitation; the features before its classifier.
    """
    features = read_efficientnet(find_efficientnet())
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    channels = {"image_mean": [MEAN] * 3, "image_std": [DEVIATION] * 3}
    processor = BitImageProcessorPil(**size, **channels, resample=Image.Resampling.BICUBIC)
    return PictureEncoder(processor, lambda pixels: features(pixels).mean(dim=(2, 3)))


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


def require_evaluator(path: str, revision: str) -> None:
    """Check that an evaluator can be had, before anything is loaded.

    Args:
        path: Folder or hub name.
        revision: Its commit on the hub; empty for a folder.

    Raises:
        ModelError: If there is no such folder, or it is on the hub, not on this machine, and the hub may not be asked.
    """
    if Path(path).exists():
        if not (Path(path) / "config.json").is_file():
            raise ModelError(f"{path}: no evaluator there (config.json is missing)", "evaluator")
        return
    if path.count("/") != 1 or Path(path).parent.is_dir():
        raise ModelError(f"{path}: no evaluator there", "evaluator")
    if is_offline_mode() and not isinstance(try_to_load_from_cache(path, "config.json", revision=revision or None), str):
        raise ModelError(f"{path}: not on this machine, and HF_HUB_OFFLINE is set: unset it, or name a folder")


def _load(parts: Sequence[Any], path: str, revision: str) -> list[Any]:
    """Load the parts of an evaluator, a model first; transformers itself would fill what a file lacks with random weights."""
    require_evaluator(path, revision)
    kind, chosen = parts[0], revision or "main"
    try:
        found = PreTrainedConfig.get_config_dict(path, revision=chosen)[0].get("model_type")
        if found != kind.config_class.model_type:
            raise ModelError(f"{path}: is a {found}, not a {kind.config_class.model_type}")
        model, told = kind.from_pretrained(path, revision=chosen, dtype=torch.float32, output_loading_info=True)
        others = [part.from_pretrained(path, revision=chosen) for part in parts[1:]]
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: the evaluator cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    if told["missing_keys"]:
        raise ModelError(f"{path}: the evaluator cannot be loaded: {min(told['missing_keys'])} is missing")
    return [model.eval().requires_grad_(False), *others]


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def _tensor(output: object) -> Tensor:
    """Accept what either generation of transformers returns: features, or an output that holds them."""
    return output if isinstance(output, Tensor) else output.pooler_output  # type: ignore[attr-defined]
