"""Which models a fast look may be drawn on, and with which ranks it draws."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
import yaml
from PIL import Image

from tasks.evaluate.drawing import Rows
from tasks.evaluate.fast_look import FastLook
from tasks.evaluate.kept import KeptPictures
from tasks.evaluate.stage import evaluate
from tasks.evaluate.team import Team
from tasks.running.cli import run_stage
from tests.tasks.stage_commands import options_of
from tests.tiny_flux import tiny_pipeline_folder
from tests.tiny_klein import (
    TEXT_WIDTH,
    tiny_distilled_folder,
    tiny_klein_folder,
    tiny_klein_pipeline,
    tiny_klein_transformer,
)
from tlora.checkpoint import attach_adapter, save_tlora_weights
from tlora.errors import SettingsError
from tlora.flux.model import load_scheduler, load_transformer, load_vae
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.adapter import BASE, WEIGHTS_FILE, AdapterMetadata
from tlora.metadata.config import TLoRAConfig
from tlora.sampling import Painter, SampleSettings, draw_pictures

ROOT = Path(__file__).parents[3]
SAMPLE = SampleSettings(width=24, height=16, num_inference_steps=7, guidance_scale=4.0)
CONFIG, TARGETS = TLoRAConfig(rank=4, min_rank=1, alpha=4), ("to_q", "to_k", "to_v", "to_qkv_mlp_proj", "to_out")


def spec(folder: Path) -> ModelSpec:
    return ModelSpec(str(folder), dtype="float32", device="cpu")


def save_adapter(folder: Path) -> None:
    """Save an adapter that has moved."""
    transformer = tiny_klein_transformer()
    inject_tlora_into_transformer(transformer, TARGETS, CONFIG)
    for parameter in tlora_parameters(transformer):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    about = AdapterMetadata(CONFIG, TARGETS, family="FLUX.2 klein", step=2)
    save_tlora_weights(transformer, folder / WEIGHTS_FILE, about)


def flat(rows: Rows) -> list[bytes]:
    return bits([picture for row in rows for picture in row if picture])


def bits(pictures: Sequence[Image.Image]) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of models: a klein, what was distilled from it, and models that will not do."""
    folder = tmp_path_factory.mktemp("models")
    tiny_klein_folder(folder / "base")
    tiny_distilled_folder(folder / "distilled")
    tiny_klein_folder(folder / "other_text", seed=1, is_distilled=True)
    deep = tiny_klein_pipeline(is_distilled=True)
    deep.transformer = tiny_klein_transformer(blocks=3)
    deep.save_pretrained(folder / "deep")
    tiny_pipeline_folder(folder / "flux_1")
    for file in [*(folder / "deep/transformer").glob("*.safetensors"), *(folder / "flux_1").rglob("*.safetensors")]:
        file.unlink()  # whoever asked for these would fail in another way
    return folder


@pytest.mark.parametrize(
    ("model", "base", "line"),
    [
        ("flux_1", "base", " is a FLUX.1, and the base BASE a FLUX.2 klein: no adapter fits both"),
        ("distilled", "flux_1", " is a FLUX.2 klein, and the base BASE a FLUX.1: no adapter fits both"),
        ("base", "base", ": its files do not say that it is distilled, as those of FLUX.2-klein-4B do"),
        ("flux_1", "flux_1", ": its files do not say that it is distilled, as those of FLUX.2-klein-4B do"),
        ("deep", "base", ": its network is of another size than that of the base BASE: no adapter fits both"),
        ("other_text", "base", "/text_encoder: not that of the base BASE, which has encoded the prompts"),
        ("missing", "base", ": no base model there (model_index.json is missing)"),
    ],
)
def test_a_model_on_which_no_adapter_of_the_base_can_be_drawn_is_one_line(model: str, base: str, line: str, shelf: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        FastLook.on(spec(shelf / model), SAMPLE, 2).require(spec(shelf / base))
    assert str(caught.value) == f"preview_model: {shelf / model}{line}".replace("BASE", str(shelf / base))


def test_only_what_draws_needs_room_where_the_model_is_not_here(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(shelf / "hub"))
    monkeypatch.setattr("tlora.runtime.disk.shutil.disk_usage", lambda path: SimpleNamespace(free=7e9))
    look = FastLook.on(ModelSpec("black-forest-labs/FLUX.2-klein-4B"), SAMPLE, 2)
    with pytest.raises(SettingsError, match=r"^preview_model: .*: 7\.0 GB free, 8\.2 GB needed: free some"):
        look.require(spec(shelf / "base"))


def test_the_distilled_model_of_the_base_is_accepted(shelf: Path) -> None:
    FastLook.on(spec(shelf / "distilled"), SAMPLE, 2).require(spec(shelf / "base"))


def test_the_stage_refuses_it_before_a_weight_is_loaded(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((ROOT / "params/pocket.yaml").read_text())
    params["model"]["path"], params["evaluate"]["preview_model"] = str(shelf / "flux_1"), str(shelf / "distilled")
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(SystemExit) as end:
        run_stage(evaluate, options_of("evaluate"))
    said = capsys.readouterr().err.splitlines()
    assert (end.value.code, len(said)) == (2, 1)
    assert said[0].startswith(f"evaluate: error: params.yaml: evaluate: preview_model: {shelf / 'distilled'} is a FLUX.2 klein")


@pytest.mark.parametrize("sigma_mask", ["timestep", "full"])
def test_it_draws_in_four_steps_without_guidance_by_the_masks_of_its_own_timesteps(
    sigma_mask: Literal["timestep", "full"], shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_adapter(tmp_path / "adapter")
    sample = dataclasses.replace(SAMPLE, sigma_mask=sigma_mask)
    source = torch.Generator().manual_seed(1)
    embeddings = torch.randn(2, 9, TEXT_WIDTH, generator=source), torch.zeros(2, 0)
    distilled, cells = spec(shelf / "distilled"), [(0, 5), (1, 5)]
    kept, adapters = KeptPictures(tmp_path / "kept", {}), {"checkpoint-000002": tmp_path / "adapter"}
    rows = FastLook.on(distilled, sample, 2).draw(adapters, embeddings, cells, Team(0, 1, "cpu"), kept)
    assert list(rows) == [BASE, "checkpoint-000002"]
    painter = Painter(load_transformer(distilled).eval(), load_vae(distilled), load_scheduler(distilled))
    plain = dataclasses.replace(sample, num_inference_steps=4, guidance_scale=1.0)
    assert flat(rows[BASE]) == bits(draw_pictures(painter, embeddings, [5, 5], plain))
    attach_adapter(painter.transformer, tmp_path / "adapter")
    assert flat(rows["checkpoint-000002"]) == bits(draw_pictures(painter, embeddings, [5, 5], plain))
    other = dataclasses.replace(plain, sigma_mask="full" if sigma_mask == "timestep" else "timestep")
    assert flat(rows["checkpoint-000002"]) != bits(draw_pictures(painter, embeddings, [5, 5], other))
