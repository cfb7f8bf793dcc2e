"""Merged weights are a pure function of pristine weight, adapter, rank and scale, and the pristine ones come back to the bit."""

import pytest
import torch
from torch import nn

from tests.tiny_flux import predict, tiny_inputs, tiny_transformer
from tests.tlora.adapted import CFG, MASKS, ORTHO, adapted
from tlora.adapter import TLoRALinear
from tlora.errors import MaskError, MergeError
from tlora.inject import adapter_layers, eject_tlora_from_transformer, inject_tlora_into_transformer
from tlora.merge import merged_weight, merged_weights, rounding_loss
from tlora.metadata.config import TLoRAConfig

UNMASKED = TLoRAConfig(rank=4, alpha=8.0, min_rank=1, enable_rank_masking=False)


def weights_of(transformer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.base.weight.clone() for name, layer in adapter_layers(transformer).items()}


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_merged_predicts_what_the_layers_predict_at_every_rank(cfg: TLoRAConfig, scale: float) -> None:
    transformer, inputs = adapted(cfg), tiny_inputs(2)
    for rank in (1, 3, 4, 2):
        given = {"sigma_mask": MASKS[rank - 1 : rank], "scale": scale}
        expected = predict(transformer, inputs, dict(given))
        with merged_weights(transformer):
            torch.testing.assert_close(predict(transformer, inputs, dict(given)), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(predict(transformer, inputs, dict(given)), expected)


def test_a_merged_call_does_not_run_the_update_a_second_time() -> None:
    transformer = adapted()
    layer = next(iter(adapter_layers(transformer).values()))
    ran: list[object] = []
    layer.down.register_forward_hook(lambda *_: ran.append(1))
    layer._update = lambda x: ran.append(1)  # type: ignore[method-assign, assignment, func-returns-value]
    with merged_weights(transformer):
        predict(transformer, tiny_inputs(1), {"sigma_mask": MASKS[:1]})
    assert not ran


def test_without_masking_the_whole_update_is_merged() -> None:
    transformer, inputs = adapted(UNMASKED), tiny_inputs(1)
    expected = predict(transformer, inputs)
    with merged_weights(transformer):
        torch.testing.assert_close(predict(transformer, inputs), expected, rtol=1e-4, atol=1e-4)


def test_the_weights_at_a_rank_do_not_depend_on_the_ranks_before() -> None:
    transformer, inputs = adapted(), tiny_inputs(1)
    transformer.to(torch.bfloat16)
    seen = []
    for ranks in ((3,), (1, 2, 3), (4, 1, 3)):
        with merged_weights(transformer, force=True):
            for rank in ranks:
                transformer._tlora_sigma_mask = MASKS[rank - 1 : rank]
                half = [t.to(torch.bfloat16) for t in (inputs.packed, inputs.text, inputs.pooled)]
                transformer(
                    hidden_states=half[0], encoder_hidden_states=half[1], pooled_projections=half[2],
                    timestep=inputs.timestep.bfloat16() / 1000, guidance=inputs.guidance.bfloat16(),
                    txt_ids=torch.zeros(5, 3), img_ids=inputs.image_ids,
                )  # fmt: skip
            seen.append(weights_of(transformer))
    assert all(torch.equal(one[name], seen[0][name]) for one in seen[1:] for name in one)


def test_the_pristine_weights_are_put_back_to_the_bit_even_after_an_error() -> None:
    transformer = adapted()
    before = weights_of(transformer)
    with merged_weights(transformer):
        predict(transformer, tiny_inputs(1), {"sigma_mask": MASKS[:1]})
        assert not any(torch.equal(tensor, before[name]) for name, tensor in weights_of(transformer).items())
        with pytest.raises(MaskError, match="samples have several"):
            predict(transformer, tiny_inputs(4), {"sigma_mask": MASKS})
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(transformer).items())
    eject_tlora_from_transformer(transformer)
    bare = tiny_transformer()
    assert torch.equal(predict(transformer, tiny_inputs(1)), predict(bare, tiny_inputs(1)))


def test_a_call_without_a_mask_is_refused_as_it_is_unmerged() -> None:
    transformer = adapted()
    with merged_weights(transformer), pytest.raises(MaskError, match="no sigma mask came with this call"):
        predict(transformer, tiny_inputs(1))


def constructed(update: float, dtype: torch.dtype) -> nn.Module:
    """Return a tiny FLUX, all of whose adapted weights are 1 and all updates the same number."""
    transformer = tiny_transformer()
    cfg = TLoRAConfig(rank=1, alpha=1.0, min_rank=1, enable_rank_masking=False)
    inject_tlora_into_transformer(transformer, ["to_q"], cfg)
    for layer in adapter_layers(transformer).values():
        assert isinstance(layer, TLoRALinear)
        for weight, value in ((layer.base.weight, 1.0), (layer.down.weight, 1.0), (layer.up.weight, update)):
            nn.init.constant_(weight, value)
        layer.base.to(dtype)
    return transformer


@pytest.mark.parametrize(
    ("update", "share"),
    [
        (2**-7, 0.0),  # one step of bfloat16 above 1: kept whole
        (2**-9, 1.0),  # a quarter of a step: gone
        (1.25 * 2**-7, 0.2),  # a step and a quarter: the quarter is gone
        (10.25 * 2**-7, 0.25 / 10.25),  # 2.4 %
    ],
)
def test_rounding_to_bfloat16_eats_what_lies_between_its_steps(update: float, share: float) -> None:
    loss = rounding_loss(constructed(update, torch.bfloat16))
    assert loss.share == pytest.approx(share, abs=1e-6)
    assert rounding_loss(constructed(update, torch.float32)).share == pytest.approx(0.0, abs=1e-6)


def test_merging_is_refused_where_rounding_eats_more_than_a_tenth_unless_forced() -> None:
    transformer = constructed(1.25 * 2**-7, torch.bfloat16)
    message = r"rounding to bfloat16 eats 20\.0% of the update at rank 1, more than 10%: draw unmerged"
    with pytest.raises(MergeError, match=message), merged_weights(transformer):
        pass
    with merged_weights(transformer, force=True) as loss:
        assert str(loss) == "rounding to bfloat16 eats 20.0% of the update at rank 1"
    with merged_weights(constructed(10.25 * 2**-7, torch.bfloat16)):
        pass


def test_merged_weights_are_rounded_once_from_the_sum() -> None:
    transformer = constructed(1.25 * 2**-7, torch.bfloat16)
    layer = next(iter(adapter_layers(transformer).values()))
    assert isinstance(layer.base.weight, torch.Tensor)
    assert (
        merged_weight(layer, layer.base.weight, torch.ones(1), scale=2.0)[0, 0].item() == 1 + 2 * 2**-7
    )  # of 1 + 2.5 steps, to even


def test_there_must_be_an_adapter() -> None:
    with pytest.raises(MergeError, match="carries no adapter"), merged_weights(tiny_transformer()):
        pass


def test_several_adapters_are_not_merged() -> None:
    transformer = adapted()
    inject_tlora_into_transformer(transformer, ["to_q"], CFG, slot=1)
    with (
        pytest.raises(MergeError, match="one adapter can be merged, and the transformer carries several"),
        merged_weights(transformer),
    ):
        pass
