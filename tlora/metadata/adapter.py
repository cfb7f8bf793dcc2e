"""What an adapter file says of itself, read without its tensors and without torch."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tlora.errors import CheckpointError, SettingsError
from tlora.metadata.config import TLoRAConfig
from tlora.runtime.settings import parse_settings

FORMAT_VERSION = 1
READABLE_SINCE = "0.1.0"  # the first release of this program that reads FORMAT_VERSION
WEIGHTS_FILE = "tlora_weights.safetensors"
BASE, FINAL = "base", "final"  # among checkpoints: the bare base, and the folder of the last one
_IMPORT = "if another tool wrote it, 'tlora import {file} --out FOLDER' makes an adapter of it"
FIRST_FAMILY = "FLUX.1"
_UNSAID = {"base_quantisation": "none", "family": FIRST_FAMILY}  # of files from before there was anything else to say


@dataclass(frozen=True)
class AdapterMetadata:
    """What a file says of itself; only what is a function of the inputs, so that same inputs give same bytes.

    Args:
        config: Shape and behaviour of the layers.
        target_modules: Suffixes that chose the layers.
        max_timestep: Timestep of pure noise that the rank schedule counts from.
        base: Folder name or hub id of the base model.
        base_revision: Commit or content hash of the base model.
        data_digest: Hash of the training pictures and captions.
        params_digest: Hash of the hyperparameters.
        code_digest: Hash of the code that trained it.
        concept: Name of the concept.
        trigger: Trigger word.
        step: Optimizer steps taken.
        base_quantisation: How the base was held in training.
        family: Whose network the base is (`tlora.flux.families`); FLUX.1's files do not say.
    """

    config: TLoRAConfig
    target_modules: tuple[str, ...]
    max_timestep: float = 1000.0
    base: str = ""
    base_revision: str = ""
    data_digest: str = ""
    params_digest: str = ""
    code_digest: str = ""
    concept: str = ""
    trigger: str = ""
    step: int = 0
    base_quantisation: str = "none"
    family: str = FIRST_FAMILY

    def to_strings(self) -> dict[str, str]:
        """Return the metadata as safetensors holds it."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["config"] = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
        plain["target_modules"] = json.dumps(list(self.target_modules))
        if self.family == FIRST_FAMILY:
            del plain["family"]
        version = {"format_version": str(FORMAT_VERSION), "readable_since": READABLE_SINCE}
        return version | {name: str(value) for name, value in plain.items()}

    @staticmethod
    def from_strings(given: Mapping[str, str], file: Path) -> "AdapterMetadata":
        """Parse what `to_strings` wrote.

        Raises:
            CheckpointError: If a field is missing or unreadable, or the format is newer than this program.
        """
        version = given.get("format_version", "")
        if not version.isdigit():
            raise CheckpointError(f"{file}: not a T-LoRA adapter (no format_version): {_IMPORT.format(file=file)}")
        if int(version) > FORMAT_VERSION:
            needed = given.get("readable_since", "a newer release")
            raise CheckpointError(
                f"{file}: written in format {version}, this program reads up to {FORMAT_VERSION}: it needs flux-tlora {needed}"
            )
        try:
            complete = _UNSAID | dict(given)
            values: dict[str, Any] = {f.name: complete[f.name] for f in dataclasses.fields(AdapterMetadata)}
            values["config"] = parse_settings(TLoRAConfig, json.loads(given["config"]), "config")
            values["target_modules"] = tuple(json.loads(given["target_modules"]))
            values["max_timestep"], values["step"] = float(given["max_timestep"]), int(given["step"])
        except (KeyError, TypeError, ValueError, SettingsError) as error:
            raise CheckpointError(f"{file}: metadata is missing or unreadable: {error}") from error
        return AdapterMetadata(**values)


def find_weights(path: Path) -> Path:
    """Return the weights file of a folder, or the file itself.

    Raises:
        CheckpointError: If there is none.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        others = sorted(other.name for other in path.glob("*.safetensors")) if path.is_dir() else []
        hint = f": {_IMPORT.format(file=path / others[0])}" if others else ""
        raise CheckpointError(f"{path}: no adapter there (looked for {WEIGHTS_FILE}){hint}")
    return file


def is_ours(file: Path) -> bool:
    """Whether a file says that it is an adapter of this program, of whatever version; pickles are not looked into.

    Raises:
        CheckpointError: If it pretends to be a safetensors file and is not.
    """
    return file.suffix == ".safetensors" and "format_version" in read_strings(file)


def read_metadata(file: Path) -> AdapterMetadata:
    """Return what a file says of itself, without reading its tensors."""
    return AdapterMetadata.from_strings(read_strings(file), file)


def adapter_digest(file: Path) -> str:
    """Return the hash of an adapter file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_strings(file: Path) -> dict[str, str]:
    """Return the metadata of any safetensors file.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a safetensors file: {reason_of(file, error)}") from error


def reason_of(file: Path, error: Exception) -> str:
    """Say what is wrong with a file in words for a person; the format's own errors name parts of its header."""
    if not file.is_file():
        return "there is no such file"
    with file.open("rb") as opened:
        start = opened.read(8)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return "it is a pickle (torch.save), which can run code and is not opened; the authors' lora.pt is read by 'tlora import'"
    size, header = file.stat().st_size, int.from_bytes(start, "little")
    if len(start) < 8 or header > size:
        return f"it claims a header of {header:,} bytes and has {size:,}: damaged, cut off, or something else"
    return f"damaged or cut off ({error})"
