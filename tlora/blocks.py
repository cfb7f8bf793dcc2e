"""Which of the blocks backward recomputes."""

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
