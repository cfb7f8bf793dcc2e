"""Which ranks there can be."""

import math


def require_ranks(rank: int, min_rank: int, alpha_rank_scale: float) -> None:
    """Check the numbers that a rank schedule is made of.

    Raises:
        ValueError: If not 1 <= min_rank <= rank, or the exponent is not positive and finite.
    """
    if not 1 <= min_rank <= rank:
        raise ValueError(f"need 1 <= min_rank <= rank, got {min_rank} and {rank}")
    if not (0 < alpha_rank_scale < math.inf):
        raise ValueError(f"alpha_rank_scale must be positive and finite, got {alpha_rank_scale}")
