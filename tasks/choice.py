"""Which checkpoint is registered, and whether it may become champion unasked: read from the files, nothing else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlora.adapter_metadata import AdapterMetadata, adapter_digest, find_weights, read_metadata
from tlora.errors import CheckpointError, EvaluationError

FINAL = "final"


@dataclass(frozen=True)
class Evaluation:
    """What metrics/evaluate.json says, and the hash of the bytes that say it."""

    recommended: str | None
    reason: str
    checkpoints: Mapping[str, Mapping[str, Any]]
    setup: Mapping[str, Any]
    failures: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Choice:
    """The checkpoint to register.

    Args:
        name: Its name in the evaluation.
        folder: Where it lies.
        metadata: What it says of itself.
        digest: Hash of its bytes.
        scores: Its entry in the evaluation.
    """

    name: str
    folder: Path
    metadata: AdapterMetadata
    digest: str
    scores: Mapping[str, Any]


def read_evaluation(file: Path) -> Evaluation:
    """Read metrics/evaluate.json.

    Raises:
        CheckpointError: If it is not what evaluate writes.
    """
    plain = read_json(file)
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        failures = tuple(plain["failures"].values())
        return Evaluation(plain["recommended"], plain["reason"], plain["checkpoints"], plain["setup"], failures, digest)
    except KeyError as error:
        raise CheckpointError(f"{file}: {error} is missing: run evaluate again") from error


def choose_checkpoint(adapters: Path, evaluation: Evaluation) -> Choice:
    """Return the checkpoint that the evaluation recommends, or the last one where it recommends none.

    Raises:
        CheckpointError: If it is not there, or was not evaluated.
        EvaluationError: If something could not be measured, so that another might have been recommended.
    """
    if evaluation.failures:
        raise EvaluationError(f"the evaluation is incomplete: {'; '.join(evaluation.failures)}: run evaluate again")
    wanted = evaluation.recommended or FINAL
    file = find_weights(adapters / wanted)
    metadata = read_metadata(file)
    at_its_step = (name for name, scores in evaluation.checkpoints.items() if scores.get("step") == metadata.step)
    name = wanted if wanted in evaluation.checkpoints else next(at_its_step, None)
    if name is None:
        raise CheckpointError(f"{file}: step {metadata.step} is not in the evaluation: run evaluate again")
    return Choice(name, file.parent, metadata, adapter_digest(file), evaluation.checkpoints[name])


def objection_to_champion(choice: Choice, evaluation: Evaluation) -> str | None:
    """Return why a checkpoint must not become the first champion, or None: the gate that has no champion to compare with.

    The evaluation's own objections are the gate: fidelity clearly above the base's, no collapse, no copying, by the rule of
    params.yaml's section `evaluate`.
    """
    if choice.scores["objections"]:
        return str(choice.scores["objections"][0])
    return None if evaluation.recommended else f"the evaluation recommends no checkpoint ({evaluation.reason})"


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
