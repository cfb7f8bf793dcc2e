"""One picture in the middle of training, and the guard against adapters that do nothing or explode.

Drawn from cached embeddings, so no text encoder is loaded; the VAE stands on the device only here. Drawing uses random sources of
its own and so does not change what is learnt.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

from tlora.flux.model import load_scheduler, load_vae
from tlora.flux.spec import ModelSpec
from tlora.runtime.ranges import MOST_STEPS, require_whole
from tlora.sampling import Painter, SampleSettings, draw_pictures
from tlora.training.weight_change import BELIEVED

PREVIEW_SEED = 0


@dataclass(frozen=True)
class PreviewSettings:
    """When training draws a picture, and what it refuses to go on with.

    Args:
        preview_every: Steps between previews; 0 draws none.
        num_inference_steps: Denoising steps of a preview; ranks that so many steps never use are warned about.
        guard_step: Step at which the adapter's effect is checked; 0 checks nothing. In the warm-up it waits for its end.
        max_relative_change: Largest update of any kind of layer, as a share of its weight, that is believed.
        min_relative_change: Least one, of the kind of layer that changed most: below it, nothing is being learnt.
    """

    preview_every: int = 0
    num_inference_steps: int = 25
    guard_step: int = 50
    max_relative_change: float = BELIEVED[1]
    min_relative_change: float = BELIEVED[0]

    @property
    def believed(self) -> tuple[float, float]:
        """Between which relative changes the adapter is taken to be learning."""
        return self.min_relative_change, self.max_relative_change

    def __post_init__(self) -> None:
        if self.preview_every < 0 or self.guard_step < 0:
            raise ValueError("preview_every and guard_step must not be negative")
        require_whole("num_inference_steps", self.num_inference_steps, most=MOST_STEPS)
        if self.max_relative_change <= 0:
            raise ValueError(f"max_relative_change must be positive, got {self.max_relative_change}")
        if not 0 <= self.min_relative_change < self.max_relative_change:
            raise ValueError(
                "need 0 <= min_relative_change < max_relative_change,"
                f" got {self.min_relative_change} and {self.max_relative_change}"
            )


def draw_preview(
    transformer: nn.Module,
    model: ModelSpec,
    embeddings: tuple[Tensor, Tensor],
    empty_prompt: tuple[Tensor, Tensor] | None,
    size: tuple[int, int],
    settings: PreviewSettings,
) -> tuple[Image.Image, float]:
    """Draw the same seed with the adapter and with the bare base.

    Args:
        transformer: With the adapter; left in training mode.
        model: Where VAE and scheduler come from.
        embeddings: Of one prompt.
        empty_prompt: Of the empty one, for a base that draws twice.
        size: Width and height in pixels.
        settings: Steps.

    Returns:
        The picture with the adapter, and its mean absolute difference to the base's in 0..1.
    """
    painter = Painter(transformer, load_vae(model), load_scheduler(model), empty_prompt=empty_prompt)
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


def preview_file(folder: Path, step: int) -> Path:
    """Return where the preview of a step lies in a folder of previews."""
    return folder / f"step-{step:06d}.png"
