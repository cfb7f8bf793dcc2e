"""Tiny random evaluators, saved and loaded as the real ones are."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BitImageProcessorPil, CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from tlora.errors import ModelError
from tlora.evaluation.evaluator import embed_pictures, load_dinov2, load_evaluator

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
RED, BLUE = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**SHAPE)).save_pretrained(folder)
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    BitImageProcessorPil(**size).save_pretrained(folder)
    return folder


def test_a_dinov2_from_a_folder_gives_unit_embeddings_of_its_class_token(dinov2: Path) -> None:
    encoder = load_dinov2(str(dinov2))
    seen = embed_pictures(encoder, [RED, BLUE, RED], batch=2)
    assert seen.shape == (3, 16)
    assert seen.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    assert torch.allclose(seen[0], seen[2], atol=1e-6)
    assert float(seen[0] @ seen[1]) < 0.999
    pixels = encoder.processor([RED], return_tensors="pt")["pixel_values"]
    token = Dinov2Model.from_pretrained(dinov2).eval()(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.allclose(seen[:1], token / token.norm(dim=1, keepdim=True), atol=1e-5)


def test_an_evaluator_that_is_not_there_is_one_line_that_names_its_setting() -> None:
    with pytest.raises(ModelError, match=r"nowhere: no evaluator there$"):
        load_evaluator("./nowhere")
    with pytest.raises(ModelError, match=r"nowhere: no evaluator there$"):
        load_dinov2("./nowhere")


def test_a_folder_of_another_model_is_one_line(tmp_path: Path, dinov2: Path) -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    CLIPModel(CLIPConfig(text_config=small, vision_config={**small, "image_size": 28, "patch_size": 14})).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError, match=r"is a clip, not a dinov2"):
        load_dinov2(str(tmp_path))
    with pytest.raises(ModelError, match=r"is a dinov2, not a clip"):
        load_evaluator(str(dinov2))


def test_a_damaged_file_is_one_line(tmp_path: Path, dinov2: Path) -> None:
    for file in dinov2.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 500 if file.suffix == ".safetensors" else None])
    with pytest.raises(ModelError, match="the evaluator cannot be loaded: "):
        load_dinov2(str(tmp_path))


def test_a_file_that_lacks_weights_is_one_line_and_not_filled_with_random_ones(tmp_path: Path, dinov2: Path) -> None:
    for file in dinov2.glob("*.json"):
        shutil.copy(file, tmp_path)
    weights = load_file(dinov2 / "model.safetensors")
    save_file({name: w for name, w in weights.items() if not name.startswith("layernorm")}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"layernorm\.bias is missing"):
        load_dinov2(str(tmp_path))
