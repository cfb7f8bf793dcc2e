"""What a run shows: parameters, curves, pictures, tags, and the data it was given.

A run is found by the fingerprint of everything that training depended on. Metrics are known by key, step and value, so what
was logged live is not logged again, and a second evaluation of the same adapters adds its own values.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.tracking.store import Store
from tlora.metadata.adapter import AdapterMetadata

if TYPE_CHECKING:
    from mlflow.entities import Run

FINGERPRINT = "fingerprint"
PREVIEW_SERIES = "preview"  # pictures drawn in the middle of training
DECIDING = (
    "similarity_gain",
    "prompt_following",
    "contrast_change",
    "lost_prompts",
    "drift",
    "diversity_ratio",
)  # scores that decide, before any other
DECIDES, EVALUATED, UNCERTAINTY = "decides", "evaluate", "uncertainty"  # sections of a run's metrics
_BATCH = 1000  # MLflow's own limit for metrics in one request
_SMALL_BATCH = 100  # and for parameters and tags
_LONGEST_DIGEST = 36  # of a dataset, in MLflow's table


@dataclass(frozen=True, order=True)
class Point:
    """One value of one curve."""

    key: str
    step: int
    value: float


def run_fingerprint(metadata: AdapterMetadata) -> str:
    """Return the hash of what training depends on: the same for every checkpoint of a run, known before it starts."""
    inputs = {name: value for name, value in metadata.to_strings().items() if name != "step"}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def training_points(line: Mapping[str, Any]) -> list[Point]:
    """Return the points of one line of reports/train/log.jsonl: its numbers, at its step."""
    return _points("train", line)


def evaluation_points(scores: Mapping[str, Any]) -> list[Point]:
    """Return the points of one checkpoint's scores: each mean, and the ends of its interval.

    MLflow shows sections in the order of their names: what decides comes first, then the rest, then training's own, then the
    intervals, as `_low` and `_high`.
    """
    points = []
    for name, value in scores.items():
        section = DECIDES if name in DECIDING else EVALUATED
        for point in _points("", {"step": scores.get("step", 0), name: value}):
            end = point.key.endswith(("_low", "_high")) and point.key != f"/{name}"
            points.append(replace(point, key=f"{UNCERTAINTY if end else section}{point.key}"))
    return points


def score_name(key: str) -> str | None:
    """Return which score a metric of a run is the mean of, or None: an end of an interval, or a number of training."""
    section, _, name = key.partition("/")
    mean = section in (DECIDES, EVALUATED) and not name.endswith(("_low", "_high"))  # as earlier versions named the ends
    return name if mean else None


def find_run(store: Store, fingerprint: str) -> "Run | None":
    """Return the run with that fingerprint, or None."""
    found = store.client.search_runs([store.experiment_id], f"tags.{FINGERPRINT} = '{fingerprint}'", max_results=1)
    return found[0] if found else None


def find_or_create_run(store: Store, metadata: AdapterMetadata, started: int | None = None) -> "Run":
    """Return the run of an adapter, made if the store has none.

    Args:
        store: Where.
        metadata: Of any of its checkpoints.
        started: When training began, in milliseconds since 1970; by default now.
    """
    fingerprint = run_fingerprint(metadata)
    name = f"{metadata.concept}-{fingerprint[:8]}"
    tags = {FINGERPRINT: fingerprint}
    return find_run(store, fingerprint) or store.client.create_run(store.experiment_id, started, tags, name)


def known_points(store: Store, run_id: str, keys: Iterable[str]) -> set[Point]:
    """Return the points that a run shows under these keys: of several values at one step, the newest."""
    present = store.client.get_run(run_id).data.metrics
    history = [metric for key in set(keys) & present.keys() for metric in store.client.get_metric_history(run_id, key)]
    newest = {(metric.key, metric.step): metric.value for metric in sorted(history, key=lambda metric: int(metric.timestamp))}
    return {Point(key, step, value) for (key, step), value in newest.items()}


def log_points(store: Store, run_id: str, points: Sequence[Point]) -> None:
    """Add points to a run; those that it already has are the caller's to leave out."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(point.key, point.value, now, point.step) for point in points]
    for first in range(0, len(metrics), _BATCH):
        store.client.log_batch(run_id, metrics=metrics[first : first + _BATCH])


def log_params_and_tags(store: Store, run: "Run", params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Add the parameters that a run lacks (MLflow never changes one) and the tags that differ."""
    from mlflow.entities import Param, RunTag

    new_params = [Param(key, str(value)) for key, value in params.items() if key not in run.data.params]
    new_tags = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
    for first in range(0, max(len(new_params), len(new_tags)), _SMALL_BATCH):
        batch = slice(first, first + _SMALL_BATCH)
        store.client.log_batch(run.info.run_id, params=new_params[batch], tags=new_tags[batch])


def log_dataset(store: Store, run: "Run", name: str, digest: str, source: str, pictures: int) -> None:
    """Say which data a run was trained on, once.

    Args:
        store: Where.
        run: Which.
        name: Name of the concept.
        digest: DVC's digest of the folder.
        source: The folder.
        pictures: How many were trained on.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    given = run.inputs.dataset_inputs if run.inputs else []
    if any(other.dataset.digest == digest[:_LONGEST_DIGEST] for other in given):
        return
    dataset = Dataset(
        name=name,
        digest=digest[:_LONGEST_DIGEST],
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"num_rows": pictures}),
    )
    context = [InputTag("mlflow.data.context", "training")]
    store.client.log_inputs(run.info.run_id, [DatasetInput(dataset, context)])


def log_pictures(store: Store, run_id: str, key: str, pictures: Mapping[int, Path], again: bool) -> None:
    """Add pictures to the run's image grid, one per step.

    Args:
        store: Where.
        run_id: Which run.
        key: Name of the series.
        pictures: Step -> PNG.
        again: Add those of steps that the run already has a picture of, since they are new.
    """
    from PIL import Image

    present = [Path(file.path).name for file in store.client.list_artifacts(run_id, "images")]
    for step, file in sorted(pictures.items()):
        if again or not any(name.startswith(f"{key}+step+{step}+") for name in present):
            with Image.open(file) as picture:
                store.client.log_image(run_id, picture.convert("RGB"), key=key, step=step)


def log_preview(store: Store, run_id: str, file: Path, artifact: str, widest: int) -> None:
    """Keep a picture with a run, made smaller if it is wider than `widest` pixels."""
    from PIL import Image

    with Image.open(file) as picture:
        smaller = picture.convert("RGB")
        smaller.thumbnail((widest, picture.height))
        store.client.log_image(run_id, smaller, artifact_file=artifact)


def log_files(store: Store, run_id: str, files: Mapping[str, Path]) -> None:
    """Keep files or whole folders with a run, each in a folder of its own; those that are there are replaced."""
    for folder, path in files.items():
        if path.is_dir():
            store.client.log_artifacts(run_id, str(path), folder)
        else:
            store.client.log_artifact(run_id, str(path), folder)


def keeps(store: Store, run_id: str, folders: Iterable[str]) -> bool:
    """Whether a run keeps artifacts in all of these folders."""
    present = {file.path for file in store.client.list_artifacts(run_id)}
    return {Path(folder).parts[0] for folder in folders} <= present


def fetch_folder(store: Store, run_id: str, folder: str, into: Path) -> Path | None:
    """Copy a folder that a run keeps, and return where; None if it keeps none of that name."""
    if not any(file.path == folder and file.is_dir for file in store.client.list_artifacts(run_id)):
        return None
    return Path(store.client.download_artifacts(run_id, folder, str(into)))


def _points(section: str, values: Mapping[str, Any]) -> list[Point]:
    step, points = int(values.get("step", 0)), []
    for name, value in values.items():
        parts = {"mean": value} if not isinstance(value, Mapping) else value
        for part, number in parts.items():
            key = f"{section}/{name}" if part == "mean" else f"{section}/{name}_{part}"
            if name != "step" and _is_number(number) and math.isfinite(number):
                points.append(Point(key, step, float(number)))
    return points


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
