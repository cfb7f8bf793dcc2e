"""Turn LoRAs of other tools into adapters of this program; what a file does not know (the rank schedule) is given."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tlora.adapter import OrthoTLoRALinear
from tlora.checkpoint import save_tlora_weights, write_tensors
from tlora.errors import CheckpointError
from tlora.exchange.layer_names import find_linear
from tlora.exchange.read_lora import ForeignLora, pair_up
from tlora.flux.families import FLUX_1
from tlora.flux.quantise import plain_weight
from tlora.inject import adapter_layers, inject_tlora_into_transformer
from tlora.metadata.adapter import AdapterMetadata
from tlora.metadata.config import SigType, TLoRAConfig
from tlora.singular_vectors import exact_triplets

_LEAST_LIKENESS = 0.2  # of the way from chance to 1: training may turn the vectors far, but never as far as others lie
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
    foreign: ForeignLora,
    source: Path,
    transformer: nn.Module,
    file: Path,
    schedule: Schedule,
    about: AdapterMetadata,
    sig_type: SigType = "principal",
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
        sig_type: Which of the base's singular vectors training started from.

    Raises:
        CheckpointError: If a key is not understood, the layers differ in rank or alpha, or what was learnt is so far from the
            base's singular vectors that it cannot have started from them.
    """
    given = _lycoris_layers(foreign, source)
    shapes = {(parts[".q_layer.weight"].shape[0], float(parts[".alpha"])) for parts in given.values()}
    if len(shapes) > 1:
        raise CheckpointError(f"{source}: layers of several ranks and alphas, {sorted(shapes)}: one of each can be imported")
    ((rank, alpha),) = shapes
    config = dataclasses.replace(_config(rank, alpha, schedule), trainer_type="ortho_lora", sig_type=sig_type)
    inject_tlora_into_transformer(transformer, sorted(given), config, seed=None, leave_blocks_out=True)
    likeness = []
    for name, layer in adapter_layers(transformer).items():
        assert isinstance(layer, OrthoTLoRALinear)
        _start(layer)
        _load(layer, given[name], f"{source}: {name}")
        likeness.append(_likeness(layer))
    mean, chance = (sum(values) / len(values) for values in zip(*likeness, strict=True))
    if mean < chance + _LEAST_LIKENESS * (1 - chance):
        raise CheckpointError(
            f"{source}: only {mean:.0%} of its q_layer lies in the {sig_type} singular vectors of the base ({chance:.0%} by"
            " chance): it was trained on another base, or from other vectors, which the file does not hold: give the --base it"
            " was trained on, or --sig-type if it started from the weights' last or middle ones"
        )
    metadata = dataclasses.replace(about, config=config, target_modules=tuple(sorted(given)))
    save_tlora_weights(transformer, file, metadata)
    return metadata


def _lycoris_layers(foreign: ForeignLora, source: Path) -> dict[str, dict[str, Tensor]]:
    given = {}
    for key, parts in pair_up(foreign.tensors, _LYCORIS_ENDS, source).items():
        linear = find_linear(key, foreign.family or FLUX_1)
        if linear is None or not linear.is_in_blocks or len(linear.parts) > 1:
            known = "trained on diffusers' FLUX" if linear and linear.is_in_blocks else "of FLUX's blocks"
            raise CheckpointError(f"{source}: unknown layer {key!r}: only Linears {known} can be imported")
        missing = [end for end in _LYCORIS_ENDS if end not in parts]
        if missing:
            raise CheckpointError(f"{source}: missing key {key + missing[0]!r}: the file is not whole")
        given[linear.parts[0]] = parts
    return given


@torch.no_grad()
def _start(layer: OrthoTLoRALinear) -> None:
    """Set the frozen initial factors as LyCORIS finds them."""
    weight = plain_weight(layer.base)
    assert weight is not None  # the base is loaded in float32
    found = exact_triplets(weight, layer.cfg.rank, layer.cfg.sig_type)
    for own, factor in zip((layer.base_q, layer.base_p, layer.base_lambda), found, strict=True):
        own.copy_(factor)


def _likeness(layer: OrthoTLoRALinear) -> tuple[float, float]:
    """Return the share of what q learnt that lies in its initial directions, and the share that a random one would have."""
    q = layer.q_layer.weight.detach()
    within = (q @ layer.base_q.T).square().sum() / q.square().sum().clamp_min(1e-30)
    return float(within), layer.cfg.rank / q.shape[1]


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
