"""What `evaluate` leaves in reports/evaluate/evaluate.json, as other stages read it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlora.errors import CheckpointError
from tlora.metadata.digests import digest_of


@dataclass(frozen=True)
class Evaluation:
    """What reports/evaluate/evaluate.json says, and the hash of the bytes that say it."""

    recommended: str | None
    reason: str
    checkpoints: Mapping[str, Mapping[str, Any]]
    setup: Mapping[str, Any]
    failures: tuple[str, ...]
    digest: str
    second_opinion: str = ""  # what it says, where one was asked for


def read_evaluation(file: Path) -> Evaluation:
    """Read reports/evaluate/evaluate.json.

    Raises:
        CheckpointError: If it is not what evaluate writes.
    """
    plain = read_json(file)
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        failures = tuple(plain["failures"].values())
        opinion = plain.get("second_opinion", {}).get("said", "")
        return Evaluation(plain["recommended"], plain["reason"], plain["checkpoints"], plain["setup"], failures, digest, opinion)
    except KeyError as error:
        raise CheckpointError(f"{file}: {error} is missing: run evaluate again") from error


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object that a stage wrote.

    Raises:
        CheckpointError: If it is not one.
    """
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return plain


def comparison_tags(setup: Mapping[str, Any]) -> dict[str, str]:
    """Return what must be equal before two versions' scores are compared."""
    return {
        "evaluation.prompts": setup["prompts_digest"],
        "evaluation.seeds": ",".join(map(str, setup["seeds"])),
        "evaluation.evaluator": setup["evaluator"],
        "evaluation.drawing": digest_of(setup["drawing"]),
        "evaluation.held_out": setup["held_out"],
    }
