"""Which checkpoint to use, by a stated rule, with the reason in a sentence.

Loss does not answer this: it was seen to be anti-correlated with quality. The rule: a checkpoint is eligible if it shows the
concept more than the base does (the interval of the paired difference is clear of 0) and has not collapsed (its
diversity across seeds is a fair share of the base's). Among those, fidelity counts for it, and lost prompt following against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tlora.metrics import Interval


@dataclass(frozen=True)
class SelectionSettings:
    """The rule's numbers.

    Args:
        min_diversity_ratio: Least diversity across seeds, as a share of the base's.
        prompt_weight: How much a loss of prompt following weighs against a gain of fidelity.
    """

    min_diversity_ratio: float = 0.5
    prompt_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_diversity_ratio <= 1:
            raise ValueError(f"min_diversity_ratio must be in 0..1, got {self.min_diversity_ratio}")
        if self.prompt_weight < 0:
            raise ValueError(f"prompt_weight must not be negative, got {self.prompt_weight}")


@dataclass(frozen=True)
class Candidate:
    """What the rule looks at in a checkpoint."""

    step: int
    similarity_gain: Interval
    prompt_following: Interval
    diversity_ratio: float


@dataclass(frozen=True)
class Recommendation:
    """The chosen checkpoint, or None, and why."""

    checkpoint: str | None
    reason: str


def objection(candidate: Candidate, settings: SelectionSettings) -> str | None:
    """Return why a checkpoint is not eligible, or None."""
    gain = candidate.similarity_gain
    if gain.low <= 0:
        interval = f"{gain.mean:+.3f}, interval {gain.low:+.3f} to {gain.high:+.3f}"
        return f"similarity to the concept is not clearly above the base's ({interval})"
    if candidate.diversity_ratio < settings.min_diversity_ratio:
        needed = f"{settings.min_diversity_ratio:g} needed"
        return f"collapsed: diversity across seeds is {candidate.diversity_ratio:.2f} of the base's, {needed}"
    return None


def score(candidate: Candidate, settings: SelectionSettings) -> float:
    """Return fidelity gained, less what prompt following lost."""
    return candidate.similarity_gain.mean + settings.prompt_weight * min(0.0, candidate.prompt_following.mean)


def recommend(candidates: Mapping[str, Candidate], settings: SelectionSettings) -> Recommendation:
    """Choose among checkpoints; the earlier of equals."""
    eligible = {name: c for name, c in candidates.items() if objection(c, settings) is None}
    if not eligible:
        last = max(candidates, key=lambda name: candidates[name].step)
        return Recommendation(None, f"no checkpoint passes; the last, {last}: {objection(candidates[last], settings)}")
    best = max(eligible, key=lambda name: (score(eligible[name], settings), -eligible[name].step))
    chosen = eligible[best]
    return Recommendation(
        best,
        f"{best}: similarity to the concept {chosen.similarity_gain.mean:+.3f} over the base"
        f" ({chosen.similarity_gain.low:+.3f} to {chosen.similarity_gain.high:+.3f}),"
        f" prompt following {chosen.prompt_following.mean:+.3f}, diversity {chosen.diversity_ratio:.2f} of the base's;"
        f" best of {len(eligible)} eligible out of {len(candidates)}",
    )
