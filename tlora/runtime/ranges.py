"""What a number may be, said once for every door: params.yaml, the flat file, the command line, a served parameter.

A setting's own dataclass calls these, and every door builds that dataclass; an option that is no setting calls them itself.
"""

import math
from typing import Any

LARGEST_SEED = 2**63 - 1  # what torch takes
MOST_STEPS = 1000  # of a sampler: a scheduler of FLUX.1 knows so many timesteps
LARGEST_SIDE = 16384  # pixels of a picture: beyond it a byte order or a typing error is meant
MOST_PICTURES = 1_000_000
STRONGEST = 1000.0  # of an adapter's scale and of the guidance, which are of the order of 1


def require_whole(name: str, value: int, least: int = 1, most: int = LARGEST_SEED) -> None:
    """Refuse a whole number out of its range.

    Raises:
        ValueError: Naming it.

    Example:
        >>> require_whole("steps", 0)
        Traceback (most recent call last):
        ValueError: steps must be at least 1, got 0
    """
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")


def require_seed(name: str, value: int) -> None:
    """Refuse a seed that a generator does not take.

    Raises:
        ValueError: Naming it.
    """
    if not 0 <= value <= LARGEST_SEED:
        raise ValueError(f"{name} must be in 0..2**63 - 1, got {value}")


def require_strength(name: str, value: float, least: float = -STRONGEST) -> None:
    """Refuse a scale or a guidance that is not finite or beyond belief.

    Raises:
        ValueError: Naming it.
    """
    if not (math.isfinite(value) and least <= value <= STRONGEST):
        raise ValueError(f"{name} must be in {least:g}..{STRONGEST:g}, got {value}")


def require_finite(name: str, value: Any) -> None:
    """Refuse numbers that no computer counts to, alone or in a tuple: whatever else is asked of them.

    Raises:
        ValueError: Naming it.
    """
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")
        if isinstance(number, (int, float)) and abs(number) > LARGEST_SEED:
            raise ValueError(f"{name} must be in -2**63..2**63 - 1, got {number}")
