"""Scores of drawn pictures: for each metric a table with a row per prompt, so that any two sets can be compared cell by cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.evaluate.drawing import Rows
from tlora.evaluation.embedding_metrics import (
    concept_similarity,
    is_copy,
    movement,
    nearest_similarity,
    prompt_contrast,
    prompt_similarity,
    seed_distances,
    table,
    training_distance,
    usual_distance,
)
from tlora.evaluation.evaluator import Evaluator, PictureEncoder, embed_pictures, embed_texts
from tlora.evaluation.intervals import Cells
from tlora.evaluation.texture import (
    Lattice,
    Luminance,
    Spectrum,
    find_lattice,
    mean_spectrum,
    orientation_error,
    period_error,
    power_spectrum,
    seam_ratio,
    spectrum_distance,
)
from tlora.pictures.views import View, take_view

Scores: TypeAlias = Mapping[str, Cells]  # NaN where a picture was not drawn
TEXTURE = ("seam_ratio", "spectrum_distance", "period_error", "orientation_error")


@dataclass(frozen=True)
class Encoders:
    """The models that embed pictures; one that is not wanted, or could not be loaded, is None."""

    clip: Evaluator | None
    dinov2: PictureEncoder | None
    efficientnet: PictureEncoder | None


@dataclass(frozen=True)
class Look:
    """What the encoders see in a picture: unit embeddings, None of an encoder that is not there."""

    clip: Tensor | None
    dinov2: Tensor | None
    efficientnet: Tensor | None


@dataclass(frozen=True)
class ReferenceEmbeddings:
    """Unit embeddings of the true pictures of the concept."""

    train: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class ReferenceTexture:
    """The texture of the true pictures, at the size of the drawn ones."""

    spectrum: Spectrum
    lattice: Lattice
    seam_ratio: float


@dataclass(frozen=True)
class References:
    """What drawn pictures are compared with.

    Args:
        clip: The true pictures as the evaluator sees them.
        texts: The prompts as it sees them.
        dinov2: The true pictures as DINOv2 sees them.
        efficientnet: The true pictures as EfficientNet sees them.
        texture: Of the true pictures.
    """

    clip: ReferenceEmbeddings | None
    texts: Tensor | None
    dinov2: ReferenceEmbeddings | None
    efficientnet: ReferenceEmbeddings | None
    texture: ReferenceTexture


def measure_references(
    encoders: Encoders,
    train: Sequence[Image.Image],
    held_out: Sequence[Image.Image],
    prompts: Sequence[str],
    size: tuple[int, int],
) -> References:
    """Embed the true pictures and the prompts, and take the texture of the pictures, cut to the drawn ones' size."""

    def embed(encoder: PictureEncoder) -> ReferenceEmbeddings:
        return ReferenceEmbeddings(embed_pictures(encoder, train), embed_pictures(encoder, held_out))

    cut = [luminance(take_view(picture, View(*size, flipped=False))) for picture in (*train, *held_out)]
    return References(
        embed(encoders.clip.pictures) if encoders.clip else None,
        embed_texts(encoders.clip, prompts) if encoders.clip else None,
        embed(encoders.dinov2) if encoders.dinov2 else None,
        embed(encoders.efficientnet) if encoders.efficientnet else None,
        ReferenceTexture(mean_spectrum(cut), find_lattice(cut), float(np.mean([seam_ratio(picture) for picture in cut]))),
    )


def look_at(pictures: Sequence[Image.Image], encoders: Encoders) -> list[Look]:
    """Embed pictures that were drawn together; what is seen in one then does not depend on what else is drawn."""
    clip = embed_pictures(encoders.clip.pictures, pictures) if encoders.clip else [None] * len(pictures)
    dinov2, efficientnet = (
        embed_pictures(encoder, pictures) if encoder else [None] * len(pictures)
        for encoder in (encoders.dinov2, encoders.efficientnet)
    )
    return [Look(*seen) for seen in zip(clip, dinov2, efficientnet, strict=True)]


def score_looks(looks: Sequence[Sequence[Look | None]], references: References) -> dict[str, Cells]:
    """Score pictures with every encoder that saw them.

    Args:
        looks: For each prompt, what was seen per seed; None where nothing was drawn, whose scores are NaN.
        references: What they compare with.
    """
    cells = [look for row in looks for look in row]
    scores: dict[str, Cells] = {}
    clip = _stacked([look.clip if look else None for look in cells])
    if clip is not None and references.clip and references.texts is not None:
        scores |= score_embeddings(clip, references.clip, references.texts)
    dinov2 = _stacked([look.dinov2 if look else None for look in cells])
    if dinov2 is not None and references.dinov2:
        scores["dinov2_held_out"] = table(concept_similarity(dinov2, references.dinov2.held_out), len(looks))
    efficientnet = _stacked([look.efficientnet if look else None for look in cells])
    if efficientnet is not None and references.efficientnet:
        similarity = concept_similarity(efficientnet, references.efficientnet.held_out)
        scores["efficientnet_held_out"] = table(similarity, len(looks))
    return scores


def _stacked(embeddings: Sequence[Tensor | None]) -> Tensor | None:
    """Return embeddings as rows, NaN for those that are missing, or None where all are."""
    known = next((embedding for embedding in embeddings if embedding is not None), None)
    if known is None:
        return None
    return torch.stack([torch.full_like(known, torch.nan) if embedding is None else embedding for embedding in embeddings])


def score_embeddings(seen: Tensor, references: ReferenceEmbeddings, texts: Tensor) -> dict[str, Cells]:
    """Score unit embeddings of pictures, (prompts * seeds, width), prompt by prompt; those that are NaN have scores that are."""
    prompts = len(texts)
    by_prompt = seen.reshape(prompts, -1, seen.shape[-1])
    own_texts = texts[:, None, :].expand_as(by_prompt).reshape(seen.shape)
    distance = training_distance(seen, references.train, usual_distance(references.train, references.held_out))
    values = {
        "similarity_train": concept_similarity(seen, references.train),
        "similarity_held_out": concept_similarity(seen, references.held_out),
        "prompt_similarity": prompt_similarity(seen, own_texts),
        "nearest_training_picture": nearest_similarity(seen, references.train),
        "training_distance": distance,
        "copied": torch.where(distance.isnan(), torch.nan, is_copy(distance).double()),
    }
    if prompts > 1:
        own = torch.arange(prompts).repeat_interleave(by_prompt.shape[1])
        values["prompt_contrast"] = prompt_contrast(seen, texts, own)
    cells = {name: table(value, prompts) for name, value in values.items()}
    return cells | {"diversity": np.array([seed_distances(row).double().numpy() for row in by_prompt])}


def score_movement(own: Sequence[Sequence[Look]], base: Sequence[Sequence[Look]]) -> Cells | None:
    """Return how far pictures of other prompts are from the base's, or None where no evaluator saw them."""
    embedded = [[[look.clip for look in row if look.clip is not None] for row in rows] for rows in (own, base)]
    if not embedded[1][0]:
        return None
    moved, still = (torch.stack([torch.stack(row) for row in rows]) for rows in embedded)
    return movement(moved, still).double().numpy()


def score_textures(rows: Rows, texture: ReferenceTexture) -> dict[str, Cells]:
    """Compare the texture of pictures of the material with the true ones'; nothing where there are no such pictures."""
    if not rows:
        return {}
    scored = [[_score_texture(luminance(picture), texture) if picture else {} for picture in row] for row in rows]
    return {name: np.array([[cell.get(name, np.nan) for cell in row] for row in scored]) for name in TEXTURE}


def _score_texture(picture: Luminance, texture: ReferenceTexture) -> dict[str, float]:
    lattice = find_lattice([picture])
    found = (
        seam_ratio(picture),
        spectrum_distance(power_spectrum(picture), texture.spectrum),
        period_error(lattice, texture.lattice),
        orientation_error(lattice, texture.lattice),
    )
    return dict(zip(TEXTURE, found, strict=True))


def luminance(picture: Image.Image) -> Luminance:
    """Return the luminance of a picture, (height, width) in 0..1."""
    return np.asarray(picture.convert("L"), dtype=np.float64) / 255
