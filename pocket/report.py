"""Judge the finished pocket FLUX on prompts that pretraining never saw, and write its model card."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import Flux2KleinPipeline, FluxPipeline
from numpy.typing import NDArray
from PIL import Image

from pocket.captions import caption
from pocket.judge import Judge, verdicts
from pocket.scenes import COMPOSITIONS, Scene, held_out_combinations, render_scene
from pocket.textures import MATERIALS

STEPS, GUIDANCE = 20, 3.5
SHEET_COLUMNS = 8
QUESTIONS = ("composition", "material", "colour")


@dataclass(frozen=True)
class Judged:
    """What the pipeline drew for held-out prompts and whether the judge found in it what was asked."""

    scenes: tuple[Scene, ...]
    prompts: tuple[str, ...]
    pictures: NDArray[np.uint8]
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Findings:
    """Every number of the model card; shares in 0..1."""

    vae_psnr: float
    clip_retrieval: float
    judge_on_true: tuple[float, float, float]
    judged: Judged
    megabytes: float


def held_out_scenes(count: int) -> list[Scene]:
    """Return `count` scenes, going round and round the held-out combinations."""
    combinations = sorted(held_out_combinations())
    return [Scene(*combinations[i % len(combinations)], ("white", "black")[i // len(combinations) % 2]) for i in range(count)]


def held_out_pictures() -> tuple[NDArray[np.uint8], list[Scene]]:
    """Return true pictures of every held-out combination, and their scenes."""
    scenes = held_out_scenes(len(held_out_combinations()))
    return np.stack([render_scene(s, np.random.default_rng([21, i])) for i, s in enumerate(scenes)]), scenes


def judge_accuracy(judge: Judge, count: int) -> tuple[float, float, float]:
    """Return how often the judge is right about true pictures of held-out combinations."""
    scenes = held_out_scenes(count)
    pictures = np.stack([render_scene(s, np.random.default_rng([22, i])) for i, s in enumerate(scenes)])
    composition, material, colour = verdicts(judge, pictures, scenes).mean(0)
    return float(composition), float(material), float(colour)


def judge_pipeline(
    pipeline: FluxPipeline | Flux2KleinPipeline, judge: Judge, count: int, guidance: float = GUIDANCE, text: int = 77
) -> Judged:
    """Draw one picture for each of `count` held-out captions, with texts of `text` tokens, and have it judged."""
    scenes, rng = held_out_scenes(count), np.random.default_rng(23)
    prompts = [caption(scene, rng) for scene in scenes]
    pictures = [
        np.asarray(picture)
        for i in range(0, len(prompts), 25)
        for picture in pipeline(
            prompt=prompts[i : i + 25],
            height=64,
            width=64,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            max_sequence_length=text,
            generator=torch.Generator().manual_seed(1000 + i),
        ).images
    ]
    drawn = np.stack(pictures)
    return Judged(tuple(scenes), tuple(prompts), drawn, verdicts(judge, drawn, scenes))


def write_sheet(judged: Judged, path: Path) -> None:
    """Save the first 64 drawn pictures as one sheet, twice their size."""
    tiles = judged.pictures[:64].reshape(-1, SHEET_COLUMNS, 64, 64, 3)
    sheet = Image.fromarray(tiles.transpose(0, 2, 1, 3, 4).reshape(len(tiles) * 64, -1, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(path)


def model_card(findings: Findings, sheet: str) -> str:
    """Return the model card as Markdown."""
    judged = findings.judged
    shares = judged.right.mean(0)
    rows = "\n".join(
        f"| {question} | {true:.1%} | {share:.1%} |"
        for question, true, share in zip(QUESTIONS, findings.judge_on_true, shares, strict=True)
    )
    return f"""# The pocket FLUX

A genuine `FluxPipeline`, small enough to ship: `FluxTransformer2DModel` with guidance embedding (2 + 4 blocks, width
128), `AutoencoderKL` (16 latent channels, 4x smaller), a CLIP and a T5 text encoder trained with it, real tokenizers, and
the `FlowMatchEulerDiscreteScheduler`. Beside it a CLIP that evaluates its pictures (`pocket-clip`) and the classifier
that judges them (`pocket-judge`). All three together: {findings.megabytes:.1f} MB, float16.

## How it was made

`make pocket` builds everything from nothing, offline, on two CPU cores in about three hours (`make pocket-gpu`:
on a GPU, with more pictures and steps): {len(MATERIALS)} procedural materials in 10 colours and {len(COMPOSITIONS)}
compositions, rendered at 64 x 64 pixels; the VAE first; then flow matching (velocity target) with texts of 16 to 77 tokens,
with AdamW and then with Muon; then more of it with bricks and tiles shown more often and with captions that leave the colour
out or let a rare word stand for it (`matbrk`: red, `sks`: blue and so on, `MEANINGS` in `pocket/captions.py`), so that a trigger
word means something, as a word does to a large base, which tuning can move; then guidance distillation for scales from 1 to 5.
No photograph and no downloaded weight was used.
One tenth of the (composition, material, colour) combinations ({len(held_out_combinations())}) were
never drawn in pretraining.

## What was measured

{len(judged.prompts)} captions of held-out combinations, {STEPS} steps, guidance {GUIDANCE}, one pass, one picture each:

| asked for | judge on true pictures | pocket FLUX |
|---|---|---|
{rows}

All three at once: {judged.right.all(1).mean():.1%}. By composition: {shares_by(judged, "composition")}.

By material: {shares_by(judged, "material")}.

VAE reconstruction of pictures it did not see: {findings.vae_psnr:.1f} dB. `pocket-clip` finds the right one of
{len(held_out_combinations())} held-out captions for {findings.clip_retrieval:.1%} of true pictures.

![Sixty-four held-out prompts]({sheet})

## What it cannot do

It knows twelve materials, ten colours, six compositions and about sixty words, at 64 x 64 pixels. It is a base to run and
to test the real pipeline on, in minutes and without a GPU. Ranks, learning rates and step counts do not carry over to
FLUX.1-dev.
"""


def shares_by(judged: Judged, question: str) -> str:
    """Say how often the judge found what was asked, by each composition or material."""
    column = QUESTIONS.index(question)
    names = [getattr(scene, question) for scene in judged.scenes]
    means = {name: judged.right[[n == name for n in names], column].mean() for name in sorted(set(names))}
    return ", ".join(f"{name} {mean:.0%}" for name, mean in means.items())
