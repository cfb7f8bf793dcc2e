"""What every picture and loss of an evaluation is a function of, beside the adapter."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlora.flux.cached import INDEX
from tlora.flux.files import base_revision
from tlora.flux.spec import ModelSpec
from tlora.metadata.digests import code_digest, digest_of

STAGE, FIRST_PARTY = "tasks.evaluate.__main__", ("tasks", "tlora")


def fingerprint_fields(
    settings: Mapping[str, Any], model: ModelSpec, device: str, embeddings: tuple[Tensor, Tensor], caches: Sequence[Path]
) -> dict[str, Any]:
    """Return what it is, as JSON-able values.

    Args:
        settings: Those of section `evaluate` that shape pictures or losses.
        model: Section `model`.
        device: Where pictures are drawn; which of several alike does not count.
        embeddings: Of the prompts.
        caches: Folders of what losses are measured on.
    """
    placed = dataclasses.replace(model, device=torch.device(device).type)
    return {
        "model": dataclasses.asdict(placed),
        "base_revision": base_revision(model),
        **settings,
        "prompts": [hashlib.sha256(part.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest() for part in embeddings],
        "caches": [digest_of((cache / INDEX).read_text(encoding="utf-8")) for cache in caches],
        "code": code_digest(STAGE, FIRST_PARTY),
    }
