"""A tiny FLUX.2 klein through the stages: every way of drawing gives the picture of diffusers' own pipeline."""

import dataclasses
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from diffusers import Flux2KleinPipeline
from mlflow.pyfunc import load_model
from PIL import Image
from safetensors.torch import load_file, save_file

from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tasks.draw_prior.stage import draw_prior
from tasks.evaluate.stage import evaluate
from tasks.registry.versions import create_version
from tasks.running.cli import run_stage
from tasks.tracking.store import open_store
from tasks.train.stage import train
from tests.tasks import data_folder
from tests.tasks.evaluable import CHANGES, save_clip
from tests.tasks.stage_commands import options_of
from tests.tiny_klein import tiny_distilled_folder, tiny_klein_folder
from tests.tlora.test_klein import as_patches, with_full_ranks
from tlora.checkpoint import attach_adapter, read_adapter
from tlora.cli import main
from tlora.flux.cached import LatentCache, PromptCache
from tlora.flux.files import base_revision
from tlora.flux.model import load_transformer, load_vae
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import WEIGHTS_FILE
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import ViewSettings
from tlora.sampling import SampleSettings, initial_noise

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SAMPLE = SampleSettings(width=32, height=32, num_inference_steps=2, guidance_scale=4.0, sigma_mask="full")
TEXT = 60  # tokens; the chat's own are among them
ADAPTER = Path("adapters/final")
WALL = "a matbrk wall"
TRAIN = {
    "rank": 4,
    "min_rank": 1,
    "alpha": 100,  # so much that four steps are seen in eight bits
    "learning_rate": 2e-2,
    "lr_warmup_steps": 0,
    "target_modules": ["to_q", "to_k", "to_v", "to_qkv_mlp_proj", "to_out"],
    "max_train_steps": 4,
    "checkpointing_steps": 2,
    "train_batch_size": 2,
    "timestep_sampling": "shifted",
    "gradient_checkpointing": 2,
    "caption_dropout": 0.3,
    "guard_step": 0,
    "preview_every": 4,
    "num_inference_steps": 2,
}


def lay_out(folder: Path) -> None:
    """Fill the working folder with data, base, parameters and caches."""
    data_folder.lay_out(folder)
    open_gates(tiny_klein_folder(folder / "base"))
    open_gates(tiny_distilled_folder(folder / "distilled"))
    base = ModelSpec("base", dtype="float32", device="cpu")
    data_folder.run(base, TEXT)
    manifests = {"manifest": Path("artifacts/manifest/train.json"), "held_out": Path("artifacts/manifest/held_out.json")}
    captions, prompts = Path("cache/prompts/captions"), Path("cache/prompts/evaluation")
    cache_prompts(TextSettings(TEXT), base, **manifests, concept=Path("concept.yaml"), captions=captions, evaluation=prompts)
    latents = {"train": Path("cache/latents/train"), "evaluation": Path("cache/latents/held_out")}
    cache_latents(ViewSettings(32, random_flip=True), base, **manifests, data=Path("data/images"), **latents)
    save_clip(folder / "clip")
    params = yaml.safe_load((ROOT / "params/pocket.yaml").read_text())
    params["model"] |= {"path": "base", "device": "cpu"}
    params["cache_prompts"]["max_sequence_length"] = TEXT
    params["cache_latents"]["resolution"] = 32
    params["train"] |= TRAIN
    params["evaluate"] |= CHANGES | {"guidance_scale": 4.0, "sigma_mask": "full", "race": False}
    params["train"]["prior_share"] = 0.25
    params["draw_prior"] |= {"pictures": 2, "num_inference_steps": 2, "guidance_scale": 4.0, "first_seed": 7}
    Path("params.yaml").write_text(yaml.safe_dump(params))


def open_gates(model: Path) -> Path:
    """Let the blocks of a random network count: of its modulation, their gates are almost shut, and no adapter would be seen."""
    file = model / "transformer/diffusion_pytorch_model.safetensors"
    tensors = {name: 30 * tensor if "modulation" in name else tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return model


def run(stage: object) -> None:
    with pytest.raises(SystemExit) as end:
        run_stage(stage, options_of(stage.__name__))
    assert end.value.code == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a klein was trained and evaluated."""
    folder, before = tmp_path_factory.mktemp("klein"), Path.cwd()
    os.chdir(folder)
    try:
        lay_out(folder)
        run(draw_prior)
        run(train)
        run(evaluate)
        Path("reports/evaluate/evaluate.json").rename("without.json")
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["evaluate"]["preview_model"] = "distilled"
        Path("params.yaml").write_text(yaml.safe_dump(params))
        run(evaluate)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def by_the_pipeline(seed: int, model: str = "base", steps: int = 2) -> Image.Image:
    """Draw with diffusers and PEFT, the adapter at full rank."""
    base = ModelSpec("base", dtype="float32", device="cpu")
    transformer = load_transformer(base)
    attach_adapter(transformer, ADAPTER)
    save_file(with_full_ranks(transformer), "lora.safetensors")
    pipeline = Flux2KleinPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(".", weight_name="lora.safetensors")
    noise = initial_noise(load_vae(base), [seed], SAMPLE)
    (picture,) = pipeline(
        prompt=WALL,
        width=32,
        height=32,
        num_inference_steps=steps,
        guidance_scale=4.0,
        latents=as_patches(noise),
        max_sequence_length=TEXT,
    ).images
    return picture


def furthest(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


def test_the_caches_hold_what_training_and_drawing_need(folder: Path) -> None:
    captions, prompts = PromptCache(Path("cache/prompts/captions")), PromptCache(Path("cache/prompts/evaluation"))
    text, pooled = prompts.read(["", WALL])
    assert (text.shape[1], tuple(pooled.shape)) == (TEXT, (2, 0))
    assert "" in captions.files
    view = LatentCache(Path("cache/latents/train"))[0]
    assert (tuple(view.mean.shape), bool(view.std.any())) == ((4, 16, 16), False)


def test_prior_pictures_are_those_of_the_pipeline_which_draws_twice(folder: Path) -> None:
    pipeline = Flux2KleinPipeline.from_pretrained("base")
    pipeline.set_progress_bar_config(disable=True)
    noise = as_patches(initial_noise(load_vae(ModelSpec("base", dtype="float32", device="cpu")), [7], SAMPLE))
    size = {"width": 32, "height": 32, "num_inference_steps": 2, "guidance_scale": 4.0, "max_sequence_length": TEXT}
    (expected,) = pipeline(prompt="a ball made of wood", latents=noise, **size).images
    assert furthest(Image.open("cache/prior/pictures/0000-seed-7.png"), expected) <= 1
    assert len(LatentCache(Path("cache/prior/latents"))) == 2


def test_an_adapter_says_its_family_and_learns_in_blocks_of_either_kind(folder: Path) -> None:
    tensors, metadata = read_adapter(ADAPTER / WEIGHTS_FILE)
    assert (metadata.family, metadata.base, metadata.step) == ("FLUX.2 klein", "base", 4)
    for part in ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_out"):
        assert tensors[f"{part}.up.weight"].any()
    assert Path("reports/train/previews/step-000004.png").exists()


def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (ADAPTER / WEIGHTS_FILE).read_bytes()
    *_, last = sorted(Path(".state/train").glob("*/state-*.safetensors"))
    last.unlink()
    run(train)
    assert (ADAPTER / WEIGHTS_FILE).read_bytes() == whole


def test_what_evaluation_draws_is_the_pipelines_picture(folder: Path) -> None:
    (file,) = Path("artifacts/pictures/checkpoints").glob("checkpoint-000004/p00_seed1000.webp")  # small, so kept without loss
    assert furthest(Image.open(file), by_the_pipeline(1000)) <= 1
    assert furthest(Image.open(file), Image.open("artifacts/pictures/checkpoints/base/p00_seed1000.webp")) > 10


def test_a_fast_look_is_the_distilled_pipelines_picture_in_four_steps(folder: Path) -> None:
    drawn = Image.open("artifacts/pictures/distilled/checkpoint-000004/p00_seed1000.webp")
    assert furthest(drawn, by_the_pipeline(1000, "distilled", 4)) <= 1
    assert furthest(drawn, Image.open("artifacts/pictures/distilled/base/p00_seed1000.webp")) > 10
    assert furthest(drawn, Image.open("artifacts/pictures/checkpoints/checkpoint-000004/p00_seed1000.webp")) > 10


def test_a_fast_look_is_shown_and_changes_no_number(folder: Path) -> None:
    told = json.loads(Path("reports/evaluate/evaluate.json").read_text())
    revision = base_revision(ModelSpec("distilled"))[:12]
    assert told.pop("fast_look") == {"model": "distilled", "revision": revision, "steps": 4, "seed": 1000, "decides": False}
    assert told == json.loads(Path("without.json").read_text())
    report = Path("reports/evaluate/report.html").read_text()
    assert "<h2>A fast look</h2>" in report
    assert "Drawn on the distilled distilled in 4 steps without guidance" in report
    assert report.count('name="seed-distilled"') == 1  # one seed
    with Image.open("artifacts/grids/distilled.png") as grid, Image.open("artifacts/grids/grid.png") as whole:
        assert grid.size == whole.size  # as many rows
    assert not any(Path(".state/evaluate").iterdir())


def test_what_infer_draws_is_the_pipelines_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "pretrained_model_name_or_path": "base", "mixed_precision": "no", "resolution": 32, "num_inference_steps": 2,
        "guidance_scale": 4.0, "max_sequence_length": TEXT,
    }  # fmt: skip
    Path("config.yaml").write_text(yaml.safe_dump(config))
    given = ["--config", "config.yaml", "--lora_path", str(ADAPTER), "--prompt", WALL, "--outdir", "drawn", "--seed", "7"]
    main(["infer", *given, "--sigma-mask", "full"])
    (file,) = Path("drawn").glob("*.png")
    assert furthest(Image.open(file), by_the_pipeline(7)) <= 1
    capsys.readouterr()
    main(["inspect", str(ADAPTER)])
    assert "FLUX.2 klein" in capsys.readouterr().out


def test_what_a_registered_version_draws_is_the_pipelines_picture(
    folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    store = open_store()
    run_id = store.client.create_run(store.experiment_id).info.run_id
    drawing = {**dataclasses.asdict(SAMPLE), "max_sequence_length": TEXT}
    base = ModelSpec("base", dtype="float32", device="cpu")
    create_version(store, run_id, ADAPTER, base, drawing, {"concept": "brick", "step": "4"})
    (description,) = folder.rglob("MLmodel")
    png = load_model(str(description.parent)).predict(WALL, params={"seed": 7})
    assert furthest(Image.open(io.BytesIO(png)), by_the_pipeline(7)) <= 1
