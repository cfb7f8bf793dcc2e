"""Compare learning curves where they reach equal fidelity, with intervals over concepts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = Mapping[str, Sequence[float]]  # measure -> its value at each measured step, the base's (step 0) first
RESAMPLES, LEVEL = 10_000, 0.95


@dataclass(frozen=True)
class Difference:
    """A mean paired difference over concepts with its bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def common_fidelity(curves: Mapping[str, Curve], share: float) -> float | None:
    """Return a fidelity that every method reaches: a share of the way from the base to the worst method's best.

    None where some method never gets above the base.
    """
    base = next(iter(curves.values()))["fidelity"][0]
    reachable = min(max(curve["fidelity"]) for curve in curves.values())
    return base + share * (reachable - base) if reachable > base else None


def at_fidelity(curve: Curve, measure: str, fidelity: float) -> float:
    """Return a measure where the curve first reaches a fidelity, linear between measured steps.

    Raises:
        ValueError: If the curve never reaches it; one that lies between the base's and `common_fidelity` always does.
    """
    reached = curve["fidelity"]
    after = next((i for i, value in enumerate(reached) if i and value >= fidelity), None)
    if after is None:
        raise ValueError(f"fidelity {fidelity:.3f} is never reached: {list(reached)}")
    weight = (fidelity - reached[after - 1]) / (reached[after] - reached[after - 1])
    return float(curve[measure][after - 1] + weight * (curve[measure][after] - curve[measure][after - 1]))


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Difference:
    """Return the mean of ours - theirs, paired by concept, with an interval by resampling concepts."""
    differences: NDArray[np.float64] = np.asarray(ours) - np.asarray(theirs)
    chosen = np.random.default_rng(seed).integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.quantile(differences[chosen].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(differences.mean()), float(low), float(high))
