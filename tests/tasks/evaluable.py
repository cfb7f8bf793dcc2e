"""A folder in which `evaluate` can run at once: a tiny random FLUX with checkpoints, a tiny random CLIP, and the real caches."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from pocket.tokenizers import build_clip_tokenizer
from tasks.cache_latents.stage import cache_latents
from tasks.cache_prompts.stage import cache_prompts
from tests.tasks import data_folder
from tests.tiny_flux import tiny_pipeline_folder, tiny_transformer
from tlora.checkpoint import save_tlora_weights
from tlora.flux.spec import ModelSpec
from tlora.inject import inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.adapter import WEIGHTS_FILE, AdapterMetadata
from tlora.metadata.config import TLoRAConfig
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import ViewSettings

ROOT = Path(__file__).parents[2]
METADATA = AdapterMetadata(TLoRAConfig(rank=4, min_rank=1), ("to_q", "to_v"), base="base", concept="brick", trigger="matbrk")
CHANGES: dict[str, Any] = {
    "evaluator": "clip",
    "width": 32,
    "height": 32,
    "num_inference_steps": 2,
    "seeds": 2,
    "scales": [0.5],
    "loss_noises": 1,
}


def make_evaluable(folder: Path, prompts: Sequence[str] = ()) -> None:
    """Fill a folder, which must be the working folder; with other prompts than the one of the data, if there are any."""
    data_folder.lay_out(folder)
    if prompts:
        concept = yaml.safe_load(Path("concept.yaml").read_text())
        Path("concept.yaml").write_text(yaml.safe_dump({**concept, "prompts": list(prompts)}))
    tiny_pipeline_folder(folder / "base")
    base = ModelSpec("base", dtype="float32", device="cpu")
    data_folder.run(base)
    manifests = {"manifest": Path("artifacts/manifest/train.json"), "held_out": Path("artifacts/manifest/held_out.json")}
    captions, prompts = Path("cache/prompts/captions"), Path("cache/prompts/evaluation")
    cache_prompts(TextSettings(77), base, **manifests, concept=Path("concept.yaml"), captions=captions, evaluation=prompts)
    latents = {"train": Path("cache/latents/train"), "evaluation": Path("cache/latents/held_out")}
    cache_latents(ViewSettings(32, random_flip=True), base, **manifests, data=Path("data/images"), **latents)
    save_clip(folder / "clip")
    for step in (2, 4, 6):
        save_checkpoint(step)
    params = yaml.safe_load((ROOT / "params/pocket.yaml").read_text())
    params["model"]["path"] = "base"
    params["evaluate"] |= CHANGES
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def save_checkpoint(step: int, size: float = 0.05, **changes: Any) -> None:
    """Save a random adapter as the checkpoint of a step."""
    metadata = dataclasses.replace(METADATA, step=step, **changes)
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, metadata.target_modules, metadata.config)
    for parameter in tlora_parameters(transformer):
        torch.nn.init.normal_(parameter, std=size, generator=torch.Generator().manual_seed(step))
    save_tlora_weights(transformer, Path(f"adapters/checkpoint-{step:06d}") / WEIGHTS_FILE, metadata)


def save_clip(folder: Path) -> None:
    """Save a tiny random CLIP that measures."""
    tokenizer = build_clip_tokenizer()
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text | ends, vision_config={**small, "image_size": 32, "patch_size": 16})).save_pretrained(
        folder
    )
    square = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=square, crop_size=square).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
