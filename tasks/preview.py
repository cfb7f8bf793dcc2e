"""One picture in the middle of training, and the guard against adapters that do nothing or explode.

Drawn from cached embeddings, so no text encoder is loaded; the VAE stands on the device only here. Drawing uses random sources of
its own and so does not change what is learnt.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

from tlora.base_model import ModelSpec
from tlora.errors import TrainingError
from tlora.model import load_scheduler, load_vae
from tlora.sampling import Painter, SampleSettings, draw_pictures

PREVIEW_SEED = 0


@dataclass(frozen=True)
class PreviewSettings:
    """When training draws a picture, and what it refuses to go on with.

    Args:
        preview_every: Steps between previews; 0 draws none.
        num_inference_steps: Denoising steps of a preview; ranks that so many steps never use are warned about.
        guard_step: Step at which the adapter's effect is checked; 0 checks nothing. In the warm-up it waits for its end.
        max_relative_change: Largest update of any kind of layer, as a share of its weight, that is believed.
    """

    preview_every: int = 0
    num_inference_steps: int = 25
    guard_step: int = 50
    max_relative_change: float = 1.0

    def __post_init__(self) -> None:
        if self.preview_every < 0 or self.guard_step < 0:
            raise ValueError("preview_every and guard_step must not be negative")
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {self.num_inference_steps}")
        if self.max_relative_change <= 0:
            raise ValueError(f"max_relative_change must be positive, got {self.max_relative_change}")


def draw_preview(
    transformer: nn.Module, model: ModelSpec, embeddings: tuple[Tensor, Tensor], size: tuple[int, int], settings: PreviewSettings
) -> tuple[Image.Image, float]:
    """Draw the same seed with the adapter and with the bare base.

    Args:
        transformer: With the adapter; left in training mode.
        model: Where VAE and scheduler come from.
        embeddings: One row each of T5 and CLIP embeddings.
        size: Width and height in pixels.
        settings: Steps.

    Returns:
        The picture with the adapter, and its mean absolute difference to the base's in 0..1.
    """
    painter = Painter(transformer, load_vae(model), load_scheduler(model))
    transformer.eval()
    try:
        drawn = [
            draw_pictures(
                painter,
                embeddings,
                [PREVIEW_SEED],
                SampleSettings(*size, num_inference_steps=settings.num_inference_steps, lora_scale=scale),
            )[0]
            for scale in (1.0, 0.0)
        ]
    finally:
        transformer.train()
    own, base = (np.asarray(picture, np.float32) / 255 for picture in drawn)
    return drawn[0], float(np.abs(own - base).mean())


def check_effect(change: Mapping[str, float], step: int, limit: float) -> str:
    """Return a line about the adapter's effect on the weights so far.

    Args:
        change: Relative change of the weights by kind of layer; empty where all are quantised and none can be measured.
        step: When it was measured.
        limit: `max_relative_change`.

    Raises:
        TrainingError: If nothing has changed, or a change is not finite or beyond belief.
    """
    if change and all(value == 0 for value in change.values()):
        raise TrainingError(
            f"step {step}: no weight has changed at all: raise train.learning_rate, or adapt other layers (train.target_modules)"
        )
    for kind, value in change.items():
        if not math.isfinite(value):
            raise TrainingError(f"step {step}: the update of {kind} is {value}: lower train.learning_rate")
        if value > limit:
            raise TrainingError(
                f"step {step}: the update of {kind} is {value:.3g} times its weight, more than train.max_relative_change"
                f" ({limit:g}): lower train.learning_rate"
            )
    listed = ", ".join(f"{kind} {value:.3%}" for kind, value in change.items())
    return f"step {step}: relative weight change {listed or 'unknown, all layers are quantised'}"


def preview_file(folder: Path, step: int) -> Path:
    """Return where the preview of a step lies in a folder of previews."""
    return folder / f"step-{step:06d}.png"
