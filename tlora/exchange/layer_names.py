"""What FLUX's Linears are called: by diffusers (and here), by Black Forest Labs and so by kohya and ComfyUI, and flattened.

BFL's model holds some Linears in one: query, key and value, and in single blocks the first half of the MLP beside them. A name
there means a part of a bigger Linear.
"""

import re
from dataclasses import dataclass

_IMAGE_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_DOUBLE = {  # BFL's Linear in a double block -> what diffusers splits it into
    "img_attn_qkv": _IMAGE_QKV,
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": _TEXT_QKV,
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
}
_SINGLE = {
    "linear1": (*_IMAGE_QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
}
_KINDS = {"double_blocks": ("transformer_blocks", _DOUBLE), "single_blocks": ("single_transformer_blocks", _SINGLE)}
_SHARES = {"proj_mlp": 4}  # of the width; every other part of a fused Linear has 1


@dataclass(frozen=True)
class FusedLinear:
    """A Linear of BFL's model: its key without prefix, and the diffusers names of its parts in the order of its rows."""

    key: str
    parts: tuple[str, ...]

    @property
    def shares(self) -> tuple[int, ...]:
        """How many rows each part has, in multiples of the smallest."""
        return tuple(_SHARES.get(part.split(".", 2)[2], 1) for part in self.parts) if len(self.parts) > 1 else (1,)


def fused_linear_of(name: str) -> FusedLinear | None:
    """Return the BFL Linear that holds a diffusers Linear, or None where there is none.

    Example:
        >>> fused_linear_of("transformer_blocks.3.attn.to_k").key
        'double_blocks_3_img_attn_qkv'
    """
    blocks, _, rest = name.partition(".")
    index, _, kind = rest.partition(".")
    for prefix, (here, linears) in _KINDS.items():
        for linear, parts in linears.items():
            if blocks == here and index.isdigit() and kind in parts:
                return _fused(prefix, int(index), linear)
    return None


def fused_linear(key: str) -> FusedLinear | None:
    """Return the BFL Linear of a key without its prefix, or None where FLUX's blocks have none of that name."""
    match = re.fullmatch(r"(double_blocks|single_blocks)_(\d+)_(\w+)", key)
    if match is None or match[3] not in _KINDS[match[1]][1]:
        return None
    return _fused(match[1], int(match[2]), match[3])


def unflattened(key: str) -> str | None:
    """Return the diffusers name whose dots became underscores, or None where FLUX's blocks have none of that name.

    Example:
        >>> unflattened("single_transformer_blocks_0_attn_to_q")
        'single_transformer_blocks.0.attn.to_q'
    """
    match = re.fullmatch(r"(transformer_blocks|single_transformer_blocks)_(\d+)_(\w+)", key)
    if match is None:
        return None
    for blocks, linears in _KINDS.values():
        for kind in (kind for parts in linears.values() for kind in parts):
            if blocks == match[1] and kind.replace(".", "_") == match[3]:
                return f"{blocks}.{match[2]}.{kind}"
    return None


def is_layer_name(name: str) -> bool:
    """Whether a name is one of a Linear in FLUX's blocks, as diffusers calls them."""
    return fused_linear_of(name) is not None


def _fused(prefix: str, index: int, linear: str) -> FusedLinear:
    blocks, linears = _KINDS[prefix]
    return FusedLinear(f"{prefix}_{index}_{linear}", tuple(f"{blocks}.{index}.{kind}" for kind in linears[linear]))
