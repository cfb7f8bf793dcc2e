"""Write an adapter as the files that other tools load: standard LoRAs, at full rank or one band of ranks.

A standard LoRA cannot say that ranks come and go with the timestep: exported whole, it runs at full rank at every step, and says
so in its metadata. alpha / rank is folded into `up`; an orthogonal adapter folds exactly into plain factors of twice the rank.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tlora.checkpoint import write_tensors
from tlora.errors import CheckpointError
from tlora.exchange.layer_names import FusedLinear, fused_linear_of
from tlora.inject import Layer
from tlora.metadata.adapter import FIRST_FAMILY, FORMAT_VERSION, AdapterMetadata

Factors = tuple[Tensor, Tensor]  # up (out, n) and down (n, in), whose product is the update
AUTHORS_NAMES = {  # Linears of an attention -> what the T-LoRA authors' processors call the layers beside them
    "to_q": "to_q_lora",
    "to_k": "to_k_lora",
    "to_v": "to_v_lora",
    "to_out.0": "to_out_lora",
    "add_q_proj": "to_q_proj_lora",
    "add_k_proj": "to_k_proj_lora",
    "add_v_proj": "to_v_proj_lora",
}
UNMASKED = "none: full rank at every step"


def export_adapter(layers: Mapping[str, Layer], metadata: AdapterMetadata, file: Path, dialect: str) -> None:
    """Write a whole adapter at full rank.

    Args:
        layers: What `read_layers` returns.
        metadata: What describes it.
        file: The file to write.
        dialect: A key of `DIALECTS`.

    Raises:
        CheckpointError: If a layer has no name in that dialect, or it is another family's; nothing is then written.
    """
    factors = {name: layer.factors() for name, layer in layers.items()}
    if dialect == "authors" and metadata.family != FIRST_FAMILY:
        raise CheckpointError(
            f"the authors' format is of FLUX.1's layers, and this adapter is of {metadata.family}: export bands"
        )
    if dialect == "authors" and metadata.config.trainer_type != "lora":
        raise CheckpointError(
            f"an {metadata.config.trainer_type} has no form in the authors' format whose ranks can be masked: export bands"
        )
    write_tensors(
        file,
        DIALECTS[dialect](factors),
        describe(metadata, dialect, masked_by_reader(metadata) if dialect == "authors" else UNMASKED),
    )


def masked_by_reader(metadata: AdapterMetadata) -> str:
    """Say what a reader of the authors' format, which knows no schedule, has to be told."""
    config = metadata.config
    if not config.enable_rank_masking:
        return f"none: min_rank {config.rank}"
    return f"by its reader: min_rank {config.min_rank}, alpha {config.alpha_rank_scale:g}, max_timestep {metadata.max_timestep:g}"


def diffusers_tensors(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Return the tensors by the keys of diffusers and PEFT, which ComfyUI maps too."""
    tensors = {}
    for name, (up, down) in factors.items():
        tensors[f"transformer.{name}.lora_A.weight"] = down.contiguous()
        tensors[f"transformer.{name}.lora_B.weight"] = up.contiguous()
    return tensors


def kohya_tensors(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Return the tensors by kohya's keys. Parts of one Linear share its LoRA, block by block, which is exact.

    Raises:
        CheckpointError: If a layer is in no family's blocks.
    """
    grouped: dict[FusedLinear, dict[str, Factors]] = defaultdict(dict)
    for name, pair in factors.items():
        linear = fused_linear_of(name)
        if linear is None:
            raise CheckpointError(f"{name} has no name in kohya's format: export it as diffusers")
        grouped[linear][name] = pair
    tensors = {}
    for linear, parts in grouped.items():
        up, down = _side_by_side(linear, parts)
        tensors[f"lora_unet_{linear.key}.lora_up.weight"] = up
        tensors[f"lora_unet_{linear.key}.lora_down.weight"] = down
        tensors[f"lora_unet_{linear.key}.alpha"] = torch.tensor(float(down.shape[0]))
    return tensors


def authors_tensors(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Return the tensors by the keys of the T-LoRA authors' processors, which ComfyUI-T-LoRA reads: it masks the ranks itself.

    Raises:
        CheckpointError: If a layer is none that their processors adapt.
    """
    tensors = {}
    for name, (up, down) in factors.items():
        attention, _, kind = name.partition(".attn.")
        if kind not in AUTHORS_NAMES:
            raise CheckpointError(f"{name} has no name in the authors' format, which has attention's inputs and to_out.0 alone")
        for end, factor in (("down", down), ("up", up)):
            tensors[f"{attention}.attn.processor.{AUTHORS_NAMES[kind]}.{end}.weight"] = factor.contiguous()
    return tensors


def describe(metadata: AdapterMetadata, dialect: str, mask: str) -> dict[str, str]:
    """Return the metadata of an exported file."""
    known = {
        "base": metadata.base,
        "base_revision": metadata.base_revision,
        "concept": metadata.concept,
        "trigger": metadata.trigger,
        "data_digest": metadata.data_digest,
        "step": str(metadata.step),
    }
    return {"format": "pt", "tlora_export": dialect, "tlora_format_version": str(FORMAT_VERSION), "tlora_mask": mask} | {
        f"tlora_{name}": value for name, value in known.items() if value
    }


DIALECTS: Mapping[str, Callable[[Mapping[str, Factors]], dict[str, Tensor]]] = {
    "diffusers": diffusers_tensors,
    "kohya": kohya_tensors,
    "authors": authors_tensors,
}


def _side_by_side(linear: FusedLinear, parts: Mapping[str, Factors]) -> Factors:
    """Put the parts of one Linear below each other in `up`, each with columns of its own."""
    rows = {part: up.shape[0] for part, (up, _) in parts.items()}
    share = dict(zip(linear.parts, linear.shares, strict=True))
    unit = {rows[part] // share[part] for part in rows}
    if len(unit) > 1:
        raise CheckpointError(f"{linear.key}: its parts have rows {rows}, which do not fit into one Linear: export as diffusers")
    width, columns = unit.pop(), sum(down.shape[0] for _, down in parts.values())
    blocks, downs, start = [], [], 0
    for part in linear.parts:
        block = torch.zeros(share[part] * width, columns)
        if part in parts:
            up, down = parts[part]
            block[:, start : start + down.shape[0]] = up
            downs.append(down)
            start += down.shape[0]
        blocks.append(block)
    return torch.cat(blocks), torch.cat(downs)
