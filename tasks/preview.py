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
from tlora.strength import relative_change

PREVIEW_SEED = 0


@dataclass(frozen=True)
class PreviewSettings:
    """When training draws a picture, and what it refuses to go on with.

    Args:
        preview_every: Steps between previews; 0 draws none.
        num_inference_steps: Denoising steps of a preview; ranks that so many steps never use are warned about.
        guard_step: Step at which the adapter's effect is checked; 0 checks nothing.
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
    drawn = [
        draw_pictures(
            painter,
            embeddings,
            [PREVIEW_SEED],
            SampleSettings(*size, num_inference_steps=settings.num_inference_steps, lora_scale=scale),
        )[0]
        for scale in (1.0, 0.0)
    ]
    transformer.train()
    own, base = (np.asarray(picture, np.float32) / 255 for picture in drawn)
    return drawn[0], float(np.abs(own - base).mean())


def check_effect(change: Mapping[str, float], distance: float, step: int, limit: float) -> str:
    """Return a line about the adapter's effect so far.

    Raises:
        TrainingError: If nothing has changed, or a change is not finite or beyond belief.
    """
    if all(value == 0 for value in change.values()):
        raise TrainingError(f"step {step}: no weight has changed at all: raise learning_rate or check target_modules")
    for kind, value in change.items():
        if not math.isfinite(value) or value > limit:
            raise TrainingError(
                f"step {step}: the update of {kind} is {value:.3g} times its weight, more than max_relative_change"
                f" ({limit:g}): lower learning_rate"
            )
    listed = ", ".join(f"{kind} {value:.3%}" for kind, value in change.items())
    return f"step {step}: relative weight change {listed}; a picture differs from the base's by {distance:.3f} of full scale"


def guard(
    transformer: nn.Module,
    model: ModelSpec,
    embeddings: tuple[Tensor, Tensor],
    size: tuple[int, int],
    step: int,
    settings: PreviewSettings,
) -> str:
    """Measure the adapter's effect and refuse to go on if there is none or far too much; return a line about it."""
    change = relative_change(transformer)
    check_effect(change, 0.0, step, settings.max_relative_change)  # before anything is drawn with it
    _, distance = draw_preview(transformer, model, embeddings, size, settings)
    return check_effect(change, distance, step, settings.max_relative_change)


def save_preview(picture: Image.Image, folder: Path, step: int) -> Path:
    """Save a preview; return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.png"
    picture.save(path)
    return path
