"""A folder in which `train` can run at once: a tiny random FLUX, its caches, and a dvc.yaml with that one stage."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from tests.tiny_flux import LATENT_CHANNELS, POOLED_WIDTH, TEXT_WIDTH, tiny_pipeline_folder
from tlora.flux.cached import CLASS_INDEX
from tlora.flux.prior_folder import PRIOR_GRID
from tlora.runtime.atomic_file import write_json

ROOT = Path(__file__).parents[2]
RUN = [
    *("--prompts", "cache/prompts/captions"),
    *("--latents", "cache/latents/train"),
    *("--prior", "cache/prior"),
    *("--concept", "concept.yaml"),
    *("--adapters", "adapters"),
    *("--report", "reports/train"),
]
WALL, BALL = "a matbrk wall", "a ball"
CHANGES: dict[str, Any] = {
    "rank": 4,
    "min_rank": 1,
    "alpha": 4,
    "learning_rate": 1e-2,
    "target_modules": ["to_q", "to_k", "to_v"],
    "max_train_steps": 60,
    "checkpointing_steps": 5,
    "state_steps": 1,
    "train_batch_size": 2,
    "guard_step": 0,
}


def make_trainable(folder: Path, **changes: Any) -> Path:
    """Fill a folder; equal calls make equal inputs. `changes` go into section `train`."""
    folder.mkdir(parents=True, exist_ok=True)
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=folder, check=True)
    tiny_pipeline_folder(folder / "base")
    params = yaml.safe_load((ROOT / "params/pocket.yaml").read_text())
    params["model"]["path"] = "base"
    params["evaluate"]["evaluator"] = "openai/clip-vit-base-patch32"  # on the hub, and never asked for
    params["train"] |= CHANGES | changes
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "concept.yaml").write_text("name: brick\ntrigger: matbrk\nheld_out: [b.png]\nprompts: [a matbrk wall]\n")
    source = torch.Generator().manual_seed(0)
    _write_prompts(folder / "cache/prompts/captions", source)
    _write_latents(folder / "cache/latents/train", source)
    command = f"python -m tasks.train {' '.join(RUN)}"
    stage = {"cmd": command, "params": ["train", "model"], "deps": ["cache"], "outs": ["adapters", "reports/train"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    return folder


def make_stoppable(folder: Path, **changes: Any) -> Path:
    """Fill a folder so that training ends early: its drift passes the limit long before the last step."""
    from tests.tasks.evaluable import save_clip  # transformers: every process of a run would import it

    stop = {"stop_patience": 2, "stop_min_gain": 1e-4, "stop_max_drift": 0.05, "stop_evaluator": "clip", "num_inference_steps": 2}
    make_trainable(
        folder, **({"max_train_steps": 40, "checkpointing_steps": 2, "learning_rate": 0.05, "ema_decay": 0.5} | stop | changes)
    )
    save_clip(folder / "clip")
    item = {"caption": "a brick wall", "file": "a.safetensors", "of": "a matbrk wall"}
    write_json(folder / "cache/prompts/captions" / CLASS_INDEX, {"items": [item]})
    return folder


def add_prior(folder: Path) -> None:
    """Put three of the base's own pictures beside what `make_trainable` made, or what takes their place."""
    source = torch.Generator().manual_seed(1)
    _write_prompts(folder / "cache/prior/captions", source, BALL)
    _write_latents(folder / "cache/prior/latents", source, BALL)
    Image.new("RGB", (8, 8)).save(folder / "cache/prior" / PRIOR_GRID)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["draw_prior"]["pictures"] = 3
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def _write_prompts(folder: Path, source: torch.Generator, caption: str = WALL) -> None:
    folder.mkdir(parents=True)
    embeds = {
        "prompt_embeds": torch.randn(5, TEXT_WIDTH, generator=source),
        "pooled_prompt_embeds": torch.randn(POOLED_WIDTH, generator=source),
    }
    save_file(embeds, folder / "a.safetensors")
    items = [{"caption": text, "file": "a.safetensors"} for text in ("", caption)]
    write_json(folder / "index.json", {"max_sequence_length": 5, "items": items})


def _write_latents(folder: Path, source: torch.Generator, caption: str = WALL) -> None:
    folder.mkdir(parents=True)
    items = []
    for i in range(3):
        shape = (LATENT_CHANNELS, 6, 6)
        save_file({"mean": torch.randn(shape, generator=source), "std": torch.full(shape, 0.1)}, folder / f"{i}.safetensors")
        item = {"file": f"{i}.safetensors", "picture": f"{i}.png", "caption": caption, "flipped": False}
        items.append({**item, "height": 6, "width": 6})
    write_json(folder / "index.json", {"data_digest": "d", "pixels_per_latent": 2, "items": items})
