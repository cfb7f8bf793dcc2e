"""Whose mask arrives where, whoever recomputes what and when: a wrong one trains and draws without complaint."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

from tests.tiny_flux import predict, tiny_inputs, tiny_transformer
from tests.tlora.adapted import CFG, MASKS, ORTHO, adapted, gradients, loss_of
from tlora.adapter import TLoRALinear
from tlora.errors import MaskError
from tlora.inject import adapter_layers, patch_transformer_forward_for_joint_attention_kwargs
from tlora.metadata.config import TLoRAConfig
from tlora.schedule import RankSchedule


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_a_batch_of_mixed_timesteps_equals_batches_of_one(cfg: TLoRAConfig, guidance: bool) -> None:
    transformer, inputs = adapted(cfg, guidance=guidance), tiny_inputs(4, guidance=guidance)
    masks = RankSchedule(4, 1).mask(inputs.timestep)
    assert masks.sum(dim=1).tolist() == [1, 1, 2, 3]
    together = predict(transformer, inputs, {"sigma_mask": masks})
    for i in range(4):
        alone = predict(transformer, inputs.sample(i), {"sigma_mask": masks[i : i + 1]})
        assert (together[i] - alone[0]).norm() <= 1e-5 * alone.norm()
    first_for_all = predict(transformer, inputs, {"sigma_mask": masks[:1]})
    assert not torch.allclose(together[3], first_for_all[3], rtol=1e-3)


@pytest.mark.parametrize("suffix", ["norm1.linear", "norm1_context.linear", "norm.linear"])
def test_modulation_layers_without_a_token_axis_take_each_sample_its_mask(suffix: str) -> None:
    transformer, inputs = adapted(suffixes=(suffix,)), tiny_inputs(4)
    together = predict(transformer, inputs, {"sigma_mask": MASKS})
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], predict(transformer, inputs.sample(i), {"sigma_mask": MASKS[i : i + 1]}))
    assert not torch.allclose(together, predict(transformer, inputs, {"sigma_mask": MASKS[:1]}), rtol=1e-3)


def test_a_full_mask_equals_plain_lora_to_the_bit() -> None:
    plain = adapted(TLoRAConfig(rank=4, alpha=4.0, min_rank=1, enable_rank_masking=False))
    masked = predict(adapted(), tiny_inputs(4), {"sigma_mask": torch.ones(4, 4)})
    assert torch.equal(masked, predict(plain, tiny_inputs(4)))


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_masked_ranks_get_no_gradient_anywhere(cfg: TLoRAConfig) -> None:
    transformer = adapted(cfg)
    loss_of(transformer, tiny_inputs(2), MASKS[:2]).backward()
    for layer in adapter_layers(transformer).values():
        down, up = (layer.down, layer.up) if isinstance(layer, TLoRALinear) else (layer.q_layer, layer.p_layer)
        assert not down.weight.grad[2:].any()
        assert not up.weight.grad[:, 2:].any()
        assert down.weight.grad[:2].any()


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_gradients_with_checkpointing_equal_those_without_to_the_bit(cfg: TLoRAConfig) -> None:
    transformer = adapted(cfg).train()
    plain = gradients(transformer, loss_of(transformer, tiny_inputs(4), MASKS))
    transformer.enable_gradient_checkpointing()
    recomputed = gradients(transformer, loss_of(transformer, tiny_inputs(4), MASKS))
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_each_of_two_forwards_keeps_its_mask_when_both_are_recomputed_later() -> None:
    transformer, other = adapted().train(), MASKS.flip(0)
    plain = gradients(transformer, loss_of(transformer, tiny_inputs(4), MASKS), loss_of(transformer, tiny_inputs(4), other))
    transformer.enable_gradient_checkpointing()
    first = loss_of(transformer, tiny_inputs(4), MASKS)
    second = loss_of(transformer, tiny_inputs(4), other)  # before the first one's backward
    recomputed = gradients(transformer, first, second)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_an_attribute_changed_between_forward_and_backward_does_not_reach_the_recompute() -> None:
    transformer = adapted().train()
    plain = gradients(transformer, loss_of(transformer, tiny_inputs(4), MASKS))
    transformer.enable_gradient_checkpointing()
    transformer._tlora_sigma_mask = MASKS
    loss = predict(transformer, tiny_inputs(4)).square().sum()
    transformer._tlora_sigma_mask = MASKS.flip(0)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(transformer, loss), strict=True))


def test_no_mask_outlives_its_call_not_even_a_recompute_or_a_failure() -> None:
    transformer = adapted().train()
    transformer.enable_gradient_checkpointing()
    loss_of(transformer, tiny_inputs(4), MASKS).backward()
    assert {layer._sigma_mask for layer in adapter_layers(transformer).values()} == {None}
    with pytest.raises(MaskError):
        predict(transformer, tiny_inputs(2), {"sigma_mask": MASKS})
    assert {layer._sigma_mask for layer in adapter_layers(transformer).values()} == {None}


def test_the_mask_of_the_call_wins_over_the_attribute() -> None:
    transformer = adapted()
    expected = predict(transformer, tiny_inputs(), {"sigma_mask": MASKS[:1]})
    transformer._tlora_sigma_mask = MASKS[3:]
    assert torch.equal(predict(transformer, tiny_inputs(), {"sigma_mask": MASKS[:1]}), expected)
    assert not torch.equal(predict(transformer, tiny_inputs()), expected)


def test_the_scale_arrives_by_call_or_by_attribute_and_zero_is_the_base() -> None:
    transformer, bare = adapted(), predict(tiny_transformer(), tiny_inputs())
    half = predict(transformer, tiny_inputs(), {"sigma_mask": MASKS[3:], "scale": 0.5})
    assert torch.equal(predict(transformer, tiny_inputs(), {"sigma_mask": MASKS[3:], "scale": 0.0}), bare)
    transformer._tlora_scale, transformer._tlora_sigma_mask = 0.5, MASKS[3:]
    assert torch.equal(predict(transformer, tiny_inputs()), half)
    assert not torch.equal(predict(transformer, tiny_inputs(), {"scale": 1.0}), half)


@pytest.mark.parametrize("given", [None, {}, {"sigma_mask": None}])
def test_a_call_without_a_mask_is_refused(given: dict[str, Any] | None) -> None:
    with pytest.raises(MaskError, match=r"set transformer\._tlora_sigma_mask"):
        predict(adapted(), tiny_inputs(), given)


def test_unknown_attention_kwargs_do_not_break_and_the_dict_is_not_touched() -> None:
    transformer = adapted()
    given = {"sigma_mask": MASKS[:1], "scale": 0.5, "somebody_elses": 3}
    expected = predict(transformer, tiny_inputs(), {"sigma_mask": MASKS[:1], "scale": 0.5})
    assert torch.equal(predict(transformer, tiny_inputs(), given), expected)
    assert list(given) == ["sigma_mask", "scale", "somebody_elses"]


def test_attention_kwargs_may_come_by_position() -> None:
    transformer, x = adapted(), tiny_inputs()
    given = (x.packed, x.text, x.pooled, x.timestep / 1000, x.image_ids, torch.zeros(5, 3), x.guidance, {"sigma_mask": MASKS[:1]})
    expected = predict(transformer, x, {"sigma_mask": MASKS[:1]})
    assert torch.equal(transformer(*given, return_dict=False)[0], expected)


def test_patching_twice_changes_nothing() -> None:
    transformer = adapted()
    expected = predict(transformer, tiny_inputs(), {"sigma_mask": MASKS[:1], "scale": 0.5})
    hooks = [len(m._forward_pre_hooks) for m in transformer.modules()]
    transformer._tlora_scale = 0.25
    patch_transformer_forward_for_joint_attention_kwargs(transformer)
    assert [len(m._forward_pre_hooks) for m in transformer.modules()] == hooks
    assert transformer._tlora_scale == 0.25
    assert torch.equal(predict(transformer, tiny_inputs(), {"sigma_mask": MASKS[:1], "scale": 0.5}), expected)


def test_a_patched_transformer_without_an_adapter_is_the_base() -> None:
    transformer, bare = tiny_transformer(), predict(tiny_transformer(), tiny_inputs())
    patch_transformer_forward_for_joint_attention_kwargs(transformer)
    assert torch.equal(predict(transformer, tiny_inputs(), {"sigma_mask": MASKS, "scale": 0.5}), bare)


@pytest.mark.slow
def test_two_processes_with_different_masks_each_see_their_own(tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    torch.multiprocessing.spawn(_check_own_mask, args=(store,), nprocs=2)


def _check_own_mask(process: int, store: str) -> None:
    """Compare a DDP forward and backward with what the same process computes alone."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=process, world_size=2)
    transformer, inputs = adapted(suffixes=("to_q", "proj_out", "norm.linear")).train(), tiny_inputs(2)
    transformer.enable_gradient_checkpointing()
    masks = [MASKS[:2], MASKS[2:]]
    outputs = [predict(transformer, inputs, {"sigma_mask": mask}) for mask in masks]
    alone = [gradients(transformer, loss_of(transformer, inputs, mask)) for mask in masks]
    spread = nn.parallel.DistributedDataParallel(transformer)
    for given in ({"sigma_mask": masks[process]}, None):
        transformer._tlora_sigma_mask = None if given else masks[process]
        output = predict(spread, inputs, given)
        assert torch.equal(output, outputs[process])
        assert not torch.equal(output, outputs[1 - process])
        for shared, one, two in zip(gradients(transformer, output.square().sum()), *alone, strict=True):
            torch.testing.assert_close(shared, (one + two) / 2)
    os._exit(0)  # freeing a process group can wait for ever for a thread of gloo's that waits for Python


@pytest.mark.slow
def test_compiled_blocks_are_not_compiled_again_when_mask_and_timestep_change() -> None:
    torch.multiprocessing.spawn(_check_compiled_blocks)  # in a process of its own: dynamo cannot look through beartype


def _check_compiled_blocks(_process: int) -> None:
    transformer, inputs, later = adapted(), tiny_inputs(4), replace(tiny_inputs(4), timestep=torch.tensor([9.0, 8.0, 7.0, 6.5]))
    expected = [predict(transformer, inputs, {"sigma_mask": MASKS}), predict(transformer, later, {"sigma_mask": MASKS.flip(0)})]
    transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    warm = predict(transformer, inputs, {"sigma_mask": MASKS})
    warm.sum().backward()
    with torch.compiler.set_stance("fail_on_recompile"):
        again = predict(transformer, later, {"sigma_mask": MASKS.flip(0)})
        again.sum().backward()
    torch.testing.assert_close([warm, again], expected)
