"""Versions of a registered model: one per adapter, found by the digest of its bytes.

The model is "from code" (`served_model.py`), with no pickle in it; mlflow's own diffusers flavour would drop the sigma mask.
"""

import importlib.metadata
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tlora
from tasks.registry.names import registered_name
from tasks.tracking.runs import DECIDES, known_points, score_name
from tasks.tracking.store import Store
from tlora.flux.spec import ModelSpec
from tlora.metadata.sample_settings import SampleSettings
from tlora.runtime.settings import parse_settings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as ModelVersion
    from mlflow.models import ModelSignature

ADAPTER_DIGEST = "adapter_digest"
BRANCH = "branch"  # tag: of a run with overrides, empty for any other
LARGEST_COPIED_BASE = 50_000_000  # bytes; a larger base is named by folder, or by id and revision, and not copied
_DRAWING = "reports/evaluate/evaluate.json: setup: drawing"
_PACKAGES = (
    "accelerate",
    "diffusers",
    "einops",
    "jaxtyping",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "ruamel.yaml",
    "safetensors",
    "sentencepiece",
    "torch",
    "transformers",
)


@dataclass(frozen=True)
class ServedModel:
    """What a version holds.

    Args:
        adapter: Folder of the adapter.
        base: The base model.
        drawing: How the evaluation drew, as it records it, which is what serving does unless it is told otherwise.
        public_key: Text of the key that its files must be signed with before it draws; empty for none.
    """

    adapter: Path
    base: ModelSpec
    drawing: Mapping[str, Any]
    public_key: str = ""


def find_version(store: Store, name: str, adapter_digest: str) -> "ModelVersion | None":
    """Return the version of a model that holds an adapter, or None."""
    wanted = f"name = '{name}' and tags.{ADAPTER_DIGEST} = '{adapter_digest}'"
    found = store.client.search_model_versions(wanted, max_results=1)
    return found[0] if found else None


def create_version(
    store: Store,
    run_id: str,
    adapter: Path,
    base: ModelSpec,
    drawing: Mapping[str, Any],
    tags: Mapping[str, str],
    public_key: str = "",
) -> "ModelVersion":
    """Log a model to a run and register it, under a name that is made if it is new.

    Args:
        store: Where.
        run_id: The run that it comes from.
        adapter: Folder of the adapter.
        base: The base model.
        drawing: How the evaluation drew, as it records it, which is what serving does unless it is told otherwise.
        tags: Of the version, concept and training step among them; they are there from the first moment, so that a version
            without its digest cannot be.
        public_key: Text of the key that its files must be signed with before it draws; empty for none.
    """
    import mlflow

    end = store.client.get_run(run_id).info.end_time
    name, model = registered_name(base, tags["concept"]), ServedModel(adapter, base, drawing, public_key)
    with mlflow.start_run(run_id=run_id), _described(model) as described:
        info = mlflow.pyfunc.log_model(
            name="adapter", registered_model_name=name, tags=dict(tags), step=int(tags["step"]), **described
        )
    store.client.set_terminated(run_id, "FINISHED", end)  # the run was over long before
    return store.client.get_model_version(name, str(info.registered_model_version))


def write_model(folder: Path, model: ServedModel, version: "ModelVersion") -> None:
    """Write the files of a version that is registered already, as `create_version` would have logged them."""
    import mlflow
    from mlflow.models import Model

    logged = str(version.source).removeprefix("models:/") if str(version.source).startswith("models:/") else None
    with _described(model) as described:
        mlflow.pyfunc.save_model(folder, mlflow_model=Model(run_id=version.run_id, model_id=logged), **described)


@contextmanager
def _described(model: ServedModel) -> Iterator[dict[str, Any]]:
    """Yield what MLflow is told of a model; of its folders copies without links, which MLflow would not follow."""
    length = model.drawing["max_sequence_length"]
    sample = parse_settings(SampleSettings, {k: v for k, v in model.drawing.items() if k != "max_sequence_length"}, _DRAWING)
    packages = [*_PACKAGES, *(["bitsandbytes"] if model.base.quantisation == "nf4" else [])]
    packages += ["model-signing", "pyopenssl"] if model.public_key else []
    folders = folders_of(model)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # given an example, MLflow would load the whole base model here and draw it
        warnings.filterwarnings("ignore", r".*An input example was not provided", UserWarning)
        copies = {key: Path(temporary) / key / folder.name for key, folder in folders.items()}
        for key, folder in folders.items():
            shutil.copytree(folder, copies[key])
        yield {
            "python_model": str(Path(__file__).with_name("served_model.py")),
            "artifacts": {key: str(copy) for key, copy in copies.items()},
            "code_paths": [str(Path(tlora.__file__).parent)],
            "model_config": {"serve": _serving(model, sample, copied="base" in folders) | {"max_sequence_length": length}},
            "pip_requirements": [f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in packages],
            "signature": _signature(sample),
        }


def folders_of(model: ServedModel) -> dict[str, Path]:
    """Return the folders that a version holds copies of: the adapter's, and the base's where it is small."""
    return {"adapter": model.adapter} | ({"base": Path(model.base.path)} if is_copied(model.base) else {})


def find_alias(store: Store, name: str, alias: str) -> "ModelVersion | None":
    """Return the version of a model that an alias points at; None if there is no such alias, or no such model yet."""
    found = store.client.search_registered_models(f"name = '{name}'", max_results=1)
    number = found[0].aliases.get(alias) if found else None
    return store.client.get_model_version(name, str(number)) if number else None


def aliases_of(store: Store, name: str) -> dict[str, str]:
    """Return the aliases of a registered model and the versions that they point at."""
    return {alias: str(version) for alias, version in store.client.get_registered_model(name).aliases.items()}


def introduce_model(store: Store, name: str, description: str) -> None:
    """Describe a registered model, unless somebody has."""
    if not store.client.get_registered_model(name).description:
        store.client.update_registered_model(name, description)


def scores_of(store: Store, version: "ModelVersion") -> dict[str, float]:
    """Return the means that a version was measured with, by metric: its run's, at its step."""
    run = store.client.get_run(str(version.run_id))
    names = {key: name for key in run.data.metrics if (name := score_name(key))}
    points = sorted(known_points(store, run.info.run_id, names), key=lambda point: point.key.startswith(DECIDES))
    return {names[point.key]: point.value for point in points if str(point.step) == version.tags.get("step")}


def set_version_tags(store: Store, version: "ModelVersion", tags: Mapping[str, str]) -> None:
    """Write the tags of a version that differ."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            store.client.set_model_version_tag(version.name, version.version, key, value)


def is_copied(base: ModelSpec) -> bool:
    """Whether a version holds a copy of its base model: a small folder."""
    files = Path(base.path).rglob("*") if base.is_folder else []
    return base.is_folder and sum(file.stat().st_size for file in files if file.is_file()) <= LARGEST_COPIED_BASE


def _serving(model: ServedModel, sample: SampleSettings, *, copied: bool) -> dict[str, str | int]:
    base = model.base
    key = {"public_key": model.public_key} if model.public_key else {}
    path = str(Path(base.path).absolute()) if base.is_folder else base.path
    return {
        "base": base.name if copied else path,
        "revision": base.revision,
        "quantisation": base.quantisation,
        "sigma_mask": sample.sigma_mask,
        "tileable": sample.tileable,
        **key,
    }


def _signature(sample: SampleSettings) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        # no inputs: a schema would turn every input into a DataFrame, and refuse a plain text
        outputs=Schema([ColSpec(DataType.binary)]),
        params=ParamSchema(
            [
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("steps", DataType.long, sample.num_inference_steps),
                ParamSpec("guidance", DataType.double, sample.guidance_scale),
                ParamSpec("scale", DataType.double, sample.lora_scale),
                ParamSpec("height", DataType.long, sample.height),
                ParamSpec("width", DataType.long, sample.width),
            ]
        ),
    )


def pinned_versions(store: Store) -> "list[ModelVersion]":
    """Return every version, of every registered model, that an alias points at."""
    models = store.client.search_registered_models()
    pinned = {(model.name, str(number)) for model in models for number in model.aliases.values()}
    return [store.client.get_model_version(name, number) for name, number in sorted(pinned)]


def versions_of(store: Store, name: str) -> "list[ModelVersion]":
    """Return every version of a registered model, the newest first."""
    found: list[ModelVersion] = []
    token = None
    while token is None or token:
        page = store.client.search_model_versions(f"name = '{name}'", page_token=token)
        found, token = [*found, *page], page.token or ""
    return sorted(found, key=lambda version: -int(version.version))


def revisions(store: Store) -> set[str]:
    """Return the branches and commits that versions, of every registered model, were made at."""
    models = store.client.search_registered_models()
    tags = [version.tags for model in models for version in versions_of(store, model.name)]
    return {each[name] for each in tags for name in (BRANCH, "git_commit") if each.get(name)}
