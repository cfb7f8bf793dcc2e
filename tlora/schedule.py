"""Timestep or step index -> active rank -> sigma mask: the one place where the rank formula lives.

r(t) = floor(((T - t) / T) ** alpha_rank_scale * (rank - min_rank)) + min_rank: few ranks at high noise, all at low noise.

Where the true value is a whole number, floating point may land just below it, and differently so on different devices. So the
formula is evaluated on the host in float64, and what comes as near to a whole number as no float32 timestep does is one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tlora.ranks import require_ranks

_ROUNDED = 1e-12


@dataclass(frozen=True)
class RankSchedule:
    """How many ranks take part at each timestep.

    Args:
        rank: R_max, the ranks of the adapter, reached at timestep 0.
        min_rank: R_min, the ranks that take part at `max_timestep`.
        alpha_rank_scale: Exponent of the formula; 1 is linear, larger keeps ranks low for longer.
        max_timestep: T, the timestep of pure noise.

    Raises:
        ValueError: If not 1 <= min_rank <= rank, or an exponent or T that is not positive.

    Source:
        T-LoRA (arXiv:2507.05964), the equation for r(t).
    """

    rank: int
    min_rank: int
    alpha_rank_scale: float = 1.0
    max_timestep: float = 1000.0

    def __post_init__(self) -> None:
        require_ranks(self.rank, self.min_rank, self.alpha_rank_scale)
        if not (0 < self.max_timestep < float("inf")):
            raise ValueError(f"max_timestep must be positive and finite, got {self.max_timestep}")

    def active_rank(self, timestep: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Return how many ranks take part at each timestep.

        Args:
            timestep: Scheduler timestep in float32, 0 (clean) to `max_timestep` (pure noise); not the model's bf16 copy,
                which rounds to the wrong rank.

        Raises:
            ValueError: If a timestep lies outside [0, max_timestep].

        Source:
            T-LoRA (arXiv:2507.05964), the equation for r(t). The authors' code takes the first sample's rank for the
            whole batch; here each sample has its own.

        Example:
            >>> RankSchedule(rank=16, min_rank=8).active_rank(torch.tensor([1000.0, 500.0, 0.0])).tolist()
            [8, 12, 16]
        """
        if bool(((timestep < 0) | (timestep > self.max_timestep) | timestep.isnan()).any()):
            raise ValueError(f"a timestep lies outside 0..{self.max_timestep:g}: {timestep.tolist()}")
        cleanness = (self.max_timestep - timestep.to("cpu", torch.float64)).clamp(
            min=0
        ) / self.max_timestep  # float32 may exceed T
        added = cleanness**self.alpha_rank_scale * (self.rank - self.min_rank)
        return (self.min_rank + (added + _ROUNDED).floor().long()).to(timestep.device)

    def mask(self, timestep: Float[Tensor, " batch"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch rank"]:
        """Return the sigma mask, one row per timestep: 1 for the first `active_rank` ranks, 0 after them."""
        ranks = torch.arange(self.rank, device=timestep.device)
        return (ranks[None, :] < self.active_rank(timestep)[:, None]).to(dtype)


def sigma_mask_from_timestep(
    timestep: Tensor | float,
    max_timestep: float,
    rank: int,
    min_rank: int,
    alpha_rank_scale: float = 1.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "batch rank"]:
    """Return the sigma mask of scheduler timesteps.

    Args:
        timestep: A number gives (1, rank), a tensor of shape (batch,) one row per sample.
        max_timestep: The timestep of pure noise, 1000 for FLUX.1.
        rank: R_max.
        min_rank: R_min.
        alpha_rank_scale: Exponent of the rank formula.
        device: Where the mask is wanted; by default where `timestep` is.
        dtype: Type of the mask.

    Raises:
        ValueError: As `RankSchedule`, or if a timestep lies outside [0, max_timestep].
    """
    schedule = RankSchedule(rank, min_rank, alpha_rank_scale, max_timestep)
    return schedule.mask(torch.as_tensor(timestep, dtype=torch.float32).reshape(-1), dtype).to(device)


def sigma_mask_from_step_index(
    step_idx: int,
    num_inference_steps: int,
    rank: int,
    min_rank: int,
    alpha_rank_scale: float = 1.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "1 rank"]:
    """Return the sigma mask by progress through denoising, whatever the scheduler.

    Step 0 has the most noise and the smallest rank, the last step has R_max; a single step has R_max.

    Raises:
        ValueError: As `RankSchedule`, or if the index lies outside the steps.

    Example:
        >>> sigma_mask_from_step_index(0, 3, rank=4, min_rank=2).tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """
    if not 0 <= step_idx < num_inference_steps:
        raise ValueError(f"step_idx must be in 0..{num_inference_steps - 1}, got {step_idx}")
    last = num_inference_steps - 1
    return sigma_mask_from_timestep(last - step_idx, max(last, 1), rank, min_rank, alpha_rank_scale, device, dtype)
