"""Versions of a registered model: one per adapter, found by the digest of its bytes.

The model is "from code" (`served_model.py`), with no pickle in it; mlflow's own diffusers flavour would drop the sigma mask.
"""

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tlora
from tasks.tracking.runs import DECIDES, known_points, score_name
from tasks.tracking.store import Store
from tlora.flux.spec import ModelSpec

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as ModelVersion
    from mlflow.models import ModelSignature

ADAPTER_DIGEST = "adapter_digest"
BRANCH = "branch"  # tag: of a run with overrides, empty for any other
LARGEST_COPIED_BASE = 50_000_000  # bytes; a larger base is named by folder, or by id and revision, and not copied
_PACKAGES = (
    "accelerate",
    "diffusers",
    "einops",
    "jaxtyping",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "safetensors",
    "sentencepiece",
    "torch",
    "transformers",
)


@dataclass(frozen=True)
class Drawing:
    """How the evaluation drew, which is what serving does unless it is told otherwise.

    Args:
        width: Pixels.
        height: Pixels.
        num_inference_steps: Denoising steps.
        guidance_scale: Input of the guidance-distilled model.
        lora_scale: Strength of the adapter.
        sigma_mask: How the mask follows denoising, as `tlora.sampling.SampleSettings` has it.
        tileable: Whether the edges of a picture continue each other.
        max_sequence_length: T5 tokens of a prompt, padded or cut; the adapter was trained with as many.
    """

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    lora_scale: float
    sigma_mask: Literal["timestep", "step_index", "full"]
    tileable: bool
    max_sequence_length: int


@dataclass(frozen=True)
class ServedModel:
    """What a version holds.

    Args:
        adapter: Folder of the adapter.
        base: The base model.
        drawing: Defaults of its parameters.
        step: Training step of the adapter, which ties the run's metrics of that step to the model.
    """

    adapter: Path
    base: ModelSpec
    drawing: Drawing
    step: int


def find_version(store: Store, name: str, adapter_digest: str) -> "ModelVersion | None":
    """Return the version of a model that holds an adapter, or None."""
    wanted = f"name = '{name}' and tags.{ADAPTER_DIGEST} = '{adapter_digest}'"
    found = store.client.search_model_versions(wanted, max_results=1)
    return found[0] if found else None


def create_version(store: Store, run_id: str, model: ServedModel, name: str, tags: Mapping[str, str]) -> "ModelVersion":
    """Log a model to a run and register it.

    Args:
        store: Where.
        run_id: The run that it comes from.
        model: What it holds.
        name: Name of the registered model, made if it is new.
        tags: Of the version; they are there from the first moment, so that a version without its digest cannot be.
    """
    import mlflow

    copied = is_copied(model.base)
    packages = (*_PACKAGES, "bitsandbytes") if model.base.quantisation == "nf4" else _PACKAGES
    end = store.client.get_run(run_id).info.end_time
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        # given an example, MLflow would load the whole base model here and draw it
        warnings.filterwarnings("ignore", r".*An input example was not provided", UserWarning)
        info = mlflow.pyfunc.log_model(
            name="adapter",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"adapter": str(model.adapter)} | ({"base": model.base.path} if copied else {}),
            code_paths=[str(Path(tlora.__file__).parent)],
            model_config={"serve": _serving(model, copied)},
            pip_requirements=[f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in packages],
            signature=_signature(model.drawing),
            registered_model_name=name,
            tags=dict(tags),
            step=model.step,
        )
    store.client.set_terminated(run_id, "FINISHED", end)  # the run was over long before
    return store.client.get_model_version(name, str(info.registered_model_version))


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


def _serving(model: ServedModel, copied: bool) -> dict[str, str | int]:
    base = str(Path(model.base.path).absolute()) if model.base.is_folder else model.base.path
    return {
        "base": model.base.name if copied else base,
        "revision": model.base.revision,
        "quantisation": model.base.quantisation,
        "max_sequence_length": model.drawing.max_sequence_length,
        "sigma_mask": model.drawing.sigma_mask,
        "tileable": model.drawing.tileable,
    }


def _signature(drawing: Drawing) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        # no inputs: a schema would turn every input into a DataFrame, and refuse a plain text
        outputs=Schema([ColSpec(DataType.binary)]),
        params=ParamSchema(
            [
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("steps", DataType.long, drawing.num_inference_steps),
                ParamSpec("guidance", DataType.double, drawing.guidance_scale),
                ParamSpec("scale", DataType.double, drawing.lora_scale),
                ParamSpec("height", DataType.long, drawing.height),
                ParamSpec("width", DataType.long, drawing.width),
            ]
        ),
    )


@dataclass(frozen=True)
class PinnedVersion:
    """A version that an alias points at, and what it was made from."""

    model: str
    number: str
    aliases: str
    data: str
    data_dvc: str
    code: str
    base_revision: str
    params: str


def pinned_versions(store: Store) -> list[PinnedVersion]:
    """Return every version, of every registered model, that an alias points at."""
    pinned = []
    for model in store.client.search_registered_models():
        for number in sorted({str(number) for number in model.aliases.values()}):
            tags = store.client.get_model_version(model.name, number).tags
            aliases = ", ".join(sorted(alias for alias, holder in model.aliases.items() if str(holder) == number))
            named = ("data_digest", "data_dvc", "code_digest", "base_revision", "params_digest")
            pinned.append(PinnedVersion(model.name, number, aliases, *(tags.get(name, "") for name in named)))
    return pinned


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
