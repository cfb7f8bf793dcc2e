"""The estimate against what autograd really keeps of a tiny FLUX, byte by byte."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_flux import LATENT_CHANNELS, POOLED_WIDTH, TEXT_WIDTH, predict, tiny_inputs, tiny_transformer
from tests.tiny_klein import TEXT_WIDTH as KLEIN_TEXT_WIDTH
from tests.tiny_klein import predict_klein, tiny_klein_inputs, tiny_klein_transformer
from tests.tlora.adapted import ATTENTION, EVERY_SUFFIX, SMALL_RUN
from tlora.flux.families import FLUX_2_KLEIN
from tlora.flux.spec import FluxShape
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.training.memory_estimate import Workload, adapter_parameters, estimate_memory

TINY = FluxShape(2, 2, 32, 16, TEXT_WIDTH, POOLED_WIDTH, 4 * LATENT_CHANNELS, True, 2)
ROWS = COLUMNS = 16
LOAD = Workload(ROWS * COLUMNS, 5, "float32", "no")
TINY_KLEIN = FluxShape(2, 2, 32, 16, KLEIN_TEXT_WIDTH, 0, 4 * LATENT_CHANNELS, False, 2, FLUX_2_KLEIN)
EVERY_KLEIN_SUFFIX = tuple(dict.fromkeys(row.name for each in FLUX_2_KLEIN.blocks for row in each.linears))
PASSING = 11  # widths of a token that backward holds for a moment; forward keeps the rest


@pytest.mark.parametrize("guidance", [True, False])
def test_the_shape_knows_the_number_of_weights(guidance: bool) -> None:
    transformer = tiny_transformer(guidance)
    assert replace(TINY, guidance=guidance).parameters == sum(p.numel() for p in transformer.parameters())
    assert round(FluxShape().parameters / 1e9, 2) == 11.90  # FLUX.1-dev


@pytest.mark.parametrize("trainer_type", ["lora", "ortho_lora"])
def test_the_number_of_trained_weights_is_that_of_the_adapter(trainer_type: str) -> None:
    settings = replace(SMALL_RUN, adapter=replace(SMALL_RUN.adapter, trainer_type=trainer_type))
    for targets in (ATTENTION, EVERY_SUFFIX):
        transformer = tiny_transformer()
        inject_tlora_into_transformer(transformer, targets, settings.adapter)
        assert adapter_parameters(TINY, settings, targets) == sum(p.numel() for p in tlora_parameters(transformer))


@pytest.mark.parametrize(
    "targets",
    [
        ATTENTION,
        (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"),
        ("ff.net.0.proj", "ff.net.2", "proj_mlp", "proj_out"),
        EVERY_SUFFIX,
    ],
)
def test_what_a_forward_keeps_for_backward_is_what_was_estimated(targets: tuple[str, ...]) -> None:
    estimate = estimate_memory(TINY, SMALL_RUN, targets, LOAD)
    passing = PASSING * (LOAD.image_tokens + LOAD.text_tokens) * TINY.width * 4 * 4
    assert kept_of_flux(targets) == pytest.approx(estimate.activations - passing, rel=0.15)


@pytest.mark.parametrize(
    "targets",
    [
        (*ATTENTION, "to_qkv_mlp_proj"),
        (*ATTENTION, "to_qkv_mlp_proj", "attn.to_out"),
        ("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out", "to_qkv_mlp_proj"),
        EVERY_KLEIN_SUFFIX,
    ],
)
def test_what_a_forward_of_klein_keeps_for_backward_is_what_was_estimated(targets: tuple[str, ...]) -> None:
    estimate, transformer = estimate_memory(TINY_KLEIN, SMALL_RUN, targets, LOAD), tiny_klein_transformer()
    assert TINY_KLEIN.parameters == sum(p.numel() for p in transformer.parameters())
    passing = FLUX_2_KLEIN.passing * (LOAD.image_tokens + LOAD.text_tokens) * TINY.width * 4 * 4
    inputs = tiny_klein_inputs(4, rows=ROWS, columns=COLUMNS)
    kept = kept_bytes(targets, transformer, lambda: predict_klein(transformer, inputs, {"sigma_mask": torch.ones(4, 2)}))
    assert kept == pytest.approx(estimate.activations - passing, rel=0.15)
    assert adapter_parameters(TINY_KLEIN, SMALL_RUN, targets) == sum(p.numel() for p in tlora_parameters(transformer))


def kept_of_flux(targets: tuple[str, ...]) -> int:
    transformer, inputs = tiny_transformer(), tiny_inputs(4, rows=ROWS, columns=COLUMNS)
    return kept_bytes(targets, transformer, lambda: predict(transformer, inputs, {"sigma_mask": torch.ones(4, 2)}))


def kept_bytes(targets: tuple[str, ...], transformer: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Return the bytes that autograd keeps of one forward of four samples, each storage once, weights left out."""
    transformer.train()
    inject_tlora_into_transformer(transformer, targets, SMALL_RUN.adapter, leave_blocks_out=True)
    weights = {t.untyped_storage().data_ptr() for t in (*transformer.parameters(), *transformer.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction = forward()
    assert prediction.requires_grad
    return sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)


def test_the_fewer_blocks_are_recomputed_the_more_is_held() -> None:
    load = Workload(1024, 77, "bfloat16", "no")
    loops = [replace(SMALL_RUN, loop=replace(SMALL_RUN.loop, gradient_checkpointing=every)) for every in (True, 2, 4, False)]
    needed = [estimate_memory(FluxShape(), settings, ATTENTION, load).activations for settings in loops]
    assert needed == sorted(needed)
    assert needed[3] / needed[0] > 5
    assert needed[1] / needed[3] == pytest.approx(0.55, abs=0.05)  # half of the blocks, and the entries of the others
