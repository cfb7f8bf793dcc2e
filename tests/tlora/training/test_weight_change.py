"""How much an adapter changes its weights, against the product written out."""

import pytest
import torch

from tests.tiny_flux import tiny_transformer
from tests.tlora.adapted import CFG, ORTHO, adapted
from tests.tlora.test_adapter import Int8Linear
from tlora.inject import adapter_layers, inject_tlora_into_transformer
from tlora.metadata.config import TLoRAConfig
from tlora.training.weight_change import relative_change


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_the_relative_change_is_that_of_the_product_by_kind_of_layer(cfg: TLoRAConfig) -> None:
    transformer = adapted(cfg, ("to_q", "proj_out"))
    by_hand: dict[str, list[float]] = {"attn.to_q": [], "proj_out": []}
    for name, layer in adapter_layers(transformer).items():
        up, down = layer.factors()
        by_hand[name.split(".", 2)[2]].append(float((up @ down).norm() / layer.base.weight.norm()))
    assert {kind: len(values) for kind, values in by_hand.items()} == {"attn.to_q": 4, "proj_out": 2}
    assert relative_change(transformer) == pytest.approx({k: sum(v) / len(v) for k, v in by_hand.items()}, rel=1e-4)


def test_a_fresh_lora_changes_nothing() -> None:
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, ["to_q"], CFG)
    assert relative_change(transformer) == {"attn.to_q": 0.0}


def test_a_small_change_of_large_initial_factors_is_not_lost_in_rounding() -> None:
    """The principal factors are as large as the weight itself; what was learnt is their difference."""
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, ["to_q"], ORTHO)
    assert relative_change(transformer)["attn.to_q"] == 0
    layers = adapter_layers(transformer).values()
    with torch.no_grad():
        for layer in layers:
            layer.lambda_layer.mul_(1 + 1e-4)
    expected = [float(layer.base_lambda.norm() / layer.base.weight.norm()) * 1e-4 for layer in layers]
    assert relative_change(transformer)["attn.to_q"] == pytest.approx(sum(expected) / 4, rel=1e-2)


def test_quantised_layers_are_left_out() -> None:
    transformer = tiny_transformer(blocks=1)
    attention = transformer.transformer_blocks[0].attn
    attention.to_q = Int8Linear(attention.to_q)
    inject_tlora_into_transformer(transformer, ["to_q"], CFG)
    with torch.no_grad():
        for layer in adapter_layers(transformer).values():
            layer.up.weight.fill_(0.1)
    single = transformer.single_transformer_blocks[0].attn.to_q
    up, down = single.factors()
    expected = float((up @ down).norm() / single.base.weight.norm())
    assert relative_change(transformer)["attn.to_q"] == pytest.approx(expected, rel=1e-4)
