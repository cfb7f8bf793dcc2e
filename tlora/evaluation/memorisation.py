"""Does the adapter know the pictures it was trained on better than others of the same concept? Read from the loss alone.

The loss of a picture at a fixed noise level and a fixed noise is a number without sampling error, so even few pictures tell. A
picture is compared with itself under the bare base, and pictures that were trained on with held-out ones: what an adapter
learns of a concept helps both, what it memorises helps the first alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlora.evaluation.intervals import Cells, Interval, gap_interval
from tlora.flux.cached import LatentItem
from tlora.flux.model import TRAINING_GUIDANCE, Conditioning, predict_velocity
from tlora.flux.noise import MAX_TIMESTEP, mix_noise, sample_generator, velocity_target
from tlora.inject import adapter_configs, mask_at


@dataclass(frozen=True)
class LossSettings:
    """At which noise the loss of a picture is taken.

    Args:
        loss_sigmas: Noise levels, in (0, 1).
        loss_noises: Noises at each level.
        loss_pictures: At most so many pictures of those trained on, and of those held out.
    """

    loss_sigmas: tuple[float, ...] = (0.25, 0.5, 0.75)
    loss_noises: int = 2
    loss_pictures: int = 16

    def __post_init__(self) -> None:
        if not self.loss_sigmas or not all(0 < sigma < 1 for sigma in self.loss_sigmas):
            raise ValueError(f"loss_sigmas must be noise levels between 0 and 1, at least one, got {list(self.loss_sigmas)}")
        if self.loss_noises < 1 or self.loss_pictures < 1:
            raise ValueError(f"need loss_noises and loss_pictures of at least 1, got {self.loss_noises} and {self.loss_pictures}")


def choose_views(views: Sequence[LatentItem], count: int) -> list[LatentItem]:
    """Return the first view of each picture, and of more pictures than `count` an even choice."""
    firsts: dict[str, LatentItem] = {}
    for view in views:
        firsts.setdefault(view.picture, view)
    pictures = list(firsts.values())
    return pictures if len(pictures) <= count else [pictures[i * len(pictures) // count] for i in range(count)]


@torch.no_grad()
def picture_losses(
    transformer: nn.Module,
    views: Sequence[LatentItem],
    read_prompts: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    settings: LossSettings,
) -> Cells:
    """Return the training loss of each picture at fixed noise, (pictures, levels * noises), each with its level's own mask.

    Args:
        transformer: With or without an adapter.
        views: Cached views; the latents are the middle of the posterior, not a draw.
        read_prompts: Captions to embeddings.
        settings: Which noise.
    """
    sigma = torch.tensor(settings.loss_sigmas).repeat_interleave(settings.loss_noises)
    device = next(transformer.parameters()).device
    masks = tuple(mask_at(cfg, sigma * MAX_TIMESTEP) for cfg in adapter_configs(transformer))
    masks = tuple(None if mask is None else mask.to(device) for mask in masks)
    rows = []
    for view in views:
        noise = torch.stack([torch.randn(view.mean.shape, generator=sample_generator(0, 0, i)) for i in range(len(sigma))])
        latents = view.mean.expand_as(noise)
        embeds, pooled = (t.to(device).expand(len(sigma), *t.shape[1:]) for t in read_prompts([view.caption]))
        prediction = predict_velocity(
            transformer,
            mix_noise(latents, noise, sigma).to(device),
            (sigma * MAX_TIMESTEP).to(device),
            Conditioning(embeds, pooled, TRAINING_GUIDANCE),
            masks or None,
        )
        error = (prediction.cpu() - velocity_target(latents, noise)).square()
        rows.append(error.flatten(1).mean(dim=1).double().numpy())
    return np.stack(rows)


def loss_reduction(own: Cells, base: Cells) -> NDArray[np.float64]:
    """Return by which share an adapter lowers the base's loss, (pictures, 1): at most 1, higher is better learnt.

    Known failure: a loss was seen to fall while pictures got worse; it says what was learnt, not how good it looks.
    """
    return 1 - own.mean(axis=1, keepdims=True) / base.mean(axis=1, keepdims=True)


def loss_gap(train: Cells, held_out: Cells) -> Interval:
    """Return how much more of the loss is gone on pictures trained on than on held-out ones.

    -1..1, lower is better, 0 is no memorising.

    Args:
        train: `loss_reduction` of pictures that were trained on.
        held_out: Of held-out pictures.

    Known failure: held-out pictures that are parts of the same photograph are known half-way, and hide memorising.
    Source: member against non-member loss, as in membership inference (arXiv:1709.01604), section 3.
    """
    return gap_interval(train, held_out)
