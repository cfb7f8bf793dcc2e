"""The whole build, stage after stage; each continues where it was stopped."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from numpy.typing import NDArray
from transformers import CLIPModel

from pocket.clip import build_image_processor, retrieval_accuracy, train_clip
from pocket.flux import Flux, assemble, build_flux, distil_guidance, open_colours, pretrain, refine
from pocket.judge import Judge, train_judge
from pocket.pictures import VALIDATION_PICTURES, load_pictures
from pocket.report import Findings, held_out_pictures, judge_accuracy, judge_pipeline
from pocket.vae import encode_pictures, reconstruction_psnr, train_vae


@dataclass(frozen=True)
class Sizes:
    """How many pictures are rendered, how many steps each network is trained, and how many prompts are judged."""

    pictures: int
    vae_steps: int
    flux_steps: int
    refining_steps: int
    opening_steps: int
    distillation_steps: int
    judge_steps: int
    clip_steps: int
    judged_prompts: int


FULL = Sizes(20_000, 8_000, 6_000, 5_000, 4_000, 500, 1_200, 2_000, 200)
ON_A_GPU = Sizes(40_000, 16_000, 6_000, 40_000, 10_000, 1_000, 2_000, 4_000, 200)
MINIATURE = Sizes(400, 6, 4, 2, 2, 2, 4, 2, 8)


def build(sizes: Sizes, device: str, work: Path, models: Path) -> Findings:
    """Build pocket-flux, pocket-clip and pocket-judge.

    Args:
        sizes: `FULL`, or `MINIATURE` to see that the way works.
        device: Where the networks are trained; they are judged on the CPU.
        work: Where rendered pictures and training state are kept; running again continues from there.
        models: Where the three models are written, as float16 safetensors.

    Returns:
        What was measured on scenes that pretraining never drew.
    """
    work.mkdir(parents=True, exist_ok=True)
    pictures = load_pictures(sizes.pictures, work)
    with torch.device(device):
        flux, vae, clip, judge = _train(sizes, pictures, work)
    assemble(flux, vae).to("cpu", torch.float16).save_pretrained(models / "pocket-flux")
    clip.to("cpu").half().save_pretrained(models / "pocket-clip")
    flux.clip_tokenizer.save_pretrained(models / "pocket-clip")
    build_image_processor().save_pretrained(models / "pocket-clip")
    judge.to("cpu").save_pretrained(models / "pocket-judge")

    true_pictures, scenes = held_out_pictures()
    pipeline = FluxPipeline.from_pretrained(models / "pocket-flux", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return Findings(
        vae_psnr=reconstruction_psnr(pipeline.vae, np.array(pictures[:VALIDATION_PICTURES])),
        clip_retrieval=retrieval_accuracy(clip.float(), flux.clip_tokenizer, true_pictures, scenes),
        judge_on_true=judge_accuracy(judge, sizes.judged_prompts),
        judged=judge_pipeline(pipeline, judge, sizes.judged_prompts),
        megabytes=sum(f.stat().st_size for f in models.rglob("*") if f.is_file()) / 1e6,
    )


def _train(sizes: Sizes, pictures: NDArray[np.uint8], work: Path) -> tuple[Flux, AutoencoderKL, CLIPModel, Judge]:
    """Train all networks on the default device."""
    vae = train_vae(pictures, sizes.vae_steps, work)
    flux = build_flux()
    latents = encode_pictures(vae, pictures)
    pretrain(flux, latents, sizes.flux_steps, work)
    refine(flux, latents, sizes.refining_steps, work)
    open_colours(flux, latents, sizes.opening_steps, work)
    distil_guidance(flux, latents, sizes.distillation_steps, work)
    judge = train_judge(pictures, sizes.judge_steps, work)
    return flux, vae, train_clip(pictures, flux.clip_tokenizer, sizes.clip_steps, work), judge
