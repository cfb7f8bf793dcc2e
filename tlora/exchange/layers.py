"""An adapter file as layers, without a model: what exporting and looking at a file work on."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tlora.adapter import build_layer
from tlora.checkpoint import read_adapter
from tlora.errors import CheckpointError, InjectionError
from tlora.inject import Layer
from tlora.metadata.adapter import AdapterMetadata, find_weights
from tlora.metadata.config import TLoRAConfig

_ENDS = {"lora": ("up.weight", "down.weight"), "ortho_lora": ("p_layer.weight", "q_layer.weight")}


def read_layers(path: Path) -> tuple[dict[str, Layer], AdapterMetadata]:
    """Return the layers of an adapter file by name, around empty Linears, and what the file says of itself.

    Raises:
        CheckpointError: If the file cannot be trusted, or a layer lacks a tensor, has one too many, or of another shape.
    """
    file = find_weights(path)
    tensors, metadata = read_adapter(file)
    grouped: dict[str, dict[str, Tensor]] = {}
    known = _tensor_names(metadata.config)
    for key, tensor in tensors.items():
        end = next((end for end in known if key.endswith("." + end)), None)
        if end is None:
            raise CheckpointError(f"{file}: unknown key {key!r}: not one of a {metadata.config.trainer_type} layer")
        grouped.setdefault(key.removesuffix("." + end), {})[end] = tensor
    if not grouped:
        raise CheckpointError(f"{file}: holds no layer")
    return {name: _layer(file, name, given, metadata.config) for name, given in sorted(grouped.items())}, metadata


def _layer(file: Path, name: str, given: dict[str, Tensor], cfg: TLoRAConfig) -> Layer:
    out_end, in_end = _ENDS[cfg.trainer_type]
    for end in (out_end, in_end):
        if end not in given:
            raise CheckpointError(f"{file}: missing key '{name}.{end}': the file is not whole")
    try:
        outside, inside = given[out_end].shape[0], given[in_end].shape[1]
        layer = build_layer(nn.Linear(inside, outside, bias=False, device="meta"), cfg, initialise=False)
    except (IndexError, InjectionError) as error:
        raise CheckpointError(f"{file}: {name}: {error}") from error
    own = {key: value for key, value in layer.state_dict(keep_vars=True).items() if not key.startswith("base.")}
    missing = sorted(own.keys() - given.keys())
    if missing:
        raise CheckpointError(f"{file}: missing key '{name}.{missing[0]}': the file is not whole")
    with torch.no_grad():
        for key, value in own.items():
            if value.shape != given[key].shape:
                shapes = f"{tuple(given[key].shape)}, rank {cfg.rank} needs {tuple(value.shape)}"
                raise CheckpointError(f"{file}: {name}.{key} is {shapes}")
            value.copy_(given[key])
    return layer


def _tensor_names(cfg: TLoRAConfig) -> list[str]:
    """Return what the tensors of one layer are called, longest first, so that no name is taken for the end of another."""
    layer = build_layer(nn.Linear(cfg.rank, cfg.rank, bias=False, device="meta"), cfg, initialise=False)
    return sorted((key for key in layer.state_dict() if not key.startswith("base.")), key=len, reverse=True)
