"""Several adapters on one transformer: updates add up exactly, each under its own mask and scale, and all come out again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_flux import predict, tiny_inputs, tiny_pipeline_folder, tiny_transformer
from tests.tlora.commands.workplace import adapter_file
from tlora.adapter import build_layer
from tlora.checkpoint import adapter_tensors, attach_adapter
from tlora.flux.model import load_scheduler, load_transformer, load_vae
from tlora.flux.spec import ModelSpec
from tlora.inject import adapter_layers, eject_tlora_from_transformer
from tlora.metadata.config import TLoRAConfig
from tlora.sampling import Painter, SampleSettings, draw_pictures, step_masks

FIRST = TLoRAConfig(rank=4, min_rank=1, alpha=4)
SECOND = TLoRAConfig(rank=6, min_rank=3, alpha=2, trainer_type="ortho_lora", svd_source="random")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two adapters that share some targets and not others."""
    return (
        adapter_file(tmp_path / "1.safetensors", FIRST, ("to_q", "to_k"), 1),
        adapter_file(tmp_path / "2.safetensors", SECOND, ("to_k", "to_v"), 2),
    )


def test_the_updates_of_a_layer_add_up_each_under_its_own_mask_and_scale() -> None:
    source = torch.Generator().manual_seed(0)
    base = nn.Linear(8, 8)
    inner = build_layer(base, FIRST, source)
    outer = build_layer(inner, SECOND, source)
    for layer in (inner, outer):
        for parameter in layer.parameters():
            parameter.data = torch.randn(parameter.shape, generator=source)
    x = torch.randn(2, 3, 8, generator=source)
    masks = [FIRST.schedule().mask(torch.tensor([700.0])), SECOND.schedule().mask(torch.tensor([700.0]))]

    inner.arm(masks[0], 0.5)
    outer.arm(masks[1], 2.0)
    with torch.no_grad():
        torch.testing.assert_close(outer(x), base(x) + inner._update(x) + outer._update(x))


def test_each_one_alone_is_what_it_is_without_the_other(files: tuple[Path, Path]) -> None:
    inputs, timestep = tiny_inputs(), torch.tensor([600.0])
    masks = tuple(cfg.schedule().mask(timestep) for cfg in (FIRST, SECOND))
    both = tiny_transformer()
    for slot, file in enumerate(files):
        attach_adapter(both, file, slot)
    assert len(adapter_layers(both)) == 4 * 4
    for slot, file in enumerate(files):
        alone = tiny_transformer()
        attach_adapter(alone, file)
        scales = tuple(float(slot == other) for other in (0, 1))
        expected = predict(alone, inputs, {"sigma_mask": masks[slot]})
        assert torch.allclose(predict(both, inputs, {"sigma_mask": masks, "scale": scales}), expected, atol=1e-6)
        assert {name: tensor.sum() for name, tensor in adapter_tensors(both, slot).items()} == {
            name: tensor.sum() for name, tensor in adapter_tensors(alone).items()
        }
    assert not torch.allclose(predict(both, inputs, {"sigma_mask": masks}), expected, atol=1e-3)


def test_all_come_out_again_bit_for_bit(files: tuple[Path, Path]) -> None:
    transformer, inputs = tiny_transformer(), tiny_inputs()
    before, names = predict(transformer, inputs), [name for name, _ in transformer.named_modules()]
    for slot, file in enumerate(files):
        attach_adapter(transformer, file, slot)
    assert eject_tlora_from_transformer(transformer) == 16
    assert [name for name, _ in transformer.named_modules()] == names
    assert torch.equal(predict(transformer, inputs), before)


def test_drawing_gives_each_the_mask_of_its_own_schedule(files: tuple[Path, Path], tmp_path: Path) -> None:
    spec = ModelSpec(str(tiny_pipeline_folder(tmp_path / "tiny")), dtype="float32")
    transformer = load_transformer(spec)
    for slot, file in enumerate(files):
        attach_adapter(transformer, file, slot)
    settings = SampleSettings(16, 16, num_inference_steps=3)
    masks = step_masks(transformer, torch.tensor([1000.0, 500.0, 0.0]), settings)
    assert isinstance(masks, tuple)
    assert [mask.sum(dim=1).tolist() for mask in masks if mask is not None] == [[1, 2, 4], [3, 4, 6]]

    def draw(*strengths: float) -> Tensor:
        painter = Painter(transformer, load_vae(spec), load_scheduler(spec), strengths=strengths)
        embeddings = (torch.ones(1, 5, 24), torch.ones(1, 16))
        (picture,) = draw_pictures(painter, embeddings, [0], replace(settings, lora_scale=2.0))
        return torch.tensor(list(picture.tobytes()))

    assert not torch.equal(draw(1.0, 1.0), draw(1.0, 0.5))
