"""What drawn pictures are worth, each number a small pure function of embeddings, and the evaluator that makes those.

All similarities are cosines of CLIP embeddings. CLIP rewards copying the one wall it was shown, so fidelity is never read
alone: prompt following is a paired difference to the base, and diversity guards against collapse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from tlora.errors import ModelError

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluator:
    """A CLIP with what turns pictures and texts into its inputs."""

    clip: CLIPModel
    processor: CLIPImageProcessorPil
    tokenizer: CLIPTokenizer


def load_evaluator(path: str, revision: str = "") -> Evaluator:
    """Load a CLIP from a folder or the hub, in float32, on the CPU.

    Raises:
        ModelError: If it cannot be loaded.
    """
    if not Path(path).exists() and (path.count("/") != 1 or Path(path).parent.is_dir()):
        raise ModelError(f"{path}: no evaluator there: check evaluate.evaluator in params.yaml, or 'dvc pull -r shipped'")
    chosen = revision or "main"
    try:
        return Evaluator(
            CLIPModel.from_pretrained(path, revision=chosen, dtype=torch.float32).eval().requires_grad_(False),
            CLIPImageProcessorPil.from_pretrained(path, revision=chosen),
            CLIPTokenizer.from_pretrained(path, revision=chosen),
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: the evaluator cannot be loaded: {str(error).strip().splitlines()[0]}") from error


@torch.no_grad()
def embed_pictures(evaluator: Evaluator, pictures: Sequence[Image.Image], batch: int = 32) -> Float[Tensor, "pictures width"]:
    """Return unit embeddings of pictures."""
    parts = []
    for first in range(0, len(pictures), batch):
        pixels = evaluator.processor(list(pictures[first : first + batch]), return_tensors="pt")["pixel_values"]
        parts.append(_unit(_tensor(evaluator.clip.get_image_features(pixel_values=pixels))))
    return torch.cat(parts)


@torch.no_grad()
def embed_texts(evaluator: Evaluator, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
    """Return unit embeddings of texts."""
    tokens = evaluator.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    features = evaluator.clip.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return _unit(_tensor(features))


def concept_similarity(
    pictures: Float[Tensor, "pictures width"], references: Float[Tensor, "references width"]
) -> Float[Tensor, " pictures"]:
    """Return each picture's mean cosine with the reference pictures (CLIP-I), -1..1, higher is closer.

    Known failure: rewards copies and full-frame compositions; read beside diversity and prompt following.
    Source: DreamBooth (arXiv:2208.12242), section 4.1.
    """
    return (pictures @ references.T).mean(dim=1)


def prompt_similarity(
    pictures: Float[Tensor, "pictures width"], texts: Float[Tensor, "pictures width"]
) -> Float[Tensor, " pictures"]:
    """Return each picture's cosine with its own prompt (CLIP-T), -1..1, higher follows more.

    Known failure: means little in itself; use the paired difference to the base at the same prompt and seed.
    """
    return (pictures * texts).sum(dim=1)


def seed_diversity(pictures: Float[Tensor, "pictures width"]) -> float:
    """Return the mean pairwise distance (1 - cosine) of pictures of one prompt, 0..2; 0 is collapse, a single picture is 0."""
    count = len(pictures)
    if count < 2:
        return 0.0
    similarity = pictures @ pictures.T
    return float(1 - (similarity.sum() - similarity.trace()) / (count * (count - 1)))


def nearest_similarity(
    pictures: Float[Tensor, "pictures width"], references: Float[Tensor, "references width"]
) -> Float[Tensor, " pictures"]:
    """Return each picture's cosine with its nearest training picture, -1..1; near 1 is a copy.

    Known failure: depends on the evaluator; compare with the spread among the training pictures themselves.
    """
    return (pictures @ references.T).max(dim=1).values


def bootstrap_interval(cells: NDArray[np.float64], seed: int = 0) -> Interval:
    """Return the mean of (prompts, seeds) cells with a 95 % interval, resampling prompts and seeds together.

    Both are resampled because neither other prompts nor other seeds would give the same cells.

    Raises:
        ValueError: If there are no cells.
    """
    if cells.ndim != 2 or cells.size == 0:
        raise ValueError(f"need a table of prompts by seeds, got shape {cells.shape}")
    rng = np.random.default_rng(seed)
    prompts = rng.integers(0, cells.shape[0], (RESAMPLES, cells.shape[0]))
    seeds = rng.integers(0, cells.shape[1], (RESAMPLES, cells.shape[1]))
    means = cells[prompts[:, :, None], seeds[:, None, :]].mean((1, 2))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(cells.mean()), float(low), float(high))


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def _tensor(output: object) -> Tensor:
    """Accept what either generation of transformers returns: features, or an output that holds them."""
    return output if isinstance(output, Tensor) else output.pooler_output  # type: ignore[attr-defined]
