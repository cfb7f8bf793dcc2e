"""A ComfyUI workflow that switches rank bands on by step, in the form that its API takes and its page opens.

ComfyUI's simple scheduler puts step i of n where i / n of the way has been walked, whatever the shift, so a band that starts at
step i has its keyframe half a step before. A LoRA hook patches weights: the result is that of the layers within weight rounding.
"""

import math
from collections.abc import Sequence
from typing import Any


def comfy_workflow(
    bands: Sequence[tuple[str, int]], width: int, height: int, steps: int, trigger: str, shift: float | None = None
) -> dict[str, Any]:
    """Return the workflow.

    Args:
        bands: File and first step of each.
        width: Pixels.
        height: Pixels.
        steps: Denoising steps.
        trigger: Trigger word, for the prompt that stands in it.
        shift: Of FLUX.2 klein's schedule, as `shift_of` finds it; None for FLUX.1-dev, whose nodes know theirs.
    """
    size, text = {"width": width, "height": height}, f"a {trigger or 'wall'}"
    nodes = _flux_1(size, text) if shift is None else _klein(size, text, shift)
    hooks = _add_hooks(nodes, bands, steps)
    if shift is None:
        nodes["banded"], cfg = _banded("guidance", hooks), 1.0
        nodes["nothing"] = _node("ConditioningZeroOut", conditioning=["prompt", 0])
        nodes["latent"] = _node("EmptySD3LatentImage", batch_size=1, **size)
    else:  # both halves of the guidance are drawn with the adapter
        nodes["banded"], nodes["nothing"], cfg = _banded("prompt", hooks), _banded("empty", hooks), 4.0
        nodes["latent"] = _node("EmptyFlux2LatentImage", batch_size=1, **size)
    nodes |= {
        "sampler": _node(
            "KSampler", model=["model", 0], positive=["banded", 0], negative=["nothing", 0], latent_image=["latent", 0],
            seed=0, steps=steps, cfg=cfg, sampler_name="euler", scheduler="simple", denoise=1.0,
        ),
        "picture": _node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "save": _node("SaveImage", images=["picture", 0], filename_prefix="tlora"),
    }  # fmt: skip
    return _numbered(nodes)


def shift_of(timesteps: Sequence[float]) -> float:
    """Return the mu by which a sampler's steps, even before, were shifted towards noise; 0 where one step says nothing.

    Args:
        timesteps: Falling from 1000, as diffusers' `FlowMatchEulerDiscreteScheduler` has them.

    Example:
        >>> round(shift_of((1000.0, 900.0)), 4)  # 0.5 became 0.9
        2.1972
    """
    if len(timesteps) < 2:
        return 0.0
    even, shifted = 1 - 1 / len(timesteps), timesteps[1] / 1000
    return math.log(shifted / (1 - shifted) * (1 - even) / even)


def _flux_1(size: dict[str, int], text: str) -> dict[str, Any]:
    return {
        "unet": _node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "clip": _node("DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp16.safetensors", type="flux"),
        "vae": _node("VAELoader", vae_name="ae.safetensors"),
        "model": _node("ModelSamplingFlux", model=["unet", 0], max_shift=1.15, base_shift=0.5, **size),
        "prompt": _node("CLIPTextEncode", clip=["clip", 0], text=text),
        "guidance": _node("FluxGuidance", conditioning=["prompt", 0], guidance=3.5),
    }


def _klein(size: dict[str, int], text: str, shift: float) -> dict[str, Any]:
    return {
        "unet": _node("UNETLoader", unet_name="flux-2-klein-base-4b.safetensors", weight_dtype="default"),
        "clip": _node("CLIPLoader", clip_name="qwen_3_4b.safetensors", type="flux2"),
        "vae": _node("VAELoader", vae_name="flux2-vae.safetensors"),
        "model": _node("ModelSamplingFlux", model=["unet", 0], max_shift=round(shift, 6), base_shift=round(shift, 6), **size),
        "prompt": _node("CLIPTextEncode", clip=["clip", 0], text=text),
        "empty": _node("CLIPTextEncode", clip=["clip", 0], text=""),
    }


def _banded(conditioning: str, hooks: str) -> dict[str, Any]:
    return _node("ConditioningSetProperties", cond_NEW=[conditioning, 0], strength=1.0, set_cond_area="default", hooks=[hooks, 0])


def _add_hooks(nodes: dict[str, Any], bands: Sequence[tuple[str, int]], steps: int) -> str:
    """Add a LoRA hook for each band, with keyframes of its own where it starts late; return the node that combines them."""
    combined = ""
    for index, (file, first_step) in enumerate(bands):
        hook = f"hook {index}"
        nodes[hook] = _node("CreateHookLoraModelOnly", lora_name=file, strength_model=1.0)
        if first_step:
            off, on, keyed = f"off {index}", f"on {index}", f"keyed {index}"
            start = round((first_step - 0.5) / steps, 4)
            nodes[off] = _node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0)
            nodes[on] = _node("CreateHookKeyframe", strength_mult=1.0, start_percent=start, prev_hook_kf=[off, 0])
            nodes[keyed] = _node("SetHookKeyframes", hooks=[hook, 0], hook_kf=[on, 0])
            hook = keyed
        if combined:
            nodes[f"bands to {index}"] = _node("CombineHooks2", hooks_A=[combined, 0], hooks_B=[hook, 0])
            hook = f"bands to {index}"
        combined = hook
    return combined


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _numbered(nodes: dict[str, Any]) -> dict[str, Any]:
    """Replace names by numbers, as ComfyUI wants them; the names stay as titles."""
    number = {name: str(index) for index, name in enumerate(nodes, start=1)}
    return {
        number[name]: {
            "class_type": node["class_type"],
            "inputs": {key: [number[v[0]], v[1]] if isinstance(v, list) else v for key, v in node["inputs"].items()},
            "_meta": {"title": name},
        }
        for name, node in nodes.items()
    }
