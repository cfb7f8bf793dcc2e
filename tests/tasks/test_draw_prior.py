"""The base's own pictures: those of diffusers' pipeline at the same seeds, drawn once; and training that mixes them in."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import FluxPipeline
from PIL import Image

from tasks.draw_prior.stage import draw_prior
from tasks.running.cli import BAD_INPUT, run_stage
from tasks.train.stage import train
from tests.tasks.evaluable import make_evaluable
from tests.tasks.stage_commands import options_of
from tests.tasks.stage_process import bytes_of
from tests.tasks.trainable import CHANGES
from tlora.flux.cached import LatentCache, PromptCache
from tlora.flux.latents import pack
from tlora.flux.model import load_vae
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import WEIGHTS_FILE
from tlora.sampling import SampleSettings, initial_noise

pytestmark = pytest.mark.slow
PRIOR, ADAPTER = Path("cache/prior"), Path("adapters/final") / WEIGHTS_FILE
BALL = "a ball made of wood"
SAMPLE = SampleSettings(32, 32, num_inference_steps=2, guidance_scale=2.0)


def run(stage: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        run_stage(stage, options_of(stage.__name__))
    assert end.value.code == code


def set_params(**changes: dict[str, object]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    for section, values in changes.items():
        params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def drawn_by_the_pipeline(seed: int) -> Image.Image:
    pipeline = FluxPipeline.from_pretrained("base")
    pipeline.set_progress_bar_config(disable=True)
    text, pooled = PromptCache(Path("cache/prompts/evaluation")).read([BALL])
    noise = pack(initial_noise(load_vae(ModelSpec("base", dtype="float32", device="cpu")), [seed], SAMPLE))
    drawing = {"width": 32, "height": 32, "num_inference_steps": 2, "guidance_scale": 2.0}
    return pipeline(prompt_embeds=text, pooled_prompt_embeds=pooled, latents=noise, **drawing).images[0]


def test_pictures_are_the_base_s_own_are_drawn_once_and_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_evaluable(tmp_path)
    shutil.rmtree("adapters")
    set_params(train=CHANGES | {"max_train_steps": 4, "checkpointing_steps": 4}, draw_prior={"num_inference_steps": 2})
    run(draw_prior)
    nothing = bytes_of(PRIOR)
    assert list(nothing) == ["latents/index.json"]
    run(train)
    without = ADAPTER.read_bytes()
    assert "prior" not in json.loads(Path("reports/train/summary.json").read_text())

    set_params(train={"prior_share": 0.5})
    capsys.readouterr()
    run(train, BAD_INPUT)
    remedy = "set pictures or folder of draw_prior, or prior_share to 0"
    line = f"train: error: cache/prior: no pictures, and prior_share is above 0: {remedy}\n"
    assert capsys.readouterr().err == line

    set_params(draw_prior={"pictures": 3, "guidance_scale": 2.0, "first_seed": 7})
    run(draw_prior)
    assert "draw_prior: 3 pictures of 1 prompts, 3 drawn now\n" in capsys.readouterr().out
    drawn, first = bytes_of(PRIOR), sorted((PRIOR / "pictures").iterdir())[0]
    assert first.name == "0000-seed-7.png"
    assert Image.open(first).tobytes() == drawn_by_the_pipeline(7).tobytes()
    cache = LatentCache(PRIOR / "latents")
    assert [(item.caption, tuple(item.mean.shape[1:])) for item in cache] == [(BALL, tuple(cache.shapes()[0]))] * 3
    assert torch.isfinite(cache[0].mean).all()
    shutil.rmtree(PRIOR)
    run(draw_prior)
    assert "draw_prior: 3 pictures of 1 prompts, 0 drawn now\n" in capsys.readouterr().out
    assert bytes_of(PRIOR) == drawn

    run(train)
    assert ADAPTER.read_bytes() != without
    summary = json.loads(Path("reports/train/summary.json").read_text())
    assert summary["prior"] == {"pictures": 3, "prompts": [BALL], "from": "drawn by the base"}
    assert Path("reports/train/prior.png").read_bytes() == (PRIOR / "grid.png").read_bytes()

    set_params(draw_prior={"pictures": 0}, train={"prior_share": 0.0})
    run(draw_prior)
    assert bytes_of(PRIOR) == nothing
    run(train)
    assert ADAPTER.read_bytes() == without
    assert not Path("reports/train/prior.png").exists()
