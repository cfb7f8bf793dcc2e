"""Draw with T-LoRA in stock diffusers: one standard LoRA per band of ranks, each switched on at the step that first uses it.

This file is written beside the bands. It needs diffusers and peft, nothing else:

    import torch
    from diffusers import FluxPipeline
    import draw_bands

    pipe = FluxPipeline.from_pretrained("black-forest-labs/FLUX.1-dev", dtype=torch.bfloat16).to("cuda")
    bands = draw_bands.load(pipe, "exported")
    picture = draw_bands.draw(pipe, bands, prompt="a matbrk wall").images[0]
"""

import json
import warnings
from pathlib import Path
from typing import Any


def load(pipe: Any, folder: str | Path) -> dict[str, Any]:
    """Load every band into the pipeline, and return the manifest."""
    _require_unwrapped(pipe)
    manifest: dict[str, Any] = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        for band in manifest["bands"]:
            # not the pipeline's own way, which warns of text encoders that no band has
            pipe.transformer.load_lora_adapter(str(folder), weight_name=band["file"], adapter_name=band["name"])
    return manifest


def arm(pipe: Any, manifest: dict[str, Any], step: int, scale: float = 1.0) -> None:
    """Switch on the bands that a step uses."""
    _require_unwrapped(pipe)
    names = [band["name"] for band in manifest["bands"] if band["first_step"] <= step]
    pipe.set_adapters(names, [scale] * len(names))


def draw(pipe: Any, manifest: dict[str, Any], scale: float = 1.0, **call: Any) -> Any:
    """Call the pipeline with the right bands at every step; size and number of steps are those that the bands were cut for."""
    sampler = manifest["sampler"]

    def arm_next(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        expected = sampler["timesteps"][step]
        if abs(float(timestep) - expected) > 0.5:  # bfloat16 pipelines keep their timesteps in float32
            raise ValueError(
                f"step {step} is at timestep {float(timestep):.1f}, the bands were cut for {expected:.1f}: export again"
            )
        if step + 1 < len(sampler["timesteps"]):
            arm(pipe, manifest, step + 1, scale)
        return tensors

    arm(pipe, manifest, 0, scale)  # the callback comes after a step, too late for the first
    size = {"width": sampler["width"], "height": sampler["height"], "num_inference_steps": len(sampler["timesteps"])}
    return pipe(**size, **call, callback_on_step_end=arm_next)


def _require_unwrapped(pipe: Any) -> None:
    if hasattr(pipe.transformer, "_orig_mod"):
        raise ValueError(
            "the transformer is wrapped by torch.compile, which loses bands: set pipe.transformer = pipe.transformer._orig_mod,"
            " then compile in place: pipe.transformer.compile() or pipe.transformer.compile_repeated_blocks()"
        )
