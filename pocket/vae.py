"""Train the pocket's VAE: 16 latent channels, 4x smaller, and encode the training pictures with it."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from pocket.loop import Draw, Learner, Recipe, train
from pocket.pictures import VALIDATION_PICTURES, to_tensor

LATENT_CHANNELS = 16
CROP = 32
CROP_SHARE = 0.6  # of the steps see crops in large batches, the rest whole pictures
KL_WEIGHT = 5e-5


def build_vae() -> AutoencoderKL:
    """Return an untrained VAE.

    The encoder's log-variance starts at -5: at the default of 0 the noise drowns the latent and the first
    hundreds of steps learn nothing.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    with torch.no_grad():
        vae.encoder.conv_out.bias[LATENT_CHANNELS:].fill_(-5.0)
        vae.encoder.conv_out.weight[LATENT_CHANNELS:].mul_(0.1)
    return vae


def train_vae(pictures: NDArray[np.uint8], steps: int, folder: Path) -> AutoencoderKL:
    """Train the VAE and set its scaling and shift factors from the latents' statistics."""
    vae = build_vae().to(memory_format=torch.channels_last)
    learner = Learner([vae], Recipe("vae", 1, steps, 2e-3, 0.0, 0.995))
    train(learner, lambda step, draw: _loss(vae, pictures, step / steps, draw), folder)
    vae = vae.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    latents = torch.cat([_posterior_mean(vae, pictures[i : i + 64]) for i in range(0, min(1024, len(pictures)), 64)])
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
    return vae


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> Tensor:
    """Return the normalised latents of all pictures as float16, (count, 16, 16, 16)."""
    batches = [_posterior_mean(vae, pictures[i : i + 125]).half() for i in range(0, len(pictures), 125)]
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    return torch.cat([((batch.float() - shift) * scale).half() for batch in batches])


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB over pictures that training did not see."""
    original = to_tensor(pictures)
    decoded = vae.decode(vae.encode(original).latent_dist.mode()).sample.clamp(-1, 1)
    return 10 * math.log10(4 / F.mse_loss(decoded, original).item())


def _posterior_mean(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> Tensor:
    with torch.no_grad():
        return vae.encode(to_tensor(pictures)).latent_dist.mode()


def _loss(vae: AutoencoderKL, pictures: NDArray[np.uint8], progress: float, draw: Draw) -> Tensor:
    whole = progress >= CROP_SHARE
    chosen = np.sort(draw.numpy.integers(VALIDATION_PICTURES, len(pictures), 6 if whole else 16))
    batch = _vary(to_tensor(pictures[chosen]), draw)
    if not whole:
        x, y = draw.numpy.integers(0, batch.shape[-1] - CROP + 1, 2)
        batch = batch[:, :, y : y + CROP, x : x + CROP]
    batch = batch.contiguous(memory_format=torch.channels_last)
    posterior = vae.encode(batch).latent_dist
    sample = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=draw.torch)
    decoded = vae.decode(sample).sample
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return (decoded - batch).abs().mean() + 0.5 * F.mse_loss(decoded, batch) + KL_WEIGHT * kl


def _vary(batch: Tensor, draw: Draw) -> Tensor:
    """Grey or darken some pictures, so that photographs outside the ten colours survive the VAE."""
    strength = torch.rand(len(batch), 1, 1, 1, generator=draw.torch)
    grey = batch.mean(1, keepdim=True)
    greyed = torch.where(strength < 0.15, grey, batch)
    contrast = 0.5 + torch.rand(len(batch), 1, 1, 1, generator=draw.torch) / 2
    return torch.where((strength > 0.1) & (strength < 0.3), greyed * contrast, greyed)
