"""Turn LoRAs of other tools into adapters of this program; what a file does not know (the rank schedule) is given."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tlora.adapter import OrthoTLoRALinear
from tlora.checkpoint import save_tlora_weights, write_tensors
from tlora.errors import CheckpointError
from tlora.exchange.layer_names import unflattened
from tlora.exchange.read_lora import ForeignLora, pair_up
from tlora.inject import adapter_layers, inject_tlora_into_transformer
from tlora.metadata.adapter import AdapterMetadata
from tlora.metadata.config import TLoRAConfig

_LYCORIS_ENDS = (".q_layer.weight", ".p_layer.weight", ".lambda_layer", ".alpha")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The rank schedule that a foreign file was trained with: `TLoRAConfig`'s fields of these names; no min_rank is no mask."""

    min_rank: int | None = None
    alpha_rank_scale: float = 1.0


def import_plain(foreign: ForeignLora, file: Path, schedule: Schedule, about: AdapterMetadata) -> AdapterMetadata:
    """Write plain factors as our adapter. Layers of smaller rank are filled up with zeros, which changes nothing.

    Args:
        foreign: What `read_foreign` returned, not a LyCORIS T-LoRA.
        file: The file to write.
        schedule: Ranks by timestep; without a smallest rank, all of them always.
        about: Base, trigger and the like; its config and targets are replaced.

    Raises:
        CheckpointError: If there is no layer, or the schedule does not fit.
    """
    if not foreign.layers:
        raise CheckpointError("nothing to import: every update in the file is zero")
    rank = max(down.shape[0] for _, down in foreign.layers.values())
    metadata = dataclasses.replace(
        about, config=_config(rank, float(rank), schedule), target_modules=tuple(sorted(foreign.layers))
    )
    tensors: dict[str, Tensor] = {}
    for name, (up, down) in foreign.layers.items():
        missing = rank - down.shape[0]
        tensors[f"{name}.up.weight"] = pad(up, (0, missing))
        tensors[f"{name}.down.weight"] = pad(down, (0, 0, 0, missing))
    write_tensors(file, tensors, metadata.to_strings())
    return metadata


def import_lycoris(
    foreign: ForeignLora, source: Path, transformer: nn.Module, file: Path, schedule: Schedule, about: AdapterMetadata
) -> AdapterMetadata:
    """Write a LyCORIS T-LoRA as our adapter.

    LyCORIS does not save the initial factors: it takes the principal singular vectors of whatever base it is loaded into. So does
    this, once, from the base that is given, and then they are in the file.

    Args:
        foreign: What `read_foreign` returned.
        source: Where it came from, for messages.
        transformer: The base in float32; it is left with the adapter in it.
        file: The file to write.
        schedule: Ranks by timestep.
        about: Base, trigger and the like.

    Raises:
        CheckpointError: If a key is not understood, or the layers differ in rank or alpha.
    """
    given = {}
    for key, parts in pair_up(foreign.tensors, _LYCORIS_ENDS, source).items():
        name = unflattened(key.removeprefix("lycoris_"))
        if name is None:
            raise CheckpointError(f"{source}: unknown layer {key!r}: only Linears of FLUX's blocks can be imported")
        missing = [end for end in _LYCORIS_ENDS if end not in parts]
        if missing:
            raise CheckpointError(f"{source}: missing key {key + missing[0]!r}: the file is not whole")
        given[name] = parts
    shapes = {(parts[".q_layer.weight"].shape[0], float(parts[".alpha"])) for parts in given.values()}
    if len(shapes) > 1:
        raise CheckpointError(f"{source}: layers of several ranks and alphas, {sorted(shapes)}: one of each can be imported")
    ((rank, alpha),) = shapes
    config = dataclasses.replace(_config(rank, alpha, schedule), trainer_type="ortho_lora", sig_type="principal")
    inject_tlora_into_transformer(transformer, sorted(given), config)
    for name, layer in adapter_layers(transformer).items():
        assert isinstance(layer, OrthoTLoRALinear)
        _load(layer, given[name], f"{source}: {name}")
    metadata = dataclasses.replace(about, config=config, target_modules=tuple(sorted(given)))
    save_tlora_weights(transformer, file, metadata)
    return metadata


@torch.no_grad()
def _load(layer: OrthoTLoRALinear, parts: dict[str, Tensor], where: str) -> None:
    pairs = {
        ".q_layer.weight": layer.q_layer.weight,
        ".p_layer.weight": layer.p_layer.weight,
        ".lambda_layer": layer.lambda_layer,
    }
    for end, own in pairs.items():
        if parts[end].numel() != own.numel() or (own.ndim == 2 and parts[end].shape != own.shape):
            raise CheckpointError(f"{where}{end} is {tuple(parts[end].shape)}, this base needs {tuple(own.shape)}")
        own.copy_(parts[end].reshape(own.shape))


def _config(rank: int, alpha: float, schedule: Schedule) -> TLoRAConfig:
    masked = schedule.min_rank is not None
    try:
        return TLoRAConfig(
            rank=rank,
            alpha=alpha,
            min_rank=rank if schedule.min_rank is None else schedule.min_rank,
            alpha_rank_scale=schedule.alpha_rank_scale,
            enable_rank_masking=masked,
        )
    except ValueError as error:
        raise CheckpointError(f"the file has rank {rank}: {error}") from error
