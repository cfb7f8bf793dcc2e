"""Which checkpoint is registered, and whether it may become champion unasked: read from the files, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.results.evaluation import Evaluation
from tlora.errors import CheckpointError, EvaluationError
from tlora.metadata.adapter import FINAL, AdapterMetadata, adapter_digest, find_weights, read_metadata


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


def choose_checkpoint(adapters: Path, recommended: Path, evaluation: Evaluation) -> Choice:
    """Return the checkpoint that the evaluation recommends, or the last one where it recommends none.

    Raises:
        CheckpointError: If it is not there, or was not evaluated, or is not what lies under the name of the recommended one.
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
    digest = adapter_digest(file)
    if evaluation.recommended and adapter_digest(find_weights(recommended)) != digest:
        raise CheckpointError(f"{recommended}: is not {evaluation.recommended}, which is recommended: run evaluate again")
    return Choice(name, file.parent, metadata, digest, evaluation.checkpoints[name])


def objection_to_champion(choice: Choice, evaluation: Evaluation) -> str | None:
    """Return why a checkpoint must not become the first champion, or None: the gate that has no champion to compare with.

    The evaluation's own objections are the gate: fidelity clearly above the base's, no collapse, no copying, by the rule of
    params.yaml's section `evaluate`.
    """
    if choice.scores["objections"]:
        return str(choice.scores["objections"][0])
    return None if evaluation.recommended else f"the evaluation recommends no checkpoint ({evaluation.reason})"
