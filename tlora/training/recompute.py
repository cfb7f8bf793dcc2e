"""How the blocks are run in training: which of them backward recomputes, and whether they are compiled."""

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from tlora.inject import blocks_of


def recompute_blocks(transformer: nn.Module, every: int) -> None:
    """Keep only the inputs of every n-th block, from the first, and compute what is inside it again in backward.

    Args:
        transformer: A FLUX transformer of diffusers.
        every: n; 1 recomputes every block.
    """
    chosen = {id(block) for block in list(blocks_of(transformer))[::every]}

    def run(block: nn.Module, *arguments: Any) -> Any:
        return checkpoint(block, *arguments, use_reentrant=False) if id(block) in chosen else block(*arguments)

    transformer.enable_gradient_checkpointing(run)  # type: ignore[operator]


def compile_blocks(transformer: nn.Module, backend: str = "inductor") -> None:
    """Compile the blocks, one graph for all of a kind, whatever mask, timestep and picture size come.

    Args:
        transformer: A FLUX transformer of diffusers, with its adapter.
        backend: Of torch.compile.
    """
    transformer.compile_repeated_blocks(backend=backend)  # type: ignore[operator]
