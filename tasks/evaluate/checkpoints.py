"""Which checkpoints can be measured, and a line for each that cannot: one bad one must not cost the others."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from tlora.errors import CheckpointError, InjectionError, ModelError
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import FINAL, WEIGHTS_FILE, AdapterMetadata, read_metadata
from tlora.runtime.remedies import PIPELINE, explain

T = TypeVar("T")


def find_checkpoints(adapters: Path, model: ModelSpec) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the folders of the checkpoints by name, in the order of their steps, and why others are passed over.

    `final` is among them only where no other is its twin.

    Raises:
        CheckpointError: If there is none that can be measured.
    """
    found = {folder.name: folder for folder in sorted(adapters.glob("*/")) if (folder / WEIGHTS_FILE).exists()}
    failures: dict[str, str] = {}
    read = {name: attempt(failures, name, partial(_read_checkpoint, folder, model)) for name, folder in found.items()}
    known = {name: metadata.step for name, metadata in read.items() if metadata}
    if FINAL in known and any(step == known[FINAL] for name, step in known.items() if name != FINAL):
        del known[FINAL]
    if not known:
        reason = "; ".join(failures.values()) or "no checkpoints to evaluate: run train first"
        raise CheckpointError(reason if failures else f"{adapters}: {reason}")
    return {name: found[name] for name in sorted(known, key=known.__getitem__)}, failures


def attempt(failures: dict[str, str], what: str, action: Callable[[], T]) -> T | None:
    """Return what an action returns; if it cannot, say why in a line, keep the line, and return None."""
    try:
        return action()
    except (CheckpointError, InjectionError, ModelError) as error:
        failures[what] = explain(error, PIPELINE)
        print(f"evaluate: going on without {what}: {failures[what]}", file=sys.stderr, flush=True)
        return None


def _read_checkpoint(folder: Path, model: ModelSpec) -> AdapterMetadata:
    metadata = read_metadata(folder / WEIGHTS_FILE)
    if metadata.base != model.path:
        raise CheckpointError(f"{folder}: trained on {metadata.base}, not on {model.path}: train again, or set model.path back")
    return metadata
