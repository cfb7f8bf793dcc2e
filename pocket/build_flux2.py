"""The whole build of the pocket FLUX.2, from VAE and judge of a finished pocket FLUX; it continues where it was stopped."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, Flux2KleinPipeline

from pocket.flux2 import STATISTICS_PICTURES, Flux2, assemble, build_transformer, build_vae, encode_patches, pretrain
from pocket.judge import Judge
from pocket.pictures import VALIDATION_PICTURES, load_pictures
from pocket.qwen import TEXT_LENGTH, Texts, build_qwen_tokenizer, train_qwen
from pocket.report import judge_accuracy, judge_pipeline, write_sheet
from pocket.report_flux2 import GUIDANCE, model_card


@dataclass(frozen=True)
class Sizes:
    """How many pictures are rendered, how many steps each network is trained, and how many prompts are judged."""

    pictures: int
    qwen_steps: int
    flux_steps: int
    judged_prompts: int


TAKEN = ("pocket-flux", "pocket-judge")  # what has to be there
FULL = Sizes(20_000, 150, 3_200, 200)
MINIATURE = Sizes(400, 3, 5, 8)


def build(sizes: Sizes, work: Path, models: Path, docs: Path) -> None:
    """Build pocket-flux2, have it judged, and write its sheet and its model card.

    Args:
        sizes: `FULL`, or `MINIATURE` to see that the way works.
        work: Where rendered pictures and training state are kept; running again continues from there.
        models: Where pocket-flux and pocket-judge are, and pocket-flux2 is written, as float16 safetensors.
        docs: Where the model card and its sheet are written.
    """
    work.mkdir(parents=True, exist_ok=True)
    pictures = load_pictures(sizes.pictures, work)
    statistics = np.array(pictures[VALIDATION_PICTURES : VALIDATION_PICTURES + STATISTICS_PICTURES])
    vae = build_vae(AutoencoderKL.from_pretrained(models / "pocket-flux" / "vae", torch_dtype=torch.float32), statistics)
    tokenizer = build_qwen_tokenizer()
    qwen = train_qwen(tokenizer, sizes.pictures, sizes.qwen_steps, work)
    flux2 = Flux2(build_transformer(), Texts(tokenizer, qwen))
    pretrain(flux2, encode_patches(vae, pictures), sizes.flux_steps, work)
    assemble(flux2.transformer, vae, qwen, tokenizer).to("cpu", torch.float16).save_pretrained(models / "pocket-flux2")
    judge_and_write(sizes, models, docs)


def judge_and_write(sizes: Sizes, models: Path, docs: Path) -> None:
    """Judge the pipeline that is saved, and write its sheet and its model card."""
    pipeline = Flux2KleinPipeline.from_pretrained(models / "pocket-flux2", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    judge = Judge.from_pretrained(models / "pocket-judge")
    judged = judge_pipeline(pipeline, judge, sizes.judged_prompts, GUIDANCE, TEXT_LENGTH)
    write_sheet(judged, docs / "pictures" / "pocket_flux2_sheet.png")
    megabytes = sum(file.stat().st_size for file in (models / "pocket-flux2").rglob("*") if file.is_file()) / 1e6
    accuracy = judge_accuracy(judge, sizes.judged_prompts)
    card = model_card(judged, accuracy, sizes.flux_steps, megabytes, "pictures/pocket_flux2_sheet.png")
    (docs / "pocket_flux2.md").write_text(card)
    print(f"wrote {models}/pocket-flux2, {docs}/pocket_flux2.md")
