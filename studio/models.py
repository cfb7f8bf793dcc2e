"""What can be drawn with, by names that people know: champion, challenger, any version, checkpoints of the last run, the base."""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.registry.names import CHALLENGER, CHAMPION, PARAMS, PREVIOUS, registered_name_here
from tasks.registry.promotion import fetch_adapter
from tasks.registry.trust import objection_to_signature
from tasks.registry.versions import find_alias, versions_of
from tasks.running.cli import read_section
from tasks.running.state_folder import state_folder
from tasks.tracking.store import Store, explained_failures, open_store
from tlora.drawing.warm import WarmBase
from tlora.errors import CheckpointError, TloraError
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import WEIGHTS_FILE
from tlora.metadata.sample_settings import SampleSettings
from tlora.pictures.tokens import TextSettings
from tlora.runtime.settings import parse_settings
from tlora.trust.settings import TrustSettings

if TYPE_CHECKING:
    from tasks.registry.versions import ModelVersion

BASE = "base"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
ADAPTERS = Path("adapters")
_VERSION, _CHECKPOINT = re.compile(r"version (\d+)"), re.compile(r"(checkpoint-\d+|final)")
_DRAWING = ("width", "height", "num_inference_steps", "guidance_scale", "lora_scale", "sigma_mask", "tileable")
_warm: list[WarmBase] = []  # at most one: two bases would take the memory of two


def warm_base() -> WarmBase:
    """Return the base of params.yaml, kept in memory from picture to picture."""
    spec = parse_settings(ModelSpec, read_section(PARAMS, "model"), f"{PARAMS}: model")
    text = parse_settings(TextSettings, read_section(PARAMS, "cache_prompts"), f"{PARAMS}: cache_prompts")
    if not _warm or _warm[0].spec != spec:
        _warm[:] = [WarmBase(spec, text.max_sequence_length)]
    return _warm[0]


def usual_sample() -> SampleSettings:
    """Return how evaluation draws."""
    section = read_section(PARAMS, "evaluate")
    return parse_settings(SampleSettings, {name: section[name] for name in _DRAWING if name in section}, f"{PARAMS}: evaluate")


def names() -> list[str]:
    """Return what can be drawn with now; without the versions where the store is away."""
    found = [BASE, *(f"{path.name}" for path in sorted(ADAPTERS.glob("*")) if _is_checkpoint(path.name))]
    try:
        with explained_failures():
            store, model = open_store(), registered_name_here()
            versions = [f"version {version.version}" for version in versions_of(store, model)]
            aliases = [alias for alias in ALIASES if find_alias(store, model, alias)]
    except (TloraError, OSError):
        return found
    return [*aliases, *versions, *found]


def adapter_of(name: str) -> Path | None:
    """Return the adapter of one of `names`; None for the bare base.

    Raises:
        TloraError: If there is none of that name, or it is not signed as params.yaml asks.
    """
    if name == BASE:
        return None
    trust = parse_settings(TrustSettings, read_section(PARAMS, "trust"), f"{PARAMS}: trust")
    if _is_checkpoint(name):
        if key := trust.verifies_with:
            from tlora.trust.signing import verify_adapter

            verify_adapter(ADAPTERS / name, key)
        return ADAPTERS / name
    with explained_failures():
        store, model = open_store(), registered_name_here()
        return version_adapter(store, _version(store, model, name), trust)


def version_adapter(store: Store, version: "ModelVersion", trust: TrustSettings) -> Path:
    """Return the folder of a version's adapter, fetched once.

    Raises:
        TloraError: If it cannot be had, or is not signed as it should be.
    """
    if objection := objection_to_signature(store, version, trust):
        raise CheckpointError(f"version {version.version}: {objection}")
    folder = state_folder("studio", "adapters") / f"{version.name}-{version.version}-{version.creation_timestamp}"
    if not (folder / WEIGHTS_FILE).exists():
        half = folder.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        fetched = fetch_adapter(store, version, half)
        shutil.copytree(fetched, folder, dirs_exist_ok=True)
        shutil.rmtree(half)
    return folder


def _version(store: Store, model: str, name: str) -> "ModelVersion":
    number = _VERSION.fullmatch(name)
    if number:
        found = next((each for each in versions_of(store, model) if str(each.version) == number[1]), None)
    else:
        found = find_alias(store, model, name) if name in ALIASES else None
    if found is None:
        raise CheckpointError(f"{model}: there is no {name!r}: choose one of the list")
    return found


def _is_checkpoint(name: str) -> bool:
    return bool(_CHECKPOINT.fullmatch(name)) and (ADAPTERS / name).is_dir()
