"""FLUX.2 klein: the mask reaches double and fused single blocks, each sample's its own, whoever recomputes or compiles."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from tests.tiny_flux import tiny_transformer
from tests.tiny_klein import KleinInputs, predict_klein, tiny_klein_inputs, tiny_klein_transformer
from tests.tlora.adapted import CFG, MASKS, ORTHO, gradients
from tlora.errors import InjectionError
from tlora.flux.families import FLUX_2_KLEIN
from tlora.inject import (
    adapter_layers,
    eject_tlora_from_transformer,
    find_targets,
    inject_tlora_into_transformer,
    require_targets,
    tlora_parameters,
)
from tlora.merge import merged_weights
from tlora.metadata.config import TLoRAConfig
from tlora.schedule import RankSchedule
from tlora.training.recompute import recompute_blocks

EVERY_SUFFIX = tuple(dict.fromkeys(row.name for each in FLUX_2_KLEIN.blocks for row in each.linears))


def adapted(cfg: TLoRAConfig = CFG, suffixes: tuple[str, ...] = EVERY_SUFFIX) -> nn.Module:
    """Return a tiny klein with an adapter whose every weight has moved."""
    transformer = tiny_klein_transformer()
    inject_tlora_into_transformer(transformer, suffixes, cfg, leave_blocks_out=True)
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tlora_parameters(transformer):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return transformer


def loss_of(transformer: nn.Module, inputs: KleinInputs, mask: Tensor) -> Tensor:
    return predict_klein(transformer, inputs, {"sigma_mask": mask}).square().sum()


def test_the_table_names_every_linear_of_the_blocks_once() -> None:
    inside = [n for n, m in tiny_klein_transformer().named_modules() if isinstance(m, nn.Linear) and "transformer_blocks" in n]
    assert sorted(find_targets(tiny_klein_transformer(), EVERY_SUFFIX)) == sorted(inside)
    assert len(inside) == 2 * 12 + 2 * 2


@pytest.mark.parametrize("suffix", ["to_qkv_mlp_proj", "to_out", "to_out.0", "to_add_out", "linear_in", "ff_context.linear_out"])
@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_a_batch_of_mixed_timesteps_equals_batches_of_one_in_blocks_of_either_kind(cfg: TLoRAConfig, suffix: str) -> None:
    transformer, inputs = adapted(cfg, (suffix,)), tiny_klein_inputs(4)
    masks = RankSchedule(4, 1).mask(inputs.timestep)
    together = predict_klein(transformer, inputs, {"sigma_mask": masks})
    for i in range(4):
        alone = predict_klein(transformer, inputs.sample(i), {"sigma_mask": masks[i : i + 1]})
        torch.testing.assert_close(together[i], alone[0])
    first_for_all = predict_klein(transformer, inputs, {"sigma_mask": masks[:1]})
    assert not torch.allclose(together[3], first_for_all[3], rtol=1e-3)


def test_every_layer_learns_and_checkpointing_changes_no_bit_with_a_second_forward_in_between() -> None:
    transformer, other = adapted().train(), MASKS.flip(0)
    inputs = tiny_klein_inputs(4)
    plain = gradients(transformer, loss_of(transformer, inputs, MASKS), loss_of(transformer, inputs, other))
    assert all(bool(grad.any()) for grad in plain)
    for recompute in (transformer.enable_gradient_checkpointing, lambda: recompute_blocks(transformer, 2)):
        recompute()
        first, second = loss_of(transformer, inputs, MASKS), loss_of(transformer, inputs, other)
        assert all(torch.equal(a, b) for a, b in zip(plain, gradients(transformer, first, second), strict=True))


def test_attention_kwargs_may_come_by_position_and_reach_diffusers_without_the_mask() -> None:
    transformer, x, zero = adapted(), tiny_klein_inputs(), torch.zeros(1)
    text_ids = torch.cartesian_prod(zero, zero, zero, torch.arange(5.0))
    given = (x.packed, x.text, x.timestep / 1000, x.image_ids, text_ids, None, {"sigma_mask": MASKS[:1]}, False)
    assert torch.equal(transformer(*given)[0], predict_klein(transformer, x, {"sigma_mask": MASKS[:1]}))


def test_inject_then_eject_gives_the_same_bits() -> None:
    transformer, inputs = tiny_klein_transformer(), tiny_klein_inputs()
    before, bare = dict(transformer.named_modules()), predict_klein(transformer, inputs)
    inject_tlora_into_transformer(transformer, EVERY_SUFFIX, CFG)
    assert torch.equal(predict_klein(transformer, inputs, {"sigma_mask": MASKS[:1]}), bare)
    eject_tlora_from_transformer(transformer)
    assert dict(transformer.named_modules()) == before
    assert torch.equal(predict_klein(transformer, inputs), bare)


def test_merged_weights_draw_what_the_layers_do() -> None:
    transformer, inputs = adapted(), tiny_klein_inputs()
    with torch.no_grad():
        unmerged = predict_klein(transformer, inputs, {"sigma_mask": MASKS[1:2], "scale": 0.5})
        with merged_weights(transformer):
            merged = predict_klein(transformer, inputs, {"sigma_mask": MASKS[1:2], "scale": 0.5})
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_blocks_are_not_compiled_again_when_mask_and_timestep_change() -> None:
    torch.multiprocessing.spawn(_check_compiled_blocks)  # in a process of its own: dynamo cannot look through beartype


def _check_compiled_blocks(_process: int) -> None:
    transformer, inputs = adapted(), tiny_klein_inputs(4)
    later = replace(inputs, timestep=torch.tensor([9.0, 8.0, 7.0, 6.5]))
    calls = ((inputs, MASKS), (later, MASKS.flip(0)))
    expected = [predict_klein(transformer, given, {"sigma_mask": mask}) for given, mask in calls]
    transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    warm = predict_klein(transformer, inputs, {"sigma_mask": MASKS})
    warm.sum().backward()
    with torch.compiler.set_stance("fail_on_recompile"):
        again = predict_klein(transformer, later, {"sigma_mask": MASKS.flip(0)})
        again.sum().backward()
    torch.testing.assert_close([warm, again], expected)


@pytest.mark.slow
def test_two_processes_with_different_masks_each_see_their_own(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_check_own_mask, args=(f"file://{tmp_path}/store",), nprocs=2)


def _check_own_mask(process: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=process, world_size=2)
    transformer, inputs = adapted().train(), tiny_klein_inputs(2)
    transformer.enable_gradient_checkpointing()
    masks = [MASKS[:2], MASKS[2:]]
    outputs = [predict_klein(transformer, inputs, {"sigma_mask": mask}) for mask in masks]
    alone = [gradients(transformer, loss_of(transformer, inputs, mask)) for mask in masks]
    spread = nn.parallel.DistributedDataParallel(transformer)
    output = predict_klein(spread, inputs, {"sigma_mask": masks[process]})
    assert torch.equal(output, outputs[process])
    assert not torch.equal(output, outputs[1 - process])
    for shared, one, two in zip(gradients(transformer, output.square().sum()), *alone, strict=True):
        torch.testing.assert_close(shared, (one + two) / 2)
    os._exit(0)  # freeing a process group can wait for ever for a thread of gloo's that waits for Python


def test_targets_that_miss_all_single_blocks_are_refused_with_the_list_that_would_do() -> None:
    transformer = tiny_klein_transformer()
    attention = ("to_q", "to_k", "to_v")
    line = (
        r"target_modules: \[to_q, to_k, to_v\] leaves all 2 single_transformer_blocks untouched:"
        r" use \[to_q, to_k, to_v, to_qkv_mlp_proj, to_out\], or set leave_blocks_out to true"
    )
    for refusing in (require_targets, inject_tlora_into_transformer):
        with pytest.raises(InjectionError, match=line):
            refusing(transformer, attention, CFG)
    assert not adapter_layers(transformer)
    assert all(parameter.requires_grad for parameter in transformer.parameters())
    require_targets(transformer, (*attention, "to_qkv_mlp_proj", "to_out"), CFG)
    require_targets(transformer, attention, CFG, leave_blocks_out=True)
    assert inject_tlora_into_transformer(transformer, attention, CFG, leave_blocks_out=True) == 3 * 2


def test_targets_that_miss_all_double_blocks_are_refused_for_flux_1_too() -> None:
    for refusing in (require_targets, inject_tlora_into_transformer):
        with pytest.raises(
            InjectionError, match=r"leaves all 2 transformer_blocks untouched: use \[proj_out, to_q, to_k, to_v\]"
        ):
            refusing(tiny_transformer(), ("proj_out",), CFG)
    require_targets(tiny_transformer(), ("to_q", "to_k", "to_v"), replace(CFG, rank=2))


def test_a_network_of_no_family_is_refused() -> None:
    network = nn.ModuleDict({"transformer_blocks": nn.ModuleList([nn.Linear(8, 8)])})
    with pytest.raises(InjectionError, match="a ModuleDict is no transformer that a T-LoRA is known for"):
        require_targets(network, ("0",), CFG)


def test_layers_that_read_the_same_tensor_share_a_product_in_double_blocks() -> None:
    layers = adapter_layers(adapted())
    assert layers["transformer_blocks.0.attn.to_q"].shared is layers["transformer_blocks.0.attn.to_v"].shared is not None
    assert layers["single_transformer_blocks.0.attn.to_qkv_mlp_proj"].shared is None
