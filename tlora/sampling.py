"""Draw pictures with the right mask at every step, the first included.

A mask set in a pipeline's end-of-step callback acts one step late, so step 0 would run at full rank. Here every mask is
known before the loop, from the scheduler's own float32 timesteps.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from tlora.errors import SettingsError
from tlora.flux.families import FLUX_1, Family
from tlora.flux.files import is_distilled, read_family
from tlora.flux.latents import PATCH
from tlora.flux.model import Conditioning, Scheduler, Vae, decode_latents, pixels_per_latent, predict_velocity
from tlora.flux.noise import MAX_TIMESTEP, empirical_mu
from tlora.flux.spec import ModelSpec
from tlora.inject import Masks, adapter_configs, family_of, mask_at
from tlora.metadata.sample_settings import SampleSettings as SampleSettings  # users take it from here


@dataclass(frozen=True)
class Painter:
    """What drawing needs.

    Args:
        transformer: With or without adapters.
        vae: Its decoder.
        scheduler: The sampler.
        device: Where the transformer computes; by default where its weights are, which offloaded ones are not.
        strengths: Of several adapters, what each one's share of `lora_scale` is.
        make_room: Called with whichever of transformer and VAE is about to compute; by default both stay where they are.
        empty_prompt: Embeddings of the empty prompt, (1, length, width) and (1, pooled), for a base that `draws_twice`.
    """

    transformer: nn.Module
    vae: Vae
    scheduler: Scheduler
    device: torch.device | None = None
    strengths: tuple[float, ...] = (1.0,)
    make_room: Callable[[nn.Module], None] | None = None
    empty_prompt: tuple[Tensor, Tensor] | None = None


def draws_twice(base: ModelSpec) -> bool:
    """Whether a base follows a prompt by a second forward with the empty one, which whoever paints with it then has to bring."""
    return read_family(base, fetch=True).draws_twice and not is_distilled(base)


@dataclass(frozen=True)
class DenoisingStep:
    """One step done: its index, its timestep, and the latents after it, (batch, c, h, w) in float32."""

    index: int
    timestep: float
    latents: Tensor


def draw_pictures(
    painter: Painter,
    embeddings: tuple[Tensor, Tensor],
    seeds: Sequence[int],
    settings: SampleSettings,
    on_step: Callable[[DenoisingStep], None] | None = None,
) -> list[Image.Image]:
    """Draw one picture per seed.

    Args:
        painter: Transformer, VAE and scheduler.
        embeddings: (batch, length, width) and (batch, pooled), one row per picture.
        seeds: One per picture; what a picture starts from does not depend on its neighbours.
        settings: Size, steps, guidance, strength.
        on_step: Called after every step.

    Raises:
        SettingsError: If the size does not fit the VAE.
    """
    latents = initial_noise(painter.vae, seeds, settings)
    if painter.make_room:
        painter.make_room(painter.transformer)
    for step in denoise(painter, latents, embeddings, settings):
        latents = step.latents
        if on_step:
            on_step(step)
    if painter.make_room:
        painter.make_room(painter.vae)
    with circular_convolutions(painter.vae) if settings.tileable else nullcontext():
        return pictures_of(decode_latents(painter.vae, latents))


def pictures_of(pixels: Float[Tensor, "batch 3 height width"]) -> list[Image.Image]:
    """Return pixels in -1..1 as pictures of 8 bits."""
    rounded = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in rounded]


def initial_noise(vae: Vae, seeds: Sequence[int], settings: SampleSettings) -> Float[Tensor, "batch c h w"]:
    """Draw the starting noise of each seed on the CPU, so that every device starts from the same.

    Raises:
        SettingsError: If width or height is not a multiple of twice the VAE's factor.
    """
    factor = pixels_per_latent(vae)
    multiple = factor * PATCH
    if settings.width % multiple or settings.height % multiple or min(settings.width, settings.height) < multiple:
        raise SettingsError(f"width and height must be multiples of {multiple}, got {settings.width} x {settings.height}")
    shape = (vae.config.latent_channels, settings.height // factor, settings.width // factor)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def denoise(
    painter: Painter, latents: Float[Tensor, "batch c h w"], embeddings: tuple[Tensor, Tensor], settings: SampleSettings
) -> Iterator[DenoisingStep]:
    """Denoise step by step.

    Source:
        `FluxPipeline.__call__` and `Flux2KleinPipeline.__call__` in diffusers: the same sigmas, shift, Euler steps and guidance;
        the mask is T-LoRA's. With a second forward, both are one batch under one mask.
    """
    device, count = painter.device or next(painter.transformer.parameters()).device, len(latents)
    halves = [embeddings]
    if painter.empty_prompt is not None and settings.guidance_scale > 1:
        halves += [(painter.empty_prompt[0].expand(count, -1, -1), painter.empty_prompt[1].expand(count, -1))]
    text, pooled = (torch.cat(both).to(device) for both in zip(*halves, strict=True))
    conditioning = Conditioning(text, pooled, settings.guidance_scale)
    steps, tokens = settings.num_inference_steps, latents.shape[-2] * latents.shape[-1] // 4
    timesteps = set_timesteps(painter.scheduler, steps, tokens, family_of(painter.transformer))
    masks = step_masks(painter.transformer, timesteps, settings)
    scales = tuple(settings.lora_scale * strength for strength in painter.strengths)
    latents = latents.to(device)
    for index, timestep in enumerate(timesteps):
        shift = tile_shift(index, latents) if settings.tileable else (0, 0)
        velocity = predict_velocity(
            painter.transformer,
            latents.roll(shift, (-2, -1)).repeat(len(halves), 1, 1, 1),
            timestep.expand(len(halves) * count).to(device),
            conditioning,
            tuple(None if mask is None else mask[index : index + 1].to(device) for mask in masks) or None,
            scales,
        ).roll((-shift[0], -shift[1]), (-2, -1))
        if len(halves) > 1:
            velocity = velocity[count:] + settings.guidance_scale * (velocity[:count] - velocity[count:])
        latents = painter.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        yield DenoisingStep(index, float(timestep), latents)


def set_timesteps(scheduler: Scheduler, steps: int, image_tokens: int, family: Family = FLUX_1) -> Float[Tensor, " steps"]:
    """Set the scheduler's steps as the family's pipeline does, and return its float32 timesteps, on the CPU."""
    config = scheduler.config
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    mu = config.base_shift + slope * (image_tokens - config.base_image_seq_len)
    if family.shift == "empirical":
        mu = empirical_mu(image_tokens, steps)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device="cpu")
    return scheduler.timesteps.float()


def step_masks(transformer: nn.Module, timesteps: Float[Tensor, " steps"], settings: SampleSettings) -> Masks:
    """Return the sigma mask of every step, (steps, rank), of each adapter."""
    times, scale = timesteps, MAX_TIMESTEP
    if settings.sigma_mask == "step_index":  # progress through denoising, whatever the scheduler
        times, scale = torch.arange(len(timesteps) - 1.0, -1.0, -1.0), max(len(timesteps) - 1.0, 1.0)
    if settings.sigma_mask == "full":
        times = torch.zeros_like(timesteps)
    return tuple(mask_at(cfg, times, scale) for cfg in adapter_configs(transformer))


_GOLDEN, _PLASTIC = 0.6180339887, 0.7548776662  # multiples of either fall nowhere twice, and evenly


def tile_shift(step: int, latents: Float[Tensor, "batch c h w"]) -> tuple[int, int]:
    """Return how far to roll latents (down, right) at a step: whole tokens, and elsewhere at every step."""
    rows, columns = latents.shape[-2] // PATCH, latents.shape[-1] // PATCH
    return int((step + 1) * _GOLDEN % 1 * rows) * PATCH, int((step + 1) * _PLASTIC % 1 * columns) * PATCH


@contextmanager
def circular_convolutions(vae: nn.Module) -> Iterator[None]:
    """Let the convolutions of a VAE's decoder wrap round instead of padding with zeros.

    Its attention and its group norms know no positions, so decoding rolled latents is then rolling the decoded picture.
    """
    decoder = vae.get_submodule("decoder")
    convolutions = [m for m in decoder.modules() if isinstance(m, nn.Conv2d) and m.padding_mode == "zeros"]
    for convolution in convolutions:
        convolution.padding_mode = "circular"
    try:
        yield
    finally:
        for convolution in convolutions:
            convolution.padding_mode = "zeros"
