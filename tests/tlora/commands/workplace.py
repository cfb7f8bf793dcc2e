"""A working folder for the command line: a tiny random base, two captioned pictures, a configuration and prompts."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from tests.tiny_flux import tiny_transformer
from tlora.checkpoint import adapter_tensors, save_tlora_weights
from tlora.inject import inject_tlora_into_transformer
from tlora.metadata.adapter import AdapterMetadata
from tlora.metadata.config import TLoRAConfig

CONFIG: dict[str, Any] = {
    "train_data_dir": "pictures",
    "output_dir": "out",
    "mixed_precision": "no",
    "resolution": 16,
    "max_train_steps": 2,
    "checkpointing_steps": 1,
    "lora_rank": 4,
    "learning_rate": 0.005,
    "num_inference_steps": 2,
    "max_sequence_length": 16,
}


def fill_workplace(folder: Path, base: Path) -> None:
    """Fill a folder; equal calls make equal files."""
    (folder / "pictures").mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"pictures/{number}.png")
    (folder / "pictures/0.txt").write_text("a matbrk wall")
    write_config(folder, base)
    (folder / "prompts.txt").write_text("a matbrk wall\n\na matbrk ball\n")


def write_config(folder: Path, base: Path | str, **changes: Any) -> None:
    """Write config.yaml anew."""
    given = {**CONFIG, "pretrained_model_name_or_path": str(base), **changes}
    (folder / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in given.items() if v is not None}))


def adapter_file(path: Path, cfg: TLoRAConfig, targets: tuple[str, ...], seed: int) -> Path:
    """Save an adapter of random values."""
    transformer = tiny_transformer()
    inject_tlora_into_transformer(transformer, targets, cfg, seed=seed)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapter_tensors(transformer).values():
            tensor.add_(torch.randn(tensor.shape, generator=source), alpha=0.3)
    save_tlora_weights(transformer, path, AdapterMetadata(cfg, targets))
    return path
