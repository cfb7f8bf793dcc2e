"""A base held in 8 or 4 bits, trained and drawn with as any other: on the CPU, with the real library."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from tests.tiny_flux import LATENT_CHANNELS, predict, tiny_inputs, tiny_transformer
from tests.tlora.adapted import EVERY_SUFFIX, MASKS, ORTHO
from tests.tlora.training.test_loop import SETTINGS, read_prompts, run, views, weights, with_loop
from tlora.checkpoint import adapter_tensors, load_tlora_weights, save_tlora_weights
from tlora.drawing.setup import DrawingSetup
from tlora.errors import MergeError, ModelError
from tlora.flux.files import require_base
from tlora.flux.model import Conditioning, load_transformer, predict_velocity
from tlora.flux.quantise import plain_weight, quantise_blocks
from tlora.flux.spec import FluxShape, ModelSpec, Quantisation
from tlora.inject import eject_tlora_from_transformer, inject_tlora_into_transformer, tlora_parameters
from tlora.merge import merged_weights
from tlora.metadata.adapter import AdapterMetadata
from tlora.training.loop import Training
from tlora.training.memory_estimate import weight_bytes
from tlora.training.settings import TrainingSettings
from tlora.training.weight_change import relative_change

KINDS: tuple[Quantisation, ...] = ("int8", "nf4")
CPU = torch.device("cpu")
POCKET = "models/pocket-flux"


def quantised(kind: Quantisation, blocks: int = 2) -> nn.Module:
    transformer = tiny_transformer(blocks=blocks).requires_grad_(False)
    for name in ("transformer_blocks", "single_transformer_blocks"):
        quantise_blocks(transformer.get_submodule(name), kind, CPU)
    return transformer


def quantised_linear(kind: Quantisation, dtype: torch.dtype = torch.float32) -> nn.Module:
    source = torch.Generator().manual_seed(0)
    holder = nn.Sequential(nn.Linear(96, 64)).requires_grad_(False)
    for parameter in holder.parameters():
        parameter.normal_(generator=source)
    holder.to(dtype)
    quantise_blocks(holder, kind, CPU)
    return holder[0]


def prepare(kind: Quantisation, settings: TrainingSettings = SETTINGS) -> Training:
    transformer = quantised(kind)
    inject_tlora_into_transformer(transformer, ["to_q", "to_v", "proj_out"], settings.adapter)
    return Training(transformer, settings, Accelerator(cpu=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_layer_computes_and_differentiates_as_one_with_the_restored_weight(kind: Quantisation) -> None:
    layer = quantised_linear(kind)
    weight = plain_weight(layer)
    assert weight is not None
    x, direction = torch.randn(2, 5, 96, requires_grad=True), torch.randn(2, 5, 64)
    expected = F.linear(x, weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    mine, theirs = (torch.autograd.grad(out, x, direction)[0] for out in (layer(x), expected))
    torch.testing.assert_close(mine, theirs)


def test_int8_rounds_each_row_to_127_steps_either_way() -> None:
    layer = quantised_linear("int8")
    weight = nn.Linear(96, 64).weight.data.normal_(generator=torch.Generator().manual_seed(0))
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    torch.testing.assert_close(layer.scale.data, step)
    assert bool(((plain_weight(layer) - weight).abs() <= step / 2 + 1e-6).all())


def test_int8_keeps_for_backward_nothing_but_its_codes() -> None:
    layer, kept = quantised_linear("int8"), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(2, 96, requires_grad=True))
    assert {tensor.data_ptr() for tensor in kept} == {layer.weight.data_ptr(), layer.scale.data_ptr()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_answers_in_the_type_of_the_input_and_in_autocasts_where_that_is_on(kind: Quantisation, dtype: torch.dtype) -> None:
    layer = quantised_linear(kind, dtype)
    assert layer(torch.randn(2, 96, dtype=dtype)).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(2, 96, requires_grad=True)
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_a_quantised_base_learns_and_moves_the_adapter_alone(kind: Quantisation) -> None:
    training = prepare(kind, with_loop(max_train_steps=30, gradient_checkpointing=True))
    before = {n: p.clone() for n, p in training.transformer.named_parameters() if not p.requires_grad}
    first = fixed_loss(training.transformer)
    losses = run(training, views()[:1])
    assert all(torch.equal(p, before[n]) for n, p in training.transformer.named_parameters() if n in before)
    trained = set(map(id, tlora_parameters(training.transformer)))
    assert trained == {id(p) for p in training.transformer.parameters() if p.requires_grad}
    assert len(losses) == 30
    assert fixed_loss(training.transformer) < 0.95 * first


@torch.no_grad()
def fixed_loss(transformer: nn.Module) -> float:
    """Return the loss on the first view at four noise levels, each with the mask of that level."""
    (view,) = views()[:1]
    noise = torch.randn(4, LATENT_CHANNELS, 6, 6, generator=torch.Generator().manual_seed(9))
    sigma = torch.tensor([0.9, 0.7, 0.4, 0.2])
    mixed = (1 - sigma[:, None, None, None]) * view.mean + sigma[:, None, None, None] * noise
    conditioning = Conditioning(*read_prompts([view.caption] * 4), 1.0)
    mask = SETTINGS.adapter.schedule().mask(1000 * sigma)
    prediction = predict_velocity(transformer, mixed, 1000 * sigma, conditioning, mask)
    return F.mse_loss(prediction, noise - view.mean).item()


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_is_exact_and_a_picture_drawn_in_between_changes_nothing(kind: Quantisation) -> None:
    unbroken, broken, resumed = (prepare(kind) for _ in range(3))
    expected = run(unbroken)
    run(broken, until=4)
    broken.transformer.eval()
    fixed_loss(broken.transformer)  # as a preview does; some kernels would repack the weights here, for good
    broken.transformer.train()
    tensors, plain = broken.state()
    resumed.restore({name: tensor.clone() for name, tensor in tensors.items()}, plain)
    assert run(resumed) == expected[4:] == run(broken)
    for name, tensor in weights(unbroken).items():
        assert torch.equal(weights(resumed)[name], tensor)
        assert torch.equal(weights(broken)[name], tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_is_under_its_own_mask(kind: Quantisation) -> None:
    transformer, inputs = quantised(kind), tiny_inputs(4)
    inject_tlora_into_transformer(transformer, EVERY_SUFFIX, SETTINGS.adapter)
    with torch.no_grad():
        for parameter in tlora_parameters(transformer):
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    together = predict(transformer, inputs, {"sigma_mask": MASKS})
    for i in range(4):
        alone = predict(transformer, inputs.sample(i), {"sigma_mask": MASKS[i : i + 1]})
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(predict(transformer, inputs, {"sigma_mask": MASKS.flip(0)}), together, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_is_saved_as_any_other_and_loads_on_the_plain_base(kind: Quantisation, tmp_path: Path) -> None:
    training, plain = prepare(kind), tiny_transformer()
    run(training, until=2)
    targets = ("to_q", "to_v", "proj_out")
    about = AdapterMetadata(SETTINGS.adapter, targets, base_quantisation=kind)
    save_tlora_weights(training.transformer, tmp_path / "tlora_weights.safetensors", about)
    inject_tlora_into_transformer(plain, targets, SETTINGS.adapter, seed=None)
    assert load_tlora_weights(plain, tmp_path).base_quantisation == kind
    assert {n: (t.shape, t.dtype) for n, t in adapter_tensors(plain).items()} == {
        n: (t.shape, t.dtype) for n, t in weights(training).items()
    }
    assert all(torch.equal(tensor, weights(training)[name]) for name, tensor in adapter_tensors(plain).items())
    assert relative_change(training.transformer).keys() == relative_change(plain).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_ortho_factors_are_those_of_the_restored_weight_and_ejecting_puts_the_quantised_layers_back(kind: Quantisation) -> None:
    transformer, inputs = quantised(kind), tiny_inputs(2)
    before, bare = dict(transformer.named_modules()), predict(transformer, inputs)
    inject_tlora_into_transformer(transformer, ["to_q"], ORTHO)
    layer = transformer.transformer_blocks[0].attn.to_q
    values = torch.linalg.svdvals(plain_weight(layer.base))
    torch.testing.assert_close(layer.base_lambda, values[: ORTHO.rank])
    torch.testing.assert_close(predict(transformer, inputs, {"sigma_mask": MASKS[:2]}), bare)
    eject_tlora_from_transformer(transformer)
    assert dict(transformer.named_modules()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_merging_into_a_quantised_base_is_refused_and_so_is_offloading_it_layer_by_layer(kind: Quantisation) -> None:
    transformer = quantised(kind)
    inject_tlora_into_transformer(transformer, ["to_q"], SETTINGS.adapter)
    with (
        pytest.raises(MergeError, match="is quantised, and merging would round it again: draw unmerged"),
        merged_weights(transformer),
    ):
        pass
    spec = ModelSpec("base", quantisation=kind)
    for how in ({"merge": "yes"}, {"offload": "sequential"}):
        with pytest.raises(ValueError, match="take a base that is not quantised: quantisation: none"):
            DrawingSetup(spec, (Path("a"),), (1.0,), 77, **how)


def test_a_missing_library_is_one_line_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    require_base(ModelSpec(POCKET, quantisation="int8"))
    with pytest.raises(
        ModelError, match=r"nf4 needs the package bitsandbytes: pip install 'flux-tlora\[quantised\]', or use int8"
    ):
        require_base(ModelSpec(POCKET, quantisation="nf4"))


@pytest.fixture(scope="module")
def pocket_inputs() -> tuple[Tensor, Tensor, Conditioning]:
    source = torch.Generator().manual_seed(0)
    text = torch.randn(2, 20, 128, generator=source), torch.randn(2, 128, generator=source)
    return torch.randn(2, 16, 16, 16, generator=source), torch.tensor([900.0, 300.0]), Conditioning(*text, 1.0)


@pytest.mark.parametrize(("kind", "least", "most"), [("int8", 0.001, 0.03), ("nf4", 0.02, 0.3)])
def test_the_pocket_predicts_nearly_what_it_did_and_holds_what_was_estimated(
    kind: Quantisation, least: float, most: float, pocket_inputs: tuple[Tensor, Tensor, Conditioning]
) -> None:
    plain, held = (load_transformer(ModelSpec(POCKET, "", "float32", "cpu", how)) for how in ("none", kind))
    with torch.no_grad():
        exact, rounded = (predict_velocity(transformer, *pocket_inputs) for transformer in (plain, held))
    assert least < float((rounded - exact).norm() / exact.norm()) < most
    shape = FluxShape(2, 4, 128, 32, 128, 128, 64, True, 4)
    assert weight_bytes(shape, "float32", kind) == pytest.approx(held_bytes(held), rel=1e-6)
    assert held_bytes(held) < held_bytes(plain) / 3


def held_bytes(transformer: nn.Module) -> int:
    """Return what all weights take, with what bitsandbytes keeps beside a weight."""
    tensors = [*transformer.parameters(), *transformer.buffers()]
    states = [tensor.quant_state for tensor in tensors if hasattr(tensor, "quant_state")]
    tensors += [t for state in states for t in (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)]
    return sum(storage.nbytes() for storage in {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}.values())
