"""Whose network a base is, by its own files, and that what is not supported or is mixed says so before a weight is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel

from tests.tiny_flux import tiny_pipeline_folder
from tests.tiny_klein import tiny_klein_folder
from tlora.errors import ModelError
from tlora.flux.families import FLUX_1, FLUX_2_KLEIN
from tlora.flux.files import is_distilled, read_family, read_shape, require_base
from tlora.flux.spec import ModelSpec, hub_base

DEV = "32 billion weights .* use FLUX.2-klein-base-4B"


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_klein_folder(tmp_path_factory.mktemp("base") / "klein")


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_folder(tmp_path_factory.mktemp("base") / "flux")


def outline(kind: Callable[..., torch.nn.Module], **sizes: Any) -> int:
    """Return how many weights a network has, without making them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(**sizes).parameters())


def test_the_files_alone_say_whose_network_it_is(klein: Path, flux: Path) -> None:
    assert (read_family(ModelSpec(str(klein))), read_family(ModelSpec(str(flux)))) == (FLUX_2_KLEIN, FLUX_1)
    assert (read_shape(ModelSpec(str(klein))).family, read_shape(ModelSpec(str(flux))).family) == (FLUX_2_KLEIN, FLUX_1)
    assert not is_distilled(ModelSpec(str(klein)))


def test_the_sizes_that_are_known_of_hub_models_are_those_of_diffusers_networks() -> None:
    sizes = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
    four, nine = (hub_base(f"black-forest-labs/FLUX.2-klein-base-{size}").shape for size in ("4B", "9B"))
    assert four.parameters == outline(Flux2Transformer2DModel, guidance_embeds=False, **sizes) == 3_875_544_576
    sizes = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
    assert nine.parameters == outline(Flux2Transformer2DModel, guidance_embeds=False, **sizes)
    krea, schnell = (hub_base(f"black-forest-labs/FLUX.1-{name}").shape for name in ("Krea-dev", "schnell"))
    assert krea.parameters == outline(FluxTransformer2DModel, guidance_embeds=True)
    assert schnell.parameters == outline(FluxTransformer2DModel, guidance_embeds=False)


def test_the_shape_that_is_read_of_a_folder_counts_its_weights(klein: Path) -> None:
    transformer = Flux2Transformer2DModel.from_pretrained(klein, subfolder="transformer")
    assert read_shape(ModelSpec(str(klein))).parameters == sum(parameter.numel() for parameter in transformer.parameters())


def test_klein_needs_no_token_and_its_size_is_known_before_it_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("tlora.flux.files.require_free_space", lambda *_: None)
    spec = ModelSpec("black-forest-labs/FLUX.2-klein-base-4B")
    require_base(spec)
    assert read_shape(spec).family is FLUX_2_KLEIN
    with pytest.raises(ModelError, match="HF_TOKEN"):
        require_base(ModelSpec("black-forest-labs/FLUX.2-klein-base-9B"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("FLUX.2-dev", DEV),
        ("FLUX.3-klein-base", r"FLUX\.3 klein's blocks take no attention arguments.* use FLUX.2-klein-base-4B"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name_on_the_hub(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"^black-forest-labs/{name}: .*{reason}"):
        require_base(ModelSpec(f"black-forest-labs/{name}"))


@pytest.mark.parametrize(
    ("file", "name", "reason"),
    [
        ("model_index.json", "Flux2Pipeline", DEV),
        ("model_index.json", "Flux2KleinKVPipeline", "what reference pictures made"),
        ("modular_model_index.json", "Flux3ModularPipeline", "blocks take no attention arguments"),
        ("model_index.json", "StableDiffusionPipeline", "is no base .*; FluxPipeline and Flux2KleinPipeline are"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_own_files(file: str, name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ModelError, match=reason):
        require_base(ModelSpec(str(tmp_path)))


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (
            "vae",
            r"vae/config\.json: _class_name is AutoencoderKL, and FLUX\.2 klein needs AutoencoderKLFlux2: parts of two models",
        ),
        ("transformer", r"transformer/config\.json: _class_name is FluxTransformer2DModel, and FLUX\.2 klein needs Flux2Transf"),
        ("text_encoder", r"text_encoder/config\.json: model_type is clip_text_model, and FLUX\.2 klein needs qwen3"),
    ],
)
def test_parts_of_two_families_are_refused_before_a_weight_is_loaded(
    part: str, line: str, klein: Path, flux: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(klein, mixed, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copy(flux / part / "config.json", mixed / part / "config.json")
    with pytest.raises(ModelError, match=line):
        require_base(ModelSpec(str(mixed)))
