"""Everything that MLflow is told of an adapter, read from the files before anything is written."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.dvc_command import read_dvc_file
from tasks.git_history import branch_of_run
from tasks.register.choice import Choice
from tasks.registry.versions import BRANCH
from tasks.results.evaluation import Evaluation, comparison_tags, read_json
from tasks.results.lineage import rank_schedule
from tlora.errors import CheckpointError
from tlora.metadata.digests import digest_of
from tlora.pictures.manifest import read_manifest
from tlora.trust.licences import Licences, LicenceSettings, licences_of


@dataclass(frozen=True)
class Dataset:
    """The data folder as `dvc add` saw it, and how many of its pictures were trained on."""

    path: str
    digest: str
    pictures: int


@dataclass(frozen=True)
class RunFacts:
    """What MLflow is told of one adapter.

    Args:
        choice: The adapter.
        evaluation: All that was measured.
        objection: Why it must not become champion unasked, or None.
        dataset: What it was trained on.
        record: How training went: commit, host, start, parameters.
        log: A line per training step.
        previews: Step -> picture drawn in the middle of training.
        tags: What both the run and the version are tagged with.
        licences: Of base, data and adapter; tags too, kept up to date with what is set.
    """

    choice: Choice
    evaluation: Evaluation
    objection: str | None
    dataset: Dataset
    record: Mapping[str, Any]
    log: list[dict[str, Any]]
    previews: Mapping[int, Path]
    tags: Mapping[str, str]
    licences: Licences

    @property
    def started(self) -> int | None:
        """When training began, in milliseconds since 1970, or None where that was not recorded."""
        begun = self.record.get("started")
        return None if begun is None else int(1000 * datetime.fromisoformat(begun).timestamp())

    @property
    def ended(self) -> int | None:
        """When training ended, or None."""
        milliseconds = sum(1000 * float(line["seconds"]) for line in self.log)
        return None if self.started is None else self.started + int(milliseconds)

    def params(self) -> dict[str, str]:
        """Return the hyperparameters as params.yaml names them: section, dot, key."""
        of_adapter = {f"train.{name}": str(value) for name, value in asdict(self.choice.metadata.config).items()}
        sections = self.record.get("params", {}).items()
        return of_adapter | {f"{section}.{key}": value for section, values in sections for key, value in _leaves(values)}


def read_facts(
    choice: Choice, evaluation: Evaluation, objection: str | None, folders: "Folders", licence: LicenceSettings
) -> RunFacts:
    """Read the rest.

    Raises:
        CheckpointError: If a report is missing or is not what its stage writes.
        PictureError: If the data folder is not versioned.
    """
    trained, held_out = read_manifest(folders.manifest / "train.json"), read_manifest(folders.manifest / "held_out.json")
    path, digest = read_dvc_file(folders.data)
    record = read_json(folders.reports / "train" / "run.json")
    told, licences = choice.metadata, licences_of(choice.metadata.base, licence)
    tags = {
        "base": told.base,
        "family": told.family,
        "base_revision": told.base_revision,
        "rank_schedule": rank_schedule(told),
        "data_digest": told.data_digest,
        "data_dvc": digest,
        "params_digest": told.params_digest,
        "code_digest": told.code_digest,
        "evaluation_digest": digest_of({"setup": evaluation.setup, "train": trained.digest, "held_out": held_out.digest}),
        **comparison_tags(evaluation.setup),
        "git_commit": str(record.get("git_commit", "")),
        BRANCH: branch_of_run(),
        "concept": told.concept,
        "trigger": told.trigger,
        **licence_tags(licences),
    }
    dataset = Dataset(path, digest, len(trained.items))
    log = _read_log(folders.reports / "train" / "log.jsonl")
    previews = sorted((folders.reports / "train" / "previews").glob("step-*.png"))
    steps = {int(file.stem.removeprefix("step-")): file for file in previews}
    return RunFacts(choice, evaluation, objection, dataset, record, log, steps, tags, licences)


@dataclass(frozen=True)
class Folders:
    """Where the facts are read from: the reports, the manifests, and what `dvc add` wrote about the data folder."""

    reports: Path
    manifest: Path
    data: Path


def licence_tags(licences: Licences) -> dict[str, str]:
    """Return licences as a run and a version are tagged with them."""
    return {f"licence.{part}": name for part, name in licences.parts().items()}


def _leaves(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten nested settings; their keys are unique in a section, since the section itself is flat."""
    found = []
    for key, value in values.items():
        found += _leaves(value) if isinstance(value, Mapping) else [(key, str(value))]
    return found


def _read_log(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise CheckpointError(f"{file}: not a line of JSON per step: {error}") from error
