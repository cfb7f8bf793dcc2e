"""Read LoRAs that other tools wrote, as plain factors: diffusers, kohya and its kin, and the T-LoRA authors' `lora.pt`.

Every key is understood or the file is refused by that key's name: a LoRA of which half is skipped looks like one that works.
"""

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tlora.checkpoint import read_state
from tlora.errors import CheckpointError
from tlora.exchange.export import Factors
from tlora.exchange.layer_names import fused_linear, is_layer_name, unflattened

LYCORIS = "LyCORIS T-LoRA"
_FLAT_PREFIXES = ("lora_transformer_", "lycoris_")
_AUTHORS_NAMES = {
    "to_q_lora": "to_q",
    "to_k_lora": "to_k",
    "to_v_lora": "to_v",
    "to_out_lora": "to_out.0",
    "to_q_proj_lora": "add_q_proj",
    "to_k_proj_lora": "add_k_proj",
    "to_v_proj_lora": "add_v_proj",
}


@dataclass(frozen=True)
class ForeignLora:
    """A file of another tool.

    Args:
        dialect: `LYCORIS`, `authors`, `kohya` or `diffusers`.
        layers: up (out, n) and down (n, in) by name, every factor folded in; empty for LyCORIS T-LoRA, which needs its base.
        tensors: The file's tensors as they are.
        metadata: The file's metadata.
    """

    dialect: str
    layers: dict[str, Factors]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def is_lycoris(self) -> bool:
        """Whether it is a LyCORIS T-LoRA."""
        return self.dialect == LYCORIS


def read_foreign(file: Path) -> ForeignLora:
    """Read a LoRA of another tool.

    Raises:
        CheckpointError: If the file cannot be read, or has a key that is not understood, naming it.
    """
    tensors, metadata = _read_pickle(file) if file.suffix in (".pt", ".pth", ".bin") else read_state(file)
    if "format_version" in metadata:
        raise CheckpointError(f"{file}: already an adapter of this program")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{file}: {name} holds a value that is not finite")
    if any(key.endswith(".lambda_layer") for key in tensors):
        return ForeignLora(LYCORIS, {}, tensors, metadata)
    if any(".processor." in key for key in tensors):
        return ForeignLora("authors", _authors(tensors, file), tensors, metadata)
    if any(key.endswith(".lora_down.weight") for key in tensors):
        return ForeignLora("kohya", _kohya(tensors, file), tensors, metadata)
    return ForeignLora("diffusers", _diffusers(tensors, metadata, file), tensors, metadata)


def pair_up(tensors: Mapping[str, Tensor], ends: tuple[str, ...], file: Path) -> dict[str, dict[str, Tensor]]:
    """Group tensors by what comes before one of the ends.

    Raises:
        CheckpointError: Naming a key with another end.
    """
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        end = next((end for end in ends if key.endswith(end)), None)
        if end is None:
            raise CheckpointError(f"{file}: unknown key {key!r}: not imported, since nothing is skipped")
        grouped.setdefault(key.removesuffix(end), {})[end] = tensor
    return grouped


def _diffusers(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: Path) -> dict[str, Factors]:
    ends = (".lora_A.weight", ".lora_B.weight", ".alpha")
    alphas = _alphas_in_metadata(metadata, file)
    layers = {}
    for key, given in pair_up(tensors, ends, file).items():
        name = key.removeprefix("transformer.")
        _require_layer(name, key, file)
        down, up = _both(given, ends[0], ends[1], key, file)
        alpha = float(given[ends[2]]) if ends[2] in given else alphas.get(name, alphas.get("", down.shape[0]))
        layers[name] = (up * (alpha / down.shape[0]), down)
    return layers


def _alphas_in_metadata(metadata: Mapping[str, str], file: Path) -> dict[str, float]:
    """Return what PEFT's settings, which diffusers keeps in the metadata, say of alpha; the default is under ``""``."""
    try:
        settings = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        alphas = {"": float(settings["transformer.lora_alpha"])} if "transformer.lora_alpha" in settings else {}
        return alphas | {name: float(alpha) for name, alpha in settings.get("transformer.alpha_pattern", {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: lora_adapter_metadata cannot be read: {error}") from error


def _kohya(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Factors]:
    ends = (".lora_down.weight", ".lora_up.weight", ".alpha")
    layers: dict[str, Factors] = {}
    for key, given in pair_up(tensors, ends, file).items():
        down, up = _both(given, ends[0], ends[1], key, file)
        up = up * (float(given[ends[2]]) / down.shape[0]) if ends[2] in given else up
        prefix = next((prefix for prefix in _FLAT_PREFIXES if key.startswith(prefix)), None)
        if prefix is None:
            layers |= _split(key, up, down, file)
            continue
        name = unflattened(key.removeprefix(prefix))
        if name is None:
            raise CheckpointError(f"{file}: unknown layer {key!r}: only Linears of FLUX's blocks can be imported")
        layers[name] = (up, down)
    return layers


def _split(key: str, up: Tensor, down: Tensor, file: Path) -> dict[str, Factors]:
    """Take a LoRA of one of BFL's Linears apart; a part keeps the columns between its first and its last that is not zero."""
    linear = fused_linear(key.removeprefix("lora_unet_").replace(".", "_"))
    if linear is None or not key.startswith("lora_unet_"):
        raise CheckpointError(f"{file}: unknown layer {key!r}: only Linears of FLUX's blocks can be imported")
    width, odd = divmod(up.shape[0], sum(linear.shares))
    if odd:
        raise CheckpointError(f"{file}: {key}.lora_up.weight has {up.shape[0]} rows, no multiple of {sum(linear.shares)}")
    if len(linear.parts) == 1:
        return {linear.parts[0]: (up, down)}
    parts = {}
    for part, block in zip(linear.parts, up.split([share * width for share in linear.shares]), strict=True):
        used = block.ne(0).any(dim=0).nonzero().flatten()
        if len(used):  # a part without one is not adapted
            columns = slice(int(used[0]), int(used[-1]) + 1)
            parts[part] = (block[:, columns], down[columns])
    return parts


def _authors(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Factors]:
    """Read the authors' processors. In single blocks they carry four layers that no forward uses, so they must be at zero."""
    ends = (".down.weight", ".up.weight")
    layers = {}
    for key, given in pair_up(tensors, ends, file).items():
        match = re.fullmatch(r"((?:single_)?transformer_blocks\.\d+\.attn)\.processor\.(\w+)", key)
        if match is None or match[2] not in _AUTHORS_NAMES:
            raise CheckpointError(f"{file}: unknown layer {key!r}: only the authors' FLUX processors are known")
        name = f"{match[1]}.{_AUTHORS_NAMES[match[2]]}"
        down, up = _both(given, *ends, key, file)
        if is_layer_name(name):
            layers[name] = (up, down)
        elif bool(up.any()):
            raise CheckpointError(f"{file}: {key}.up.weight is not zero, and single blocks have no such layer")
    return layers


def _both(given: Mapping[str, Tensor], down_end: str, up_end: str, key: str, file: Path) -> tuple[Tensor, Tensor]:
    """Return down and up in float32, checked to fit each other."""
    for end in (down_end, up_end):
        if end not in given:
            raise CheckpointError(f"{file}: missing key {key + end!r}: the file is not whole")
    down, up = given[down_end].float(), given[up_end].float()
    if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0]:
        raise CheckpointError(f"{file}: {key}: up is {tuple(up.shape)} and down {tuple(down.shape)}, which are no pair")
    return down, up


def _require_layer(name: str, key: str, file: Path) -> None:
    if not is_layer_name(name):
        raise CheckpointError(f"{file}: unknown layer {key!r}: only Linears of FLUX's blocks can be imported")


def _read_pickle(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the authors' `torch.save`, the only pickle that is ever opened, and nothing in it but tensors."""
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0][:150]
        raise CheckpointError(f"{file}: not a file of tensors alone: {reason}") from error
    if not isinstance(held, dict) or not held or not all(isinstance(t, Tensor) for t in held.values()):
        raise CheckpointError(f"{file}: must hold tensors by name, as the T-LoRA authors' lora.pt does")
    return {str(name): tensor for name, tensor in held.items()}, {}
