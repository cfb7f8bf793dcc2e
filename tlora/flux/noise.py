"""Draw noise levels, mix noise in, and say what the model must predict.

A FLUX is a rectified flow: noisy = (1 - sigma) * latents + sigma * noise, and the model predicts the velocity
noise - latents. sigma and timestep are one number: timestep = 1000 * sigma, after any shift.
Every random number is a function of (seed, step, sample), so a resumed run draws what an unbroken one would.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tlora.flux.families import FLUX_1, Family
from tlora.runtime.settings import require_choices

MAX_TIMESTEP = 1000.0
_USUAL_STEPS = 50  # of FLUX.2's sampler, on whose number its shift depends: what its publisher draws with, and trained for here


@dataclass(frozen=True)
class NoiseSettings:
    """How training draws noise levels.

    Args:
        timestep_sampling: `uniform` (the paper's), `logit_normal` (middle noise levels more often), or `shifted`
            (logit-normal, then shifted towards noise by picture size, as the base's own sampler does).
        logit_mean: Mean of the logit-normal.
        logit_std: Standard deviation of the logit-normal.
    """

    timestep_sampling: Literal["uniform", "logit_normal", "shifted"] = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self) -> None:
        require_choices(self)
        if not (0 < self.logit_std < math.inf):
            raise ValueError(f"logit_std must be positive and finite, got {self.logit_std}")
        if not math.isfinite(self.logit_mean):
            raise ValueError(f"logit_mean must be finite, got {self.logit_mean}")


def sample_generator(seed: int, step: int, sample: int) -> torch.Generator:
    """Return the random source of one sample of one step.

    Args:
        seed: Seed of the run.
        step: Optimizer step, from 0.
        sample: Position in the whole batch of the step, over micro-steps and processes.
    """
    state = np.random.SeedSequence([seed, step, sample]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def draw_sigma(
    settings: NoiseSettings, image_tokens: int, generator: torch.Generator, family: Family = FLUX_1
) -> Float[Tensor, "1"]:
    """Draw one noise level in (0, 1], float32.

    Args:
        settings: Which distribution.
        image_tokens: Packed image tokens of the sample, which `shifted` depends on.
        generator: Random source of the sample.
        family: Whose sampler `shifted` follows.
    """
    return sigma_quantile(settings, image_tokens, 1.0 - torch.rand(1, generator=generator), family)


def sigma_quantile(
    settings: NoiseSettings, image_tokens: int, share: Float[Tensor, " batch"], family: Family = FLUX_1
) -> Float[Tensor, " batch"]:
    """Return the noise levels below which these shares, in (0, 1], of all draws lie.

    Source:
        Stable Diffusion 3 (arXiv:2403.03206), section 3.1, for the logit-normal; for the shift, the scheduler
        (`calculate_shift` of diffusers' FluxPipeline and `FlowMatchEulerDiscreteScheduler._time_shift_exponential`).
    """
    if settings.timestep_sampling == "uniform":
        return share
    sigma = torch.sigmoid(settings.logit_mean + settings.logit_std * torch.special.ndtri(share))
    if settings.timestep_sampling == "shifted":
        sigma = shift_sigma(sigma, image_tokens, family)
    return sigma.clamp(min=torch.finfo(torch.float32).tiny, max=1.0)


def shift_sigma(sigma: Float[Tensor, " batch"], image_tokens: int, family: Family = FLUX_1) -> Float[Tensor, " batch"]:
    """Move noise levels towards noise, the more so the larger the picture.

    Source:
        FLUX.1's scheduler: mu is linear in the token count, 0.5 at 256 and 1.15 at 4096; sigma' = e^mu / (e^mu + 1/sigma - 1).
        FLUX.2's has the mu of `empirical_mu`.
    """
    mu = 0.5 + (1.15 - 0.5) * (image_tokens - 256) / (4096 - 256)
    if family.shift == "empirical":
        mu = empirical_mu(image_tokens, _USUAL_STEPS)
    return math.exp(mu) / (math.exp(mu) + 1 / sigma - 1)


def empirical_mu(image_tokens: int, steps: int) -> float:
    """Return how far FLUX.2's sampler shifts noise levels.

    Source:
        `compute_empirical_mu` of diffusers' Flux2KleinPipeline.
    """
    large = 0.00016927 * image_tokens + 0.45666666
    if image_tokens > 4300:
        return large
    small = 8.73809524e-05 * image_tokens + 1.89833333
    slope = (large - small) / 190.0
    return slope * steps + large - 200.0 * slope


def mix_noise(
    latents: Float[Tensor, " batch *shape"], noise: Float[Tensor, " batch *shape"], sigma: Float[Tensor, " batch"]
) -> Float[Tensor, " batch *shape"]:
    """Return (1 - sigma) * latents + sigma * noise, each sample with its own sigma."""
    level = sigma.reshape(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise


def velocity_target(
    latents: Float[Tensor, " batch *shape"], noise: Float[Tensor, " batch *shape"]
) -> Float[Tensor, " batch *shape"]:
    """Return noise - latents, what is predicted; neither the noise nor the latents."""
    return noise - latents
