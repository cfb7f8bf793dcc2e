"""A family of base models is a row of this table: what of a network, its text, its latents and its licence is not FLUX.1's.

The files of a base say which row is theirs. What no row says holds for all: rectified flow, 2x2 patches, timestep / 1000.
"""

from dataclasses import dataclass
from typing import Literal

from tlora.flux.linears import DOUBLE, DOUBLE_2, SINGLE, SINGLE_2, BlockList


@dataclass(frozen=True)
class Family:
    """What bases of one architecture have in common.

    Args:
        name: What people call it; adapters carry it.
        tag: What the hub's cards call it.
        transformer: diffusers' class of the transformer.
        vae: diffusers' class of the VAE.
        pipelines: diffusers' pipelines whose folders these are; the first is the usual one.
        text_encoders: Folder of each text encoder, and what its configuration calls its type.
        blocks: Its block lists, in the order in which they run.
        kwargs_position: Place of `joint_attention_kwargs` in the transformer's forward.
        has_bias: Whether its Linears have biases.
        shared_modulation: Modulation outside the blocks, in squares of the width.
        id_columns: Columns of a token's position; of four, text counts in the last.
        text: How a caption is encoded.
        takes_mode: Whether a picture's latents are the most likely ones in place of a draw from the VAE's posterior.
        shift: How the noise levels of a sampler, and of training where it follows one, are shifted by the picture's size.
        draws_twice: Whether guidance is a second forward with the empty prompt; else, if at all, it is an input.
        target_modules: Linears that are adapted where nobody says which: the attention of every block.
        kept: What autograd keeps of a token in a stream of a double block, and in a single block, beside the inputs of adapted
            layers, in widths: norms, attention, and what the GELU or SwiGLU needs (tests/tlora/training/test_memory_estimate.py).
        passing: What backward holds of a token for a moment: the gradients of a block's widest tensors.
    """

    name: str
    tag: str
    transformer: str
    vae: str
    pipelines: tuple[str, ...]
    text_encoders: tuple[tuple[str, str], ...]
    blocks: tuple[BlockList, BlockList]
    kwargs_position: int
    has_bias: bool
    shared_modulation: int
    id_columns: Literal[3, 4]
    text: Literal["clip and t5", "qwen3"]
    takes_mode: bool
    shift: Literal["linear", "empirical"]
    draws_twice: bool
    target_modules: tuple[str, ...]
    kept: tuple[int, int]
    passing: int

    @property
    def token_weights(self) -> int:
        """Return the weights of a block that each token meets, in squares of the width; alike in blocks of either kind."""
        return sum(row.inside * row.outside for row in self.blocks[1].linears if not row.is_modulation)

    @property
    def widest(self) -> int:
        """Return the weights of the largest Linear that reads tokens, in squares of the width."""
        rows = (row for each in self.blocks for row in each.linears if not row.is_modulation)
        return max(row.inside * row.outside for row in rows)


FLUX_1 = Family(
    name="FLUX.1",
    tag="flux",
    transformer="FluxTransformer2DModel",
    vae="AutoencoderKL",
    pipelines=("FluxPipeline",),
    text_encoders=(("text_encoder", "clip_text_model"), ("text_encoder_2", "t5")),
    blocks=(DOUBLE, SINGLE),
    kwargs_position=7,
    has_bias=True,
    shared_modulation=0,
    id_columns=3,
    text="clip and t5",
    takes_mode=False,
    shift="linear",
    draws_twice=False,
    target_modules=("to_q", "to_k", "to_v"),
    kept=(12, 11),
    passing=11,
)
FLUX_2_KLEIN = Family(
    name="FLUX.2 klein",
    tag="flux2",
    transformer="Flux2Transformer2DModel",
    vae="AutoencoderKLFlux2",
    pipelines=("Flux2KleinPipeline",),
    text_encoders=(("text_encoder", "qwen3"),),
    blocks=(DOUBLE_2, SINGLE_2),
    kwargs_position=6,
    has_bias=False,
    shared_modulation=15,
    id_columns=4,
    text="qwen3",
    takes_mode=True,
    shift="empirical",
    draws_twice=True,
    target_modules=("to_q", "to_k", "to_v", "to_qkv_mlp_proj", "to_out"),
    kept=(17, 16),
    passing=16,
)
FAMILIES = (FLUX_1, FLUX_2_KLEIN)
_DEV = (
    "FLUX.2-dev has 32 billion weights beside a text encoder of 24 billion, and its licence allows no commercial use: it is not"
    " supported; use FLUX.2-klein-base-4B"
)
_FLUX_3 = (
    "FLUX.3 klein's blocks take no attention arguments, by which a rank mask reaches its layers: it is not supported; use"
    " FLUX.2-klein-base-4B"
)
_KV = "FLUX.2 klein KV keeps what reference pictures made, which no adapter is trained with here: use FLUX.2-klein-base-4B"
_REFUSED = {"Flux2Pipeline": _DEV, "Flux2KleinKVPipeline": _KV, "Flux3": _FLUX_3, "FLUX.2-dev": _DEV, "FLUX.3": _FLUX_3}


def why_refused(name: str) -> str:
    """Return why a pipeline or transformer of diffusers, or a model of this name on the hub, is refused; empty if it is not."""
    return next((why for start, why in _REFUSED.items() if name.startswith(start)), "")


def family_named(name: str) -> Family | None:
    """Return the family of a name, as adapters carry it."""
    return next((family for family in FAMILIES if family.name == name), None)


def family_of_class(transformer: type) -> Family | None:
    """Return the family of a transformer's class, or of one that inherits from it."""
    names = {each.__name__ for each in transformer.__mro__}
    return next((family for family in FAMILIES if family.transformer in names), None)
