"""Adapter <-> safetensors, and the state that resuming needs. No pickle, nothing half written, no mismatch hidden."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tlora.errors import CheckpointError
from tlora.inject import adapter_layers, eject_tlora_from_transformer, family_of, inject_tlora_into_transformer
from tlora.metadata.adapter import AdapterMetadata, find_weights, read_metadata, read_strings, reason_of
from tlora.runtime.atomic_file import write_bytes


def save_tlora_weights(module: nn.Module, out_file: Path | str, metadata: AdapterMetadata | None = None) -> None:
    """Write the adapter of a module, with what describes it, whole or not at all.

    Args:
        module: A transformer that `inject_tlora_into_transformer` has prepared.
        out_file: Where to.
        metadata: What the file says of itself; by default what the layers know: their shape, and which Linears they wrap.

    Raises:
        CheckpointError: If the module carries no adapter.
    """
    tensors = adapter_tensors(module)
    if not tensors:
        raise CheckpointError(f"{out_file}: nothing to save, the module carries no adapter")
    layers = {_name_of_linear(name): layer for name, layer in adapter_layers(module).items() if layer.slot == 0}
    first = next(iter(layers.values()))
    described = metadata or AdapterMetadata(first.cfg, first.suffixes or tuple(layers))
    write_tensors(Path(out_file), tensors, described.to_strings())


def load_tlora_weights(module: nn.Module, file: Path | str, strict: bool = True, *, slot: int = 0) -> AdapterMetadata:
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
    file = find_weights(Path(file))
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
        CheckpointError: If the file cannot be trusted or does not fit, or was trained on another family; the transformer is then
            without any adapter.
        InjectionError: If the targets do not fit, or an adapter is already there.
    """
    file = find_weights(file)
    metadata = read_metadata(file)
    if metadata.family != (here := family_of(transformer).name):
        raise CheckpointError(f"{file}: trained on a base of {metadata.family}, and this one is of {here}")
    inject_tlora_into_transformer(
        transformer, metadata.target_modules, metadata.config, seed=None, slot=slot, leave_blocks_out=True
    )  # whoever trained it meant it
    try:
        return load_tlora_weights(transformer, file, slot=slot)
    except CheckpointError:
        eject_tlora_from_transformer(transformer)
        raise


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
    strings = read_strings(file)
    try:
        return load_file(file), strings
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a safetensors file: {reason_of(file, error)}") from error
