"""Recomputed, the blocks learn the same."""

import pytest
import torch
from torch import nn

from tests.tiny_flux import tiny_inputs
from tests.tlora.adapted import CFG, MASKS, ORTHO, adapted, gradients, loss_of
from tlora.adapter_config import TLoRAConfig
from tlora.blocks import recompute_blocks
from tlora.inject import blocks_of


def count_calls(transformer: nn.Module) -> list[int]:
    """Return a list that goes on counting the calls of each block."""
    calls = [0] * len(list(blocks_of(transformer)))

    def count(number: int) -> None:
        calls[number] += 1

    for i, block in enumerate(blocks_of(transformer)):
        block.register_forward_pre_hook(lambda *_, i=i: count(i))
    return calls


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
@pytest.mark.parametrize(("every", "calls"), [(1, [2, 2, 2, 2]), (2, [2, 1, 2, 1]), (3, [2, 1, 1, 2]), (9, [2, 1, 1, 1])])
def test_every_nth_block_is_recomputed_and_the_gradients_are_the_same_bits(
    every: int, calls: list[int], cfg: TLoRAConfig
) -> None:
    plain, recomputed = adapted(cfg).train(), adapted(cfg).train()
    recompute_blocks(recomputed, every)
    counted = count_calls(recomputed)
    expected = gradients(plain, loss_of(plain, tiny_inputs(4), MASKS))
    found = gradients(recomputed, loss_of(recomputed, tiny_inputs(4), MASKS))
    assert counted == calls
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
