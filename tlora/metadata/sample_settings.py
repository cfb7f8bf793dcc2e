"""How pictures are drawn, without torch: what an evaluation records and a served model is told."""

from dataclasses import dataclass
from typing import Literal

from tlora.runtime.ranges import LARGEST_SIDE, MOST_STEPS, require_strength, require_whole


@dataclass(frozen=True)
class SampleSettings:
    """How pictures are drawn.

    Args:
        width: Pixels, a multiple of twice the VAE's factor.
        height: Pixels, likewise.
        num_inference_steps: Denoising steps.
        guidance_scale: Input of a guidance-distilled model, 3.5 is usual; of a base that draws twice, the weight of the prompt
            against the empty one, 4 is usual, and 1 draws once.
        lora_scale: Strength of the adapter; 0 draws with the bare base.
        sigma_mask: Ranks by scheduler `timestep` as in training, by `step_index`, or always `full`.
        tileable: Make the left edge continue the right one, and the top the bottom.
    """

    width: int
    height: int
    num_inference_steps: int = 25
    guidance_scale: float = 3.5
    lora_scale: float = 1.0
    sigma_mask: Literal["timestep", "step_index", "full"] = "timestep"
    tileable: bool = False

    def __post_init__(self) -> None:
        require_whole("num_inference_steps", self.num_inference_steps, most=MOST_STEPS)
        require_whole("width", self.width, most=LARGEST_SIDE)
        require_whole("height", self.height, most=LARGEST_SIDE)
        require_strength("lora_scale", self.lora_scale)
        require_strength("guidance_scale", self.guidance_scale, least=0.0)
