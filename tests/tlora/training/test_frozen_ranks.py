"""Ranks that no sample used: Adam's momentum moves them all the same, unless they are frozen."""

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_flux import tiny_inputs
from tests.tlora.adapted import CFG, MASKS, ORTHO, adapted, loss_of
from tlora.adapter import TLoRALinear
from tlora.inject import adapter_layers, tlora_parameters
from tlora.metadata.config import TLoRAConfig
from tlora.training.frozen_ranks import freeze_ranks


def by_rank(layer: nn.Module) -> list[Tensor]:
    """Return copies of a layer's trainable tensors, ranks first."""
    down, up = (layer.down, layer.up) if isinstance(layer, TLoRALinear) else (layer.q_layer, layer.p_layer)
    rest = [] if isinstance(layer, TLoRALinear) else [layer.lambda_layer]
    return [t.detach().clone() for t in (down.weight, up.weight.T, *rest)]


def moved_ranks(cfg: TLoRAConfig, frozen: bool) -> list[bool]:
    """Train all four ranks for a step, then two of them for a step; say which ranks the second step moved."""
    transformer = adapted(cfg, ("to_q",))
    optimizer = torch.optim.AdamW(tlora_parameters(transformer), lr=0.1, weight_decay=0.1)
    layers = list(adapter_layers(transformer).values())
    for first_frozen, mask in ((4, MASKS[3:]), (2, MASKS[1:2])):
        optimizer.zero_grad()
        before = [tensor for layer in layers for tensor in by_rank(layer)]
        loss_of(transformer, tiny_inputs(), mask).backward()
        with freeze_ranks(optimizer, layers, first_frozen if frozen else 4):
            optimizer.step()
    after = [tensor for layer in layers for tensor in by_rank(layer)]
    return [any(not torch.equal(a[rank], b[rank]) for a, b in zip(after, before, strict=True)) for rank in range(4)]


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_frozen_ranks_stay_to_the_bit_while_the_others_move(cfg: TLoRAConfig) -> None:
    assert moved_ranks(cfg, frozen=True) == [True, True, False, False]


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_masked_ranks_that_are_not_frozen_are_moved_by_momentum(cfg: TLoRAConfig) -> None:
    assert moved_ranks(cfg, frozen=False) == [True, True, True, True]


def test_the_moments_of_frozen_ranks_stay_too() -> None:
    transformer = adapted(CFG, ("to_q",))
    optimizer = torch.optim.AdamW(tlora_parameters(transformer), lr=0.1)
    layer = next(iter(adapter_layers(transformer).values()))
    loss_of(transformer, tiny_inputs(), MASKS[3:]).backward()
    optimizer.step()
    before = optimizer.state[layer.down.weight]["exp_avg"].clone()
    optimizer.zero_grad()
    loss_of(transformer, tiny_inputs(), MASKS[1:2]).backward()
    with freeze_ranks(optimizer, [layer], 2):
        optimizer.step()
    after = optimizer.state[layer.down.weight]["exp_avg"]
    assert torch.equal(after[2:], before[2:])
    assert not torch.equal(after[:2], before[:2])
