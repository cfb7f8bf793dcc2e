"""One down projection for q, k and v changes nothing but the time it takes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_flux import predict, tiny_inputs
from tests.tlora.adapted import CFG, EVERY_SUFFIX, MASKS, ORTHO, adapted, gradients, loss_of
from tlora.adapter import SharedInput
from tlora.inject import adapter_layers, eject_tlora_from_transformer, inject_tlora_into_transformer, shared_inputs, stop_sharing
from tlora.metadata.config import TLoRAConfig


def shared_of(transformer: nn.Module) -> list[SharedInput]:
    return shared_inputs(list(adapter_layers(transformer).values()))


def learnt(transformer: nn.Module) -> Iterator[Tensor]:
    """Yield a prediction with and without gradients, and every gradient."""
    with torch.no_grad():
        drawn = predict(transformer, tiny_inputs(4), {"sigma_mask": MASKS, "scale": 0.7})
    yield drawn
    yield predict(transformer, tiny_inputs(4), {"sigma_mask": MASKS, "scale": 0.7}).detach()
    yield from gradients(transformer, loss_of(transformer, tiny_inputs(4), MASKS))


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("masked", [True, False])
def test_predictions_and_gradients_are_those_of_layers_that_read_alone(masked: bool, recomputed: bool) -> None:
    together, alone = (adapted(TLoRAConfig(rank=4, alpha=6.0, min_rank=1, enable_rank_masking=masked)) for _ in range(2))
    stop_sharing(alone)
    for transformer in (together, alone):
        transformer.train()
        if recomputed:
            transformer.enable_gradient_checkpointing()
    assert (len(shared_of(together)), len(shared_of(alone))) == (2 * 2 + 2, 0)  # two in a double block, one in a single one
    for a, b in zip(learnt(together), learnt(alone), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_input_is_projected_once_for_the_three() -> None:
    shared = shared_of(adapted(suffixes=("to_q", "to_k", "to_v")))[0]
    shared.open()
    x, y = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    places = {given: [shared.project(place, given, torch.clone).untyped_storage() for place in range(3)] for given in (x, y)}
    assert [len({storage.data_ptr() for storage in storages}) for storages in places.values()] == [1, 1]
    assert places[x][0].data_ptr() != places[y][0].data_ptr()


@pytest.mark.parametrize(
    ("cfg", "suffixes"),
    [(ORTHO, EVERY_SUFFIX), (TLoRAConfig(rank=4, min_rank=1, dropout=0.5), EVERY_SUFFIX), (CFG, ("to_q", "to_out.0"))],
    ids=["ortho", "dropout", "one of the three"],
)
def test_what_cannot_share_does_not(cfg: TLoRAConfig, suffixes: tuple[str, ...]) -> None:
    assert shared_of(adapted(cfg, suffixes)) == []


def test_nothing_is_kept_after_a_call_and_a_layer_called_alone_reads_alone() -> None:
    transformer = adapted()
    predict(transformer, tiny_inputs(4), {"sigma_mask": MASKS})
    assert all((s.is_open, s._input, s._ranks) == (False, None, ()) for s in shared_of(transformer))
    layer, x = transformer.get_submodule("transformer_blocks.0.attn.to_q"), torch.randn(4, 3, 32)
    layer.arm(MASKS, 1.0)
    before = layer(x)
    with torch.no_grad():
        layer.down.weight.mul_(2)
    assert not torch.equal(layer(x), before)


def test_of_two_adapters_each_shares_its_own() -> None:
    transformer = adapted(suffixes=("to_q", "to_k", "to_v"))
    inject_tlora_into_transformer(transformer, ("to_q", "to_k"), TLoRAConfig(rank=2, alpha=2.0, min_rank=1), slot=1)
    layers = adapter_layers(transformer)
    assert {len(shared._downs) for shared in shared_of(transformer)} == {2, 3}
    masks = (MASKS[:1], torch.ones(1, 2))
    both = predict(transformer, tiny_inputs(), {"sigma_mask": masks})
    stop_sharing(transformer)
    torch.testing.assert_close(predict(transformer, tiny_inputs(), {"sigma_mask": masks}), both)
    assert eject_tlora_from_transformer(transformer) == len(layers)
