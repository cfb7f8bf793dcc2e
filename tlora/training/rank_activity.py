"""How often each rank takes part: in training under the chosen noise, and in sampling under the chosen steps.

Schedule and sampler interact strongly: with few steps or a strong shift the highest ranks are trained seldom and never used.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tlora.flux.families import FLUX_1, Family
from tlora.flux.noise import MAX_TIMESTEP, NoiseSettings, sigma_quantile
from tlora.schedule import RankSchedule

_LEVELS = 4096
_SHOWN = 10  # ranks in the line; of more, every so many


def rank_activity(
    schedule: RankSchedule, noise: NoiseSettings, image_tokens: int, family: Family = FLUX_1
) -> Float[Tensor, " rank"]:
    """Return the share of training samples in which each rank takes part, first rank first."""
    shares = (torch.arange(_LEVELS) + 0.5) / _LEVELS
    return schedule.mask(sigma_quantile(noise, image_tokens, shares, family) * MAX_TIMESTEP).mean(dim=0)


@dataclass(frozen=True)
class Reach:
    """What a sampler makes of an adapter.

    Args:
        highest_rank: The highest rank that any step uses; ranks above it are trained for nothing.
        steps: Steps in all.
    """

    highest_rank: int
    steps: int


def sampler_reach(schedule: RankSchedule, timesteps: Float[Tensor, " steps"]) -> Reach:
    """Return how far up the ranks a sampler's timesteps reach."""
    return Reach(int(schedule.active_rank(timesteps).max()), len(timesteps))


def activity_lines(schedule: RankSchedule, activity: Float[Tensor, " rank"], reach: Reach) -> list[str]:
    """Return a line for people, and a warning where the sampler never reaches the last ranks.

    The very last rank is left out: by the formula it takes part at timestep 0 alone, which no sampler visits.
    """
    between = range(schedule.min_rank + 1, schedule.rank)  # the ranks that some samples leave out, the first counted as 1
    shown = [f"{rank} in {float(activity[rank - 1]):.0%}" for rank in between[:: -(-len(between) // _SHOWN) or 1]]
    rarer = [f"rank {', '.join(shown)} of the samples"] if shown else []
    every, last = f"ranks 1 to {schedule.min_rank} take part in every sample", f"rank {schedule.rank} at timestep 0 alone"
    lines = [", ".join([every, *rarer, f"{last}, as the formula has it"])]
    if reach.highest_rank < schedule.rank - 1:
        lines.append(
            f"warning: sampling in {reach.steps} steps never uses ranks {reach.highest_rank + 1} to {schedule.rank}:"
            " sample in more steps, or train a smaller rank"
        )
    return lines
