"""Scores of drawn pictures, and what they say of a checkpoint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tlora.metrics import (
    Interval,
    bootstrap_interval,
    concept_similarity,
    nearest_similarity,
    prompt_similarity,
    seed_diversity,
)
from tlora.selection import Candidate, SelectionSettings, objection, recommend

BASE = "base"


@dataclass(frozen=True)
class References:
    """Embeddings that pictures are compared with."""

    train: Tensor
    held_out: Tensor
    texts: Tensor


@dataclass(frozen=True)
class Scores:
    """Scores of one set of pictures, each (prompts, seeds), and the diversity of each prompt."""

    similarity_train: NDArray[np.float64]
    similarity_held_out: NDArray[np.float64]
    prompt: NDArray[np.float64]
    nearest: NDArray[np.float64]
    diversity: NDArray[np.float64]


def score_pictures(embedded: Tensor, references: References, prompts: int) -> Scores:
    """Score unit embeddings of pictures, (prompts * seeds, width), prompt by prompt."""
    table = embedded.reshape(prompts, -1, embedded.shape[-1])
    texts = references.texts[:, None, :].expand_as(table).reshape(embedded.shape)

    def cells(values: Tensor) -> NDArray[np.float64]:
        return values.reshape(prompts, -1).double().numpy()

    return Scores(
        similarity_train=cells(concept_similarity(embedded, references.train)),
        similarity_held_out=cells(concept_similarity(embedded, references.held_out)),
        prompt=cells(prompt_similarity(embedded, texts)),
        nearest=cells(nearest_similarity(embedded, references.train)),
        diversity=np.array([seed_diversity(row) for row in table]),
    )


def summarise(scores: Mapping[str, Scores], steps: Mapping[str, int], rule: SelectionSettings) -> dict[str, Any]:
    """Return metrics/evaluate.json: every checkpoint's numbers beside the base's, and the one that the rule recommends."""
    base = scores[BASE]
    entries: dict[str, dict[str, Any]] = {}
    candidates = {}
    for name, own in scores.items():
        gain = bootstrap_interval(own.similarity_held_out - base.similarity_held_out)
        following = bootstrap_interval(own.prompt - base.prompt)
        ratio = float(own.diversity.mean() / base.diversity.mean()) if base.diversity.mean() else 0.0
        entries[name] = {
            "step": steps.get(name, 0),
            "similarity_train": plain(bootstrap_interval(own.similarity_train)),
            "similarity_held_out": plain(bootstrap_interval(own.similarity_held_out)),
            "similarity_gain": plain(gain),
            "prompt_following": plain(following),
            "nearest_training_picture": plain(bootstrap_interval(own.nearest)),
            "diversity": float(own.diversity.mean()),
            "diversity_ratio": ratio,
        }
        if name != BASE:
            candidates[name] = Candidate(steps[name], gain, following, ratio)
            entries[name]["objection"] = objection(candidates[name], rule)
    chosen = recommend(candidates, rule)
    return {"recommended": chosen.checkpoint, "reason": chosen.reason, "checkpoints": entries}


def plain(value: Interval | Scores) -> dict[str, object]:
    """Return the fields of a value, arrays as lists."""
    return json.loads(json.dumps(value.__dict__, default=lambda array: array.tolist()))
