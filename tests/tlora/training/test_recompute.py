"""Recomputed or compiled, the blocks learn the same."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_flux import Inputs, predict, tiny_inputs
from tests.tlora.adapted import CFG, MASKS, ORTHO, adapted, gradients, loss_of
from tlora.inject import blocks_of
from tlora.metadata.config import TLoRAConfig
from tlora.training.recompute import compile_blocks, recompute_blocks


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


SHAPES = ((2, 3, 4), (2, 4, 4), (2, 5, 3))  # batch, rows and columns of image tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "recomputed", "blocks"),
    [
        ("aot_eager", True, 2),
        pytest.param("inductor", False, 1, marks=pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler: g++")),
    ],
)
def test_masks_timesteps_and_picture_sizes_do_not_compile_again(backend: str, recomputed: bool, blocks: int) -> None:
    torch.multiprocessing.spawn(_check_compiling, args=(backend, recomputed, blocks))  # dynamo cannot look through beartype


def _check_compiling(_process: int, backend: str, recomputed: bool, blocks: int) -> None:
    torch.set_num_threads(1)
    plain, compiled = adapted(blocks=blocks).train(), adapted(blocks=blocks).train()
    compile_blocks(compiled, backend)
    if recomputed:
        recompute_blocks(compiled, 2)
    for i, (batch, rows, columns) in enumerate(SHAPES):
        with torch.compiler.set_stance("fail_on_recompile" if i == 2 else "default"):
            for later in range(2):
                inputs = tiny_inputs(batch, rows=rows, columns=columns)
                inputs = replace(inputs, timestep=inputs.timestep * (1 - 0.1 * later))
                mask = MASKS.roll(later, 0)[:batch]
                for a, b in zip(*(_learnt(transformer, inputs, mask) for transformer in (plain, compiled)), strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    counted = torch._dynamo.utils.counters
    assert not counted["graph_break"]
    assert counted["stats"]["unique_graphs"] <= 8, counted  # a double or a single block, the first or another, one size or any


def _learnt(transformer: nn.Module, inputs: Inputs, mask: Tensor) -> list[Tensor]:
    prediction = predict(transformer, inputs, {"sigma_mask": mask})
    return [prediction.detach(), *gradients(transformer, prediction.square().sum())]
