"""What of a real tiny FLUX is wrapped, and that it all comes out again."""

import copy

import pytest
import torch
from torch import nn

from tests.tiny_flux import predict, tiny_inputs, tiny_transformer
from tests.tlora.adapted import ATTENTION, CFG, EVERY_SUFFIX, MASKS, ORTHO, adapted, gradients, loss_of
from tests.tlora.test_adapter import Int8Linear
from tlora.adapter import TLoRALinear
from tlora.errors import InjectionError
from tlora.inject import (
    adapter_layers,
    eject_tlora_from_transformer,
    find_targets,
    inject_tlora_into_transformer,
    tlora_parameters,
)
from tlora.metadata.config import TLoRAConfig


def test_the_number_of_wrapped_layers_is_returned() -> None:
    assert inject_tlora_into_transformer(tiny_transformer(), ATTENTION, CFG) == 3 * 4  # two double blocks, two single ones


def test_a_suffix_is_whole_parts_of_a_name() -> None:
    assert find_targets(tiny_transformer(blocks=1), ["net.2"]) == [
        "transformer_blocks.0.ff.net.2",
        "transformer_blocks.0.ff_context.net.2",
    ]


def test_suffixes_that_overlap_wrap_a_layer_once() -> None:
    assert inject_tlora_into_transformer(tiny_transformer(blocks=1), ["to_q", "attn.to_q"], CFG) == 2


def test_every_linear_of_the_blocks_can_be_adapted_and_learns() -> None:
    transformer = adapted()
    inside = [n for n, m in tiny_transformer().named_modules() if isinstance(m, nn.Linear) and "transformer_blocks" in n]
    assert list(adapter_layers(transformer)) == inside
    grads = gradients(transformer, loss_of(transformer, tiny_inputs(2), MASKS[2:]))
    assert all(bool(grad.any()) for grad in grads)


def test_proj_out_is_that_of_the_single_blocks_and_not_of_the_whole_transformer() -> None:
    assert find_targets(tiny_transformer(), ["proj_out"]) == [
        "single_transformer_blocks.0.proj_out",
        "single_transformer_blocks.1.proj_out",
    ]


@pytest.mark.parametrize("suffix", ["norm_out.linear", "x_embedder", "context_embedder", "timestep_embedder.linear_1"])
def test_a_linear_outside_the_blocks_is_refused_by_name(suffix: str) -> None:
    with pytest.raises(InjectionError, match=rf"'{suffix}' is \S*{suffix}, outside the blocks, where no sigma mask arrives"):
        find_targets(tiny_transformer(), ["to_q", suffix])


@pytest.mark.parametrize(
    ("suffix", "hint"),
    [
        ("to_out", r"did you mean 'to_out\.0'"),
        ("qkv", r"\(known: norm1\.linear, "),
        ("to_qq", "did you mean 'to_q'"),
        ("", "known: "),
    ],
)
def test_a_suffix_that_matches_nothing_is_refused_with_the_nearest_one(suffix: str, hint: str) -> None:
    with pytest.raises(InjectionError, match=f"target_modules: '{suffix}' matches no Linear of the blocks.*{hint}"):
        find_targets(tiny_transformer(), [suffix])


def test_no_suffix_at_all_is_refused() -> None:
    with pytest.raises(InjectionError, match="target_modules is empty"):
        find_targets(tiny_transformer(), [])


def test_a_second_adapter_is_refused() -> None:
    transformer = adapted()
    with pytest.raises(InjectionError, match="already carries an adapter: eject it first"):
        inject_tlora_into_transformer(transformer, ATTENTION, CFG)


def test_a_refused_injection_names_the_layer_and_leaves_the_transformer_as_it_was() -> None:
    transformer = tiny_transformer()
    before = dict(transformer.named_modules())
    with pytest.raises(InjectionError, match=r"blocks\.0\.norm1\.linear: rank 33 is larger than a layer of 32 x 192 can hold"):
        inject_tlora_into_transformer(transformer, ["norm1.linear"], TLoRAConfig(rank=33), leave_blocks_out=True)
    assert dict(transformer.named_modules()) == before
    assert all(p.requires_grad for p in transformer.parameters())
    assert predict(transformer, tiny_inputs()).shape == (1, 12, 16)


def test_a_quantised_linear_that_is_no_nn_linear_is_found_and_wrapped() -> None:
    transformer = tiny_transformer()
    attention = transformer.transformer_blocks[0].attn
    attention.to_q = Int8Linear(attention.to_q)
    assert inject_tlora_into_transformer(transformer, ["to_q"], CFG) == 4
    assert isinstance(attention.to_q, TLoRALinear)
    assert torch.isfinite(predict(transformer, tiny_inputs(), {"sigma_mask": MASKS[:1]})).all()


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_a_fresh_adapter_predicts_exactly_what_the_base_does(cfg: TLoRAConfig) -> None:
    transformer, inputs = tiny_transformer(), tiny_inputs(4)
    bare = predict(transformer, inputs)
    inject_tlora_into_transformer(transformer, EVERY_SUFFIX, cfg)
    assert torch.equal(predict(transformer, inputs, {"sigma_mask": MASKS}), bare)


@pytest.mark.parametrize("cfg", [CFG, ORTHO], ids=["lora", "ortho_lora"])
def test_inject_then_eject_restores_the_bits_and_the_very_modules(cfg: TLoRAConfig) -> None:
    transformer = tiny_transformer()
    transformer.x_embedder.requires_grad_(False)
    modules, bits = dict(transformer.named_modules()), copy.deepcopy(transformer.state_dict())
    thawed = {name for name, p in transformer.named_parameters() if p.requires_grad}
    attributes, prediction = set(vars(transformer)), predict(transformer, tiny_inputs())
    inject_tlora_into_transformer(transformer, EVERY_SUFFIX, cfg)
    optimizer = torch.optim.SGD(tlora_parameters(transformer), lr=1.0)
    loss_of(transformer, tiny_inputs(4), MASKS).backward()
    optimizer.step()
    assert eject_tlora_from_transformer(transformer) == 40
    assert list(transformer.state_dict()) == list(bits)
    assert all(torch.equal(tensor, bits[name]) for name, tensor in transformer.state_dict().items())
    assert all(module is modules[name] for name, module in transformer.named_modules())
    assert {name for name, p in transformer.named_parameters() if p.requires_grad} == thawed
    assert set(vars(transformer)) == attributes
    assert not any(block._forward_pre_hooks or block._forward_hooks for block in transformer.modules())
    assert torch.equal(predict(transformer, tiny_inputs()), prediction)


def test_a_copy_of_an_adapted_transformer_stands_on_its_own() -> None:
    transformer = adapted()
    twin = copy.deepcopy(transformer)
    expected = predict(transformer, tiny_inputs(4), {"sigma_mask": MASKS})
    assert eject_tlora_from_transformer(transformer) == 40
    assert torch.equal(predict(twin, tiny_inputs(4), {"sigma_mask": MASKS}), expected)
    assert eject_tlora_from_transformer(twin) == 40


def test_only_the_adapter_is_trainable_and_yielded() -> None:
    transformer = adapted(suffixes=("to_q",))
    trainable = {name for name, p in transformer.named_parameters() if p.requires_grad}
    assert len(list(tlora_parameters(transformer))) == len(trainable) == 2 * 4
    assert all(name.endswith(("to_q.down.weight", "to_q.up.weight")) for name in trainable)


def test_the_mode_of_the_transformer_is_the_mode_of_its_adapter() -> None:
    """Layers injected into a model in use would otherwise drop inputs out while it draws."""
    transformer = tiny_transformer().eval()
    inject_tlora_into_transformer(transformer, ["to_q"], TLoRAConfig(rank=4, min_rank=1, dropout=0.5))
    assert not any(module.training for module in transformer.modules())


def test_changing_mode_or_type_does_not_recurse_into_itself() -> None:
    transformer = adapted()
    assert transformer.train().training
    assert not transformer.eval().training
    assert transformer.bfloat16().dtype == torch.bfloat16


def test_the_mask_attribute_is_no_part_of_the_state() -> None:
    transformer = adapted()
    names = set(transformer.state_dict())
    transformer._tlora_sigma_mask = MASKS
    assert set(transformer.state_dict()) == names
    assert "_tlora_sigma_mask" not in dict(transformer.named_buffers())


@pytest.mark.parametrize("suffixes", [ATTENTION, ("add_q_proj",)])
def test_projections_beside_which_fused_ones_compute_are_refused(suffixes: tuple[str, ...]) -> None:
    transformer = tiny_transformer()
    transformer.fuse_qkv_projections()
    with pytest.raises(
        InjectionError, match=r"is not in use since fuse_qkv_projections\(\): call unfuse_qkv_projections\(\) first"
    ):
        inject_tlora_into_transformer(transformer, suffixes, CFG)
    assert inject_tlora_into_transformer(transformer, ["to_out.0"], CFG, leave_blocks_out=True) == 2
    transformer.unfuse_qkv_projections()
    assert len(find_targets(transformer, suffixes)) > 0
