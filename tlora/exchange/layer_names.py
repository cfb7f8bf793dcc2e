"""A Linear of a base by any of the names that tools give it: diffusers', BFL's (so kohya's and ComfyUI's), OneTrainer's, XLabs'.

Tools differ in prefixes and in whether dots became underscores; without the one and with the others, each has one name here.
BFL calls Linears of FLUX.1 and of FLUX.2 alike that are not: their sizes tell them apart.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tlora.flux.families import FAMILIES, FLUX_1, Family
from tlora.flux.linears import OUTSIDE, BlockLinear, BlockList

_PREFIX = re.compile(
    r"base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|transformer\.|unet\.|lora_unet_|lora_transformer_|lycoris_"
)
_TEXT_ENCODER = re.compile(
    r"(base_model\.model\.)?(text_encoder|text_encoders|text_model|lora_te|clip_[lg]|t5|t5xxl|conditioner|bundle_emb)(_?\d)?[._]"
)
_XLABS = {  # what XLabs' processors are called -> the Linear beside which they work
    "double_blocks": {
        "processor_qkv_lora1": "img_attn_qkv",
        "processor_qkv_lora2": "txt_attn_qkv",
        "processor_proj_lora1": "img_attn_proj",
        "processor_proj_lora2": "txt_attn_proj",
    },
    "single_blocks": {"processor_proj_lora": "linear2"},
}
_XLABS_QKV = {"processor_qkv_lora": ("attn.to_q", "attn.to_k", "attn.to_v")}  # of a single block: a part of linear1


@dataclass(frozen=True)
class FusedLinear:
    """A Linear of BFL's model: its key without prefix, and the diffusers names of its parts in the order of its rows.

    Args:
        key: Such as `double_blocks_3_img_attn_qkv`.
        parts: Such as `transformer_blocks.3.attn.to_q` and the two after it; one where nothing is fused.
        shares: How many rows each part has, in multiples of the smallest.
        sides: Inputs and outputs of the whole, in widths of the model; None outside the blocks, where they are none.
    """

    key: str
    parts: tuple[str, ...]
    shares: tuple[int, ...] = (1,)
    sides: tuple[int, int] | None = None

    @property
    def is_in_blocks(self) -> bool:
        """Whether it lies in a block, where the rank mask arrives."""
        return self.parts[0] not in OUTSIDE

    def may_have(self, inside: int, outside: int) -> bool:
        """Whether a model of some width has so many inputs and outputs here."""
        return self.sides is None or inside * self.sides[1] == outside * self.sides[0]


def fused_linear_of(name: str) -> FusedLinear | None:
    """Return the BFL Linear that holds a diffusers Linear of a block, or None where there is none.

    Example:
        >>> fused_linear_of("transformer_blocks.3.attn.to_k").key
        'double_blocks_3_img_attn_qkv'
    """
    blocks, _, rest = name.partition(".")
    index, _, kind = rest.partition(".")
    for each in (each for family in FAMILIES for each in family.blocks):  # what two families call alike is alike
        bfl = next((row.bfl for row in each.linears if blocks == each.name and row.name == kind), None)
        if bfl is not None and index.isdigit():
            return _fused(each, int(index), bfl)
    return None


def family_of_keys(sides: Mapping[str, tuple[int, int]]) -> Family | None:
    """Return the family that has Linears for the most keys, of those very sizes; None where several have as many.

    Args:
        sides: Inputs and outputs of each layer, by its key of any tool, without what comes after the layer.

    Example:
        >>> family_of_keys({"double_blocks.0.img_attn.qkv": (32, 96)}) is None
        True
        >>> family_of_keys({"double_blocks.0.img_mlp.0": (32, 192)}).name
        'FLUX.2 klein'
    """
    fitting = [sum(_fits(key, family, each) for key, each in sides.items()) for family in FAMILIES]
    most = [family for family, count in zip(FAMILIES, fitting, strict=True) if count == max(fitting)]
    return most[0] if len(most) == 1 else None


def _fits(key: str, family: Family, sides: tuple[int, int]) -> bool:
    linear = find_linear(key, family)
    return linear is not None and linear.may_have(*sides)


def find_linear(key: str, family: Family = FLUX_1) -> FusedLinear | None:
    """Return the Linear of a family that a key of any tool means, without what comes after its layer; None where there is none.

    Example:
        >>> find_linear("lora_transformer_single_transformer_blocks_0_attn_to_q").parts
        ('single_transformer_blocks.0.attn.to_q',)
        >>> find_linear("diffusion_model.double_blocks.0.img_attn.qkv").parts[1]
        'transformer_blocks.0.attn.to_k'
    """
    flat = without_prefix(key).replace(".", "_")
    if flat in _outside():
        return FusedLinear(flat, (_outside()[flat],))
    match = re.fullmatch(r"((?:single_)?transformer_blocks|double_blocks|single_blocks)_(\d+)_(\w+)", flat)
    return None if match is None else _in_block(family, match[1], int(match[2]), match[3])


def without_prefix(key: str) -> str:
    """Return a key without what tools put before the names of the transformer's modules."""
    while match := _PREFIX.match(key):
        key = key[match.end() :]
    return key


def is_of_text_encoder(key: str) -> bool:
    """Whether a key is of a text encoder, or of a word that was learnt for one."""
    return _TEXT_ENCODER.match(key) is not None


def is_layer_name(name: str) -> bool:
    """Whether a name is one of a Linear in a family's blocks, as diffusers calls them."""
    return fused_linear_of(name) is not None


@functools.cache
def _outside() -> dict[str, str]:
    """Return the diffusers name of each Linear outside the blocks, by every flattened name that it has."""
    names = {name.replace(".", "_"): name for name in OUTSIDE} | {bfl: name for name, bfl in OUTSIDE.items()}
    return names | {"img_in_proj": "x_embedder"}  # OneTrainer's


def _in_block(family: Family, blocks: str, index: int, kind: str) -> FusedLinear | None:
    for each in family.blocks:
        if blocks == each.name:
            row = next((row for row in each.linears if row.name.replace(".", "_") == kind), None)
            return None if row is None else _alone(f"{blocks}_{index}_{kind}", each, index, row)
        if blocks == each.bfl:
            return _of_xlabs(each, index, kind) if kind.startswith("processor_") else _by_bfl_name(each, index, kind)
    return None


def _of_xlabs(each: BlockList, index: int, kind: str) -> FusedLinear | None:
    """Return the Linear beside which one of XLabs' processors works, which are FLUX.1's."""
    if each not in FLUX_1.blocks:
        return None
    if each.bfl == "single_blocks" and kind in _XLABS_QKV:
        parts = tuple(f"{each.name}.{index}.{k}" for k in _XLABS_QKV[kind])
        return FusedLinear(f"{each.bfl}_{index}_{kind}", parts, (1, 1, 1), (1, 3))
    return _by_bfl_name(each, index, _XLABS[each.bfl].get(kind, kind))


def _by_bfl_name(each: BlockList, index: int, kind: str) -> FusedLinear | None:
    if any(row.bfl == kind for row in each.linears):
        return _fused(each, index, kind)
    linear, _, part = kind.rpartition("_")  # OneTrainer numbers the parts of a fused Linear
    rows = [row for row in each.linears if row.bfl == linear]
    if len(rows) > 1 and part.isdigit() and int(part) < len(rows):
        return _alone(f"{each.bfl}_{index}_{kind}", each, index, rows[int(part)])
    return None


def _alone(key: str, each: BlockList, index: int, row: BlockLinear) -> FusedLinear:
    return FusedLinear(key, (f"{each.name}.{index}.{row.name}",), sides=(row.inside, row.outside))


def _fused(each: BlockList, index: int, bfl: str) -> FusedLinear:
    rows = [row for row in each.linears if row.bfl == bfl]
    outside = tuple(row.outside for row in rows)
    parts = tuple(f"{each.name}.{index}.{row.name}" for row in rows)
    shares = outside if len(rows) > 1 else (1,)
    return FusedLinear(f"{each.bfl}_{index}_{bfl}", parts, shares, (rows[0].inside, sum(outside)))
