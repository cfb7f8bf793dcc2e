"""Adapter <-> safetensors, and the state that resuming needs. No pickle, nothing half written, no mismatch hidden."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tlora.adapter import TLoRAConfig
from tlora.errors import CheckpointError, SettingsError
from tlora.inject import adapter_layers, eject_tlora_from_transformer, inject_tlora_into_transformer
from tlora.settings import parse_settings
from tlora.whole_file import write_bytes

FORMAT_VERSION = 1
READABLE_SINCE = "0.1.0"  # the first release of this program that reads FORMAT_VERSION
WEIGHTS_FILE = "tlora_weights.safetensors"
_BEFORE_QUANTISATION = {"base_quantisation": "none"}  # files from then do not say


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

    def to_strings(self) -> dict[str, str]:
        """Return the metadata as safetensors holds it."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["config"] = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
        plain["target_modules"] = json.dumps(list(self.target_modules))
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
            raise CheckpointError(f"{file}: not a T-LoRA adapter (no format_version in its metadata)")
        if int(version) > FORMAT_VERSION:
            needed = given.get("readable_since", "a newer release")
            raise CheckpointError(
                f"{file}: written in format {version}, this program reads up to {FORMAT_VERSION}: it needs flux-tlora {needed}"
            )
        try:
            complete = _BEFORE_QUANTISATION | dict(given)
            values: dict[str, Any] = {f.name: complete[f.name] for f in dataclasses.fields(AdapterMetadata)}
            values["config"] = parse_settings(TLoRAConfig, json.loads(given["config"]), "config")
            values["target_modules"] = tuple(json.loads(given["target_modules"]))
            values["max_timestep"], values["step"] = float(given["max_timestep"]), int(given["step"])
        except (KeyError, TypeError, ValueError, SettingsError) as error:
            raise CheckpointError(f"{file}: metadata is missing or unreadable: {error}") from error
        return AdapterMetadata(**values)


def save_tlora_weights(module: nn.Module, file: Path, metadata: AdapterMetadata) -> None:
    """Write the adapter of a module, with what describes it, whole or not at all.

    Raises:
        CheckpointError: If the module carries no adapter.
    """
    tensors = adapter_tensors(module)
    if not tensors:
        raise CheckpointError(f"{file}: nothing to save, the module carries no adapter")
    write_tensors(file, tensors, metadata.to_strings())


def load_tlora_weights(module: nn.Module, file: Path, strict: bool = True, *, slot: int = 0) -> AdapterMetadata:
    """Load an adapter into a module that already carries layers of its shape.

    Args:
        module: A transformer that `inject_tlora_into_transformer` has prepared.
        file: What `save_tlora_weights` wrote, or the folder that holds it.
        strict: Whether layers that the file does not mention are an error. Keys that the module does not know and
            tensors of another shape always are.
        slot: Which of several adapters is loaded.

    Raises:
        CheckpointError: Naming the first unknown, missing or misshapen key, or a value that is not finite.
    """
    file = find_weights(file)
    tensors, metadata = read_adapter(file)
    expected = adapter_tensors(module, slot)
    if not expected:
        raise CheckpointError(f"{file}: the module carries no adapter to load into: inject one first")
    elsewhere = "made for other targets or another base" + (f", it names {metadata.base}" if metadata.base else "")
    unknown, missing = sorted(tensors.keys() - expected.keys()), sorted(expected.keys() - tensors.keys())
    if unknown:
        raise CheckpointError(f"{file}: unknown key {unknown[0]!r} ({len(unknown)} in all): {elsewhere}")
    if missing and strict:
        raise CheckpointError(f"{file}: missing key {missing[0]!r} ({len(missing)} in all): {elsewhere}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, the layer needs {tuple(expected[name].shape)}"
            raise CheckpointError(f"{file}: {name} is {shapes}: {elsewhere}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)
    return metadata


def attach_adapter(transformer: nn.Module, file: Path, slot: int = 0) -> AdapterMetadata:
    """Inject the layers that a file describes and load them.

    Args:
        transformer: Where they go.
        file: What `save_tlora_weights` wrote, or the folder that holds it.
        slot: Place of this adapter among several on one transformer, counted from 0.

    Raises:
        CheckpointError: If the file cannot be trusted or does not fit; the transformer is then without any adapter.
        InjectionError: If the targets do not fit, or an adapter is already there.
    """
    file = find_weights(file)
    metadata = read_metadata(file)
    inject_tlora_into_transformer(transformer, metadata.target_modules, metadata.config, seed=None, slot=slot)
    try:
        return load_tlora_weights(transformer, file, slot=slot)
    except CheckpointError:
        eject_tlora_from_transformer(transformer)
        raise


def find_weights(path: Path) -> Path:
    """Return the weights file of a folder, or the file itself.

    Raises:
        CheckpointError: If there is none.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"{path}: no adapter there (looked for {WEIGHTS_FILE})")
    return file


def is_ours(file: Path) -> bool:
    """Whether a file says that it is an adapter of this program, of whatever version; pickles are not looked into.

    Raises:
        CheckpointError: If it pretends to be a safetensors file and is not.
    """
    return file.suffix == ".safetensors" and "format_version" in _read_strings(file)


def read_metadata(file: Path) -> AdapterMetadata:
    """Return what a file says of itself, without reading its tensors."""
    return AdapterMetadata.from_strings(_read_strings(file), file)


def _read_strings(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a safetensors file: {_reason(file, error)}") from error


def read_adapter(file: Path) -> tuple[dict[str, Tensor], AdapterMetadata]:
    """Return the tensors and the metadata of an adapter file.

    Raises:
        CheckpointError: If it is no safetensors file, no adapter, or holds a value that is not finite.
    """
    tensors, strings = read_state(file)
    metadata = AdapterMetadata.from_strings(strings, file)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{file}: {name} holds a value that is not finite")
    return tensors, metadata


def adapter_tensors(module: nn.Module, slot: int = 0) -> dict[str, Tensor]:
    """Return an adapter's own tensors by name, the frozen initial factors included, the wrapped Linears not.

    Names are those of the Linears, also where a later adapter of several has wrapped this one's layer.
    """
    return {
        f"{_name_of_linear(name)}.{key}": tensor
        for name, layer in adapter_layers(module).items()
        if layer.slot == slot
        for key, tensor in layer.state_dict(keep_vars=True).items()
        if not key.startswith("base.")
    }


def _name_of_linear(layer: str) -> str:
    return layer.split(".base")[0]


def adapter_digest(file: Path) -> str:
    """Return the hash of an adapter file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors whole or not at all; equal content is equal bytes."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in sorted(tensors.items())}
    write_bytes(file, _canonical(plain, metadata))


def _canonical(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serialise with the metadata in order: safetensors writes it in another order in every process."""
    raw = save(dict(tensors), dict(metadata))
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]


def read_state(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of any file that `write_tensors` wrote.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    strings = _read_strings(file)
    try:
        return load_file(file), strings
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a safetensors file: {_reason(file, error)}") from error


def _reason(file: Path, error: Exception) -> str:
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
