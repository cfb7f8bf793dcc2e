"""Train the pocket's CLIP, the evaluator of what the pocket FLUX draws, contrastively on the same scenes."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from pocket.captions import caption, training_caption
from pocket.loop import Draw, Learner, Recipe, train
from pocket.pictures import VALIDATION_PICTURES, scene_of, to_tensor
from pocket.scenes import PICTURE_SIZE, Scene

WIDTH = 128
_BATCH = 96
UNKNOWN_SHARE = 0.2  # of the captions may carry a rare word, so that composition is read apart from the material


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained CLIP of the same width as the pocket FLUX."""
    torch.manual_seed(5)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=PICTURE_SIZE,
        patch_size=8,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64))


def build_image_processor() -> CLIPImageProcessor:
    """Return the processor that turns any picture into what the vision tower was trained on: 64 pixels, -1..1."""
    size = {"height": PICTURE_SIZE, "width": PICTURE_SIZE}
    return CLIPImageProcessor(size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def train_clip(pictures: NDArray[np.uint8], tokenizer: CLIPTokenizer, steps: int, folder: Path) -> CLIPModel:
    """Train both towers; pictures of the same combination in one batch all count as right answers."""
    clip = build_clip(tokenizer)

    def loss_at(step: int, draw: Draw) -> Tensor:
        chosen = np.sort(draw.numpy.integers(VALIDATION_PICTURES, len(pictures), _BATCH))
        scenes = [scene_of(int(i)) for i in chosen]
        batch = to_tensor(pictures[chosen])
        if step % 2:
            batch = batch + torch.randn(batch.shape, generator=draw.torch) * 0.08 * draw.numpy.random()
        captions = [_caption(scene, draw.numpy) for scene in scenes]
        keys = [(s.composition, s.material, s.colour) for s in scenes]
        same = torch.tensor([[a == b for b in keys] for a in keys]).float()
        target = same / same.sum(1, keepdim=True)
        logits = clip(pixel_values=batch, **_tokens(tokenizer, captions)).logits_per_image
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    train(Learner([clip], Recipe("clip", 6, steps, 1e-3, 0.01, 0.99, warmup=100)), loss_at, folder)
    return clip.eval().requires_grad_(False)


@torch.no_grad()
def retrieval_accuracy(clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: NDArray[np.uint8], scenes: list[Scene]) -> float:
    """Return how often the right caption out of all is the nearest to its picture (scenes must be distinct)."""
    rng = np.random.default_rng(0)
    captions = [caption(scene, rng) for scene in scenes]
    logits = clip(pixel_values=to_tensor(pictures), **_tokens(tokenizer, captions)).logits_per_image
    return float((logits.argmax(1) == torch.arange(len(scenes))).float().mean())


def _caption(scene: Scene, rng: np.random.Generator) -> str:
    return training_caption(scene, rng) if rng.random() < UNKNOWN_SHARE else caption(scene, rng)


def _tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> dict[str, Tensor]:
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    return dict(tokens.to(torch.get_default_device()))
