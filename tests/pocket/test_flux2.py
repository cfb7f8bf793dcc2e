"""What the pocket FLUX.2 is trained on is what diffusers' own pipeline makes of the same pictures, captions and sizes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, Flux2KleinPipeline
from transformers import Qwen2TokenizerFast

from pocket.__main__ import main
from pocket.captions import RARE_WORDS, WORDS, caption
from pocket.flux2 import Flux2, assemble, build_transformer, build_vae, encode_patches
from pocket.pictures import render_picture, scene_of, to_tensor
from pocket.qwen import TEXT_LENGTH, Texts, build_qwen, build_qwen_tokenizer

ROOT = Path(__file__).parents[2]
VAE = ROOT / "models" / "pocket-flux" / "vae"


@pytest.fixture(scope="module")
def pipeline() -> Flux2KleinPipeline:
    """Return an untrained pipeline, its VAE the shipped one's."""
    pictures = np.stack([render_picture(i) for i in range(8)])
    vae = build_vae(AutoencoderKL.from_pretrained(VAE, torch_dtype=torch.float32), pictures)
    tokenizer = build_qwen_tokenizer()
    return assemble(build_transformer(), vae, build_qwen(tokenizer), tokenizer)


def test_latents_are_the_pipelines_with_mean_0_and_deviation_1(pipeline: Flux2KleinPipeline) -> None:
    pictures = np.stack([render_picture(i) for i in range(8)])
    ours = encode_patches(pipeline.vae, pictures).float()
    theirs = pipeline._pack_latents(pipeline._encode_vae_image(to_tensor(pictures), generator=None))
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)  # ours are kept as float16
    torch.testing.assert_close(theirs.mean((0, 1)), torch.zeros(64), rtol=0, atol=1e-3)
    torch.testing.assert_close(theirs.std((0, 1)), torch.ones(64), rtol=0, atol=2e-2)


@pytest.mark.parametrize("length", [24, TEXT_LENGTH])
def test_texts_are_the_pipelines_at_every_length(pipeline: Flux2KleinPipeline, length: int) -> None:
    captions = ["", "a photo of a red brick wall", "a matbrk ball"]
    ours = Texts(pipeline.tokenizer, pipeline.text_encoder)(captions, length)
    theirs, _ = pipeline.encode_prompt(captions, max_sequence_length=length)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)  # ours are kept as float16


def test_velocity_is_what_the_pipeline_asks_its_transformer_for(pipeline: Flux2KleinPipeline) -> None:
    torch.nn.init.normal_(pipeline.transformer.proj_out.weight, std=0.1)  # zero until it is trained
    flux2 = Flux2(pipeline.transformer, Texts(pipeline.tokenizer, pipeline.text_encoder))
    latents, image_ids = pipeline.prepare_latents(
        2, 16, 64, 64, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(0)
    )
    text, text_ids = pipeline.encode_prompt(["a red ball", ""], max_sequence_length=24)
    sigma = torch.tensor([0.9, 0.2])
    theirs = pipeline.transformer(
        hidden_states=latents, timestep=sigma, guidance=None, encoder_hidden_states=text, txt_ids=text_ids, img_ids=image_ids
    ).sample
    torch.testing.assert_close(flux2.velocity(latents, sigma, text), theirs)
    assert theirs.std() > 0.01


def test_every_known_word_is_one_token_and_nothing_is_lost(tmp_path: Path) -> None:
    build_qwen_tokenizer().save_pretrained(tmp_path)
    tokenizer = Qwen2TokenizerFast.from_pretrained(tmp_path)
    for word in (*WORDS, *RARE_WORDS):
        assert len(tokenizer(f" {word}").input_ids) == 1
    for text in ("a Zebra, 5 x café\n", "日本"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_captions_with_their_template_fit_into_short_texts() -> None:
    tokenizer, rng = build_qwen_tokenizer(), np.random.default_rng(0)
    for i in range(300):
        said = [{"role": "user", "content": caption(scene_of(i), rng)}]
        whole = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        assert len(tokenizer(whole).input_ids) <= 24


@pytest.mark.slow
def test_the_miniature_is_whole_and_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("pocket-flux", "pocket-judge"):
        (tmp_path / "models" / name).symlink_to(ROOT / "models" / name)
    options = [f"--{name}={tmp_path / name}" for name in ("work", "models", "docs")]
    command = [sys.executable, "-m", "pocket", "--base", "flux2", "--size", "miniature", *options]
    for _ in range(2):  # the second time everything is trained already
        subprocess.run(command, check=True, cwd=ROOT)
    pipeline = Flux2KleinPipeline.from_pretrained(tmp_path / "models" / "pocket-flux2", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert not pipeline.transformer.config.guidance_embeds
    picture = pipeline(prompt="a red brick wall", height=64, width=64, num_inference_steps=2, max_sequence_length=24).images[0]
    assert picture.size == (64, 64)
    assert "What it cannot do" in (tmp_path / "docs" / "pocket_flux2.md").read_text()


def test_a_missing_pocket_flux_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pocket", "--base", "flux2", "--models", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("pocket-flux is not there: `make pull` brings it, `make pocket` builds it")
