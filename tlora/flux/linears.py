"""The Linears of the blocks, each once: what it is called by diffusers and by Black Forest Labs, its size, its tokens.

BFL's FLUX.1 holds some Linears in one: query, key and value, and in single blocks the first half of the MLP beside them. Rows of
this table that share a BFL name are the parts of such a Linear, in the order of its rows.
"""

from dataclasses import dataclass
from typing import Literal

Stream = Literal["image", "text", "all"]


@dataclass(frozen=True)
class BlockLinear:
    """A Linear of a block.

    Args:
        name: What diffusers calls it, below its block.
        bfl: What BFL calls the Linear that holds it, with underscores for dots.
        stream: The tokens of its block: the picture's, the text's, or all of both.
        inside: Inputs, in widths of the model.
        outside: Outputs, likewise.
        kept: The tensor that autograd keeps to train it, and that tensor's size in widths.
    """

    name: str
    bfl: str
    stream: Stream
    inside: int
    outside: int
    kept: tuple[str, int]

    @property
    def is_modulation(self) -> bool:
        """Whether it reads one vector of the whole sample in place of tokens."""
        return self.name.endswith(".linear")


@dataclass(frozen=True)
class BlockList:
    """The blocks of one kind: the list's name in diffusers and in BFL's model, and the Linears of each block.

    `kwargs_position` is the place of `joint_attention_kwargs` in a block's forward: gradient checkpointing passes by position.
    """

    name: str
    bfl: str
    linears: tuple[BlockLinear, ...]
    kwargs_position: int = 4

    @property
    def weights(self) -> int:
        """Return the weights of a block's Linears, in squares of the model's width."""
        return sum(row.inside * row.outside for row in self.linears)

    @property
    def rows(self) -> int:
        """Return the outputs of a block's Linears, in widths: what their biases would be."""
        return sum(row.outside for row in self.linears)


DOUBLE = BlockList(
    "transformer_blocks",
    "double_blocks",
    (
        BlockLinear("attn.to_q", "img_attn_qkv", "image", 1, 1, ("norm1", 1)),
        BlockLinear("attn.to_k", "img_attn_qkv", "image", 1, 1, ("norm1", 1)),
        BlockLinear("attn.to_v", "img_attn_qkv", "image", 1, 1, ("norm1", 1)),
        BlockLinear("attn.add_q_proj", "txt_attn_qkv", "text", 1, 1, ("norm1_context", 1)),
        BlockLinear("attn.add_k_proj", "txt_attn_qkv", "text", 1, 1, ("norm1_context", 1)),
        BlockLinear("attn.add_v_proj", "txt_attn_qkv", "text", 1, 1, ("norm1_context", 1)),
        BlockLinear("attn.to_out.0", "img_attn_proj", "image", 1, 1, ("attention", 1)),
        BlockLinear("attn.to_add_out", "txt_attn_proj", "text", 1, 1, ("attention_context", 1)),
        BlockLinear("ff.net.0.proj", "img_mlp_0", "image", 1, 4, ("norm2", 1)),
        BlockLinear("ff.net.2", "img_mlp_2", "image", 4, 1, ("gelu", 4)),
        BlockLinear("ff_context.net.0.proj", "txt_mlp_0", "text", 1, 4, ("norm2_context", 1)),
        BlockLinear("ff_context.net.2", "txt_mlp_2", "text", 4, 1, ("gelu_context", 4)),
        BlockLinear("norm1.linear", "img_mod_lin", "image", 1, 6, ("modulation", 4)),
        BlockLinear("norm1_context.linear", "txt_mod_lin", "text", 1, 6, ("modulation_context", 4)),
    ),
)
SINGLE = BlockList(
    "single_transformer_blocks",
    "single_blocks",
    (
        BlockLinear("attn.to_q", "linear1", "all", 1, 1, ("norm", 1)),
        BlockLinear("attn.to_k", "linear1", "all", 1, 1, ("norm", 1)),
        BlockLinear("attn.to_v", "linear1", "all", 1, 1, ("norm", 1)),
        BlockLinear("proj_mlp", "linear1", "all", 1, 4, ("norm", 1)),
        BlockLinear("proj_out", "linear2", "all", 5, 1, ("attention and mlp", 5)),
        BlockLinear("norm.linear", "modulation_lin", "all", 1, 3, ("modulation", 2)),
    ),
)
BLOCK_LISTS = (DOUBLE, SINGLE)

# FLUX.2: SwiGLU's two halves are one Linear, and modulation lies outside the blocks, which share it.
DOUBLE_2 = BlockList(
    "transformer_blocks",
    "double_blocks",
    (
        *DOUBLE.linears[:8],
        BlockLinear("ff.linear_in", "img_mlp_0", "image", 1, 6, ("norm2", 1)),
        BlockLinear("ff.linear_out", "img_mlp_2", "image", 3, 1, ("swiglu", 3)),
        BlockLinear("ff_context.linear_in", "txt_mlp_0", "text", 1, 6, ("norm2_context", 1)),
        BlockLinear("ff_context.linear_out", "txt_mlp_2", "text", 3, 1, ("swiglu_context", 3)),
    ),
    kwargs_position=5,
)
SINGLE_2 = BlockList(
    "single_transformer_blocks",
    "single_blocks",
    (
        BlockLinear("attn.to_qkv_mlp_proj", "linear1", "all", 1, 9, ("norm", 1)),
        BlockLinear("attn.to_out", "linear2", "all", 4, 1, ("attention and mlp", 4)),
    ),
)
OUTSIDE = {  # Linears outside the blocks, where no rank mask arrives -> their BFL names
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in_in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in_out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in_in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in_out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in_in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in_out_layer",
    "norm_out.linear": "final_layer_adaLN_modulation_1",
    "proj_out": "final_layer_linear",
}


_ALL = (*BLOCK_LISTS, DOUBLE_2, SINGLE_2)


def block_linear(name: str) -> BlockLinear | None:
    """Return the Linear that a module of a transformer is, or is a part of, as an adapter's layers are; None outside the blocks.

    What two families call alike is alike, so none has to be said.

    Example:
        >>> block_linear("single_transformer_blocks.3.proj_out.down").inside
        5
    """
    blocks, _, rest = name.partition(".")
    kind = rest.partition(".")[2] + "."
    return next((row for each in _ALL if each.name == blocks for row in each.linears if kind.startswith(row.name + ".")), None)
