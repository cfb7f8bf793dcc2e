"""What every picture and loss of an evaluation is a function of, beside the adapter."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tlora.flux.cached import INDEX
from tlora.flux.files import base_revision
from tlora.flux.spec import ModelSpec
from tlora.metadata.digests import code_digest, digest_of

if TYPE_CHECKING:
    from tasks.evaluate.stage import EvaluateSettings

STAGE, FIRST_PARTY = "tasks.evaluate.__main__", ("tasks", "tlora")


def fingerprint_fields(
    settings: "EvaluateSettings", model: ModelSpec, device: str, embeddings: tuple[Tensor, Tensor], caches: Sequence[Path]
) -> dict[str, Any]:
    """Return what it is, as JSON-able values.

    Args:
        settings: Section `evaluate`.
        model: Section `model`.
        device: Where pictures are drawn; which of several alike does not count.
        embeddings: Of the prompts.
        caches: Folders of what losses are measured on.
    """
    placed = dataclasses.replace(model, device=torch.device(device).type)
    return {
        "model": dataclasses.asdict(placed),
        "base_revision": base_revision(model),
        "sample": dataclasses.asdict(settings.sample),
        "batch": settings.batch,
        "prompts": [hashlib.sha256(part.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest() for part in embeddings],
        "losses": dataclasses.asdict(settings.losses),
        "caches": [digest_of((cache / INDEX).read_text(encoding="utf-8")) for cache in caches],
        "code": code_digest(STAGE, FIRST_PARTY),
    }
