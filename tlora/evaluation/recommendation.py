"""Which checkpoint: a stated rule over paired differences to the base, that tells a difference from noise.

Whatever copied, collapsed, lost a prompt, changed other things or did not learn is out. Of the rest, those stand on the front
that no other beats in both fidelity and prompt following. The best of the front by `score` wins, unless an earlier one is as good
within the noise: less training is safer. Loss does not answer the question: it was seen to be anti-correlated with quality.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlora.evaluation.intervals import LEVEL, Cells, Interval, bootstrap_interval, resampled_means


@dataclass(frozen=True)
class SelectionSettings:
    """The rule.

    Args:
        min_gain: Least mean fidelity gained over the base; a smaller one cannot be seen, however certain it is.
        min_diversity_ratio: Least diversity across seeds, as a share of the base's; below it, a checkpoint has collapsed.
        max_copied: Largest share of pictures that may be copies of training pictures, beyond the base's share.
        max_loss_gap: How much more of the loss may be gone on training pictures than on held-out ones, as a share of it.
        prompt_weight: What lost prompt following weighs against gained fidelity.
        max_lost_prompts: How many prompts may be lost.
        max_drift: How far pictures without the trigger word may have moved, 1 as far as the base's differ from each other.
    """

    min_diversity_ratio: float = 0.5
    max_copied: float = 0.25
    max_loss_gap: float = 0.3
    prompt_weight: float = 1.0
    min_gain: float = 0.02
    max_lost_prompts: int = 0
    max_drift: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.min_gain <= 1:
            raise ValueError(f"min_gain must be in 0..1, got {self.min_gain}")
        for name in ("min_diversity_ratio", "max_copied", "max_loss_gap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if not (0 <= self.prompt_weight < math.inf):
            raise ValueError(f"prompt_weight must not be negative, and finite, got {self.prompt_weight}")
        if self.max_lost_prompts < 0:
            raise ValueError(f"max_lost_prompts must not be negative, got {self.max_lost_prompts}")
        if not (0 <= self.max_drift < math.inf):
            raise ValueError(f"max_drift must not be negative, and finite, got {self.max_drift}")


@dataclass(frozen=True)
class Candidate:
    """A checkpoint as the rule sees it: differences to the base at the same prompt and seed, and what it did wrong.

    Args:
        step: Optimizer steps taken.
        fidelity: Similarity to held-out pictures over the base's, (prompts, seeds).
        following: Contrast of its own prompt with the others over the base's, (prompts, seeds).
        diversity_ratio: Diversity across seeds as a share of the base's.
        copied: Share of pictures that are copies of training pictures.
        copied_by_base: The same share of the base's pictures, which never saw them.
        loss_gap: How much more of the loss is gone on training pictures than on held-out ones; None where it was not measured.
        lost: The prompts that are lost for certain, whatever else is drawn.
        worst: The prompt that lost most contrast with the others, and how much it gained on average; None where not measured.
        drift: How far pictures without the trigger word moved from the base's; None where it was not measured.
    """

    step: int
    fidelity: Cells
    following: Cells
    diversity_ratio: float
    copied: float = 0.0
    copied_by_base: float = 0.0
    loss_gap: Interval | None = None
    lost: tuple[str, ...] = ()
    worst: tuple[str, float] | None = None
    drift: Interval | None = None


@dataclass(frozen=True)
class Recommendation:
    """What the rule says.

    Args:
        checkpoint: The recommended one; None where none beats the base.
        reason: Why, as a sentence.
        front: Who stood on the front.
        advice: What to try next where none is recommended.
    """

    checkpoint: str | None
    reason: str
    front: tuple[str, ...] = ()
    advice: str = ""


def objections(candidate: Candidate, settings: SelectionSettings) -> list[str]:
    """Return why a checkpoint is out: nothing gained, or one of the certain objections. Empty where it is eligible."""
    gain, found = bootstrap_interval(candidate.fidelity), []
    if not gain.low > 0:
        found.append(f"not clearly above the base: {gain:+.3f} over the base")
    elif gain.mean < settings.min_gain:
        found.append(f"too little to be seen: {gain:+.3f} over the base, {settings.min_gain:g} needed")
    return found + certain_objections(candidate, settings)


def certain_objections(candidate: Candidate, settings: SelectionSettings) -> list[str]:
    """Return the objections beside those to its gain: what is known once is known for good, whatever else is drawn.

    Of a checkpoint that is not drawn to the end `copied` counts what is missing as no copies, and `diversity_ratio` is NaN.
    """
    found = []
    if candidate.diversity_ratio < settings.min_diversity_ratio:
        needed = f"{settings.min_diversity_ratio:g} needed"
        found.append(f"collapsed: diversity across seeds is {candidate.diversity_ratio:.2f} of the base's, {needed}")
    if candidate.copied - candidate.copied_by_base > settings.max_copied:
        found.append(
            f"copying: {candidate.copied:.0%} of its pictures are copies of training pictures ({candidate.copied_by_base:.0%}"
            f" of the base's), {settings.max_copied:.0%} more are allowed"
        )
    if candidate.loss_gap is not None and candidate.loss_gap.low > settings.max_loss_gap:
        found.append(
            f"memorising: {candidate.loss_gap.mean:.2f} more of the loss is gone on training pictures than on held-out ones,"
            f" {settings.max_loss_gap:g} allowed"
        )
    if len(candidate.lost) > settings.max_lost_prompts:
        named = ", ".join(f"{prompt!r}" for prompt in candidate.lost)
        found.append(f"lost: drawn as another prompt asks is {named}; {settings.max_lost_prompts} may be")
    if candidate.drift is not None and candidate.drift.mean > settings.max_drift:
        moved = f"prompts without the trigger word moved by {candidate.drift:.2f} of how far the base's differ"
        found.append(f"drifted: {moved}, {settings.max_drift:g} allowed")
    return found


def pareto_front(candidates: Mapping[str, Candidate]) -> list[str]:
    """Return, in the order given, those that no other equals or beats in both fidelity and prompt following."""
    means = {name: (c.fidelity.mean(), c.following.mean()) for name, c in candidates.items()}
    return [
        name
        for name, own in means.items()
        if not any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in means.values())
    ]


def score(candidate: Candidate, settings: SelectionSettings) -> float:
    """Return fidelity gained, less what prompt following lost; following gained does not buy fidelity."""
    return float(candidate.fidelity.mean() + settings.prompt_weight * min(0.0, float(candidate.following.mean())))


def recommend(candidates: Mapping[str, Candidate], settings: SelectionSettings, dropped: int = 0) -> Recommendation:
    """Choose among checkpoints that were drawn at the same prompts and seeds.

    Args:
        candidates: The checkpoints.
        settings: The rule.
        dropped: How many more there were, which a race has left behind.
    """
    out = {name: objections(candidate, settings) for name, candidate in candidates.items()}
    eligible = {name: candidate for name, candidate in candidates.items() if not out[name]}
    if not eligible:
        more = f"; {dropped} more dropped before they were drawn to the end" if dropped else ""
        return Recommendation(None, f"{_nothing(candidates, out)}{more}", advice=_advice(candidates, settings))
    front = {name: eligible[name] for name in pareto_front(eligible)}
    best = max(front, key=lambda name: (score(front[name], settings), -front[name].step))
    equals = [name for name, c in front.items() if _within_noise(front[best], c, settings)]
    chosen = min(equals, key=lambda name: front[name].step)
    of = f"{len(candidates)} checkpoints drawn to the end" if dropped else f"{len(candidates)} checkpoints"
    count = f"; {len(eligible)} of {of} eligible" + (f", {dropped} dropped before" if dropped else "")
    others = _why_no_other(chosen, front, settings)
    return Recommendation(chosen, f"{chosen}: {_why(chosen, eligible)}{others}{count}", tuple(front))


def _within_noise(best: Candidate, other: Candidate, settings: SelectionSettings) -> bool:
    return lead(best, other, settings).low <= 0


def lead(one: Candidate, other: Candidate, settings: SelectionSettings) -> Interval:
    """Return by how much one's score is above another's, paired by prompt and seed: what the rule decides by."""
    difference = _resampled_score(one, settings) - _resampled_score(other, settings)
    low, high = np.quantile(difference, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(score(one, settings) - score(other, settings), float(low), float(high))


def _why_no_other(chosen: str, front: Mapping[str, Candidate], settings: SelectionSettings) -> str:
    """Say why neither the next earlier one of the front was taken, nor one that scores higher."""
    own, said = front[chosen], ""
    earlier = max((name for name in front if front[name].step < own.step), key=lambda name: front[name].step, default=None)
    if earlier:
        said += f"; the earlier {earlier} scores less, by {lead(own, front[earlier], settings)}: more than noise"
    best = max(front, key=lambda name: (score(front[name], settings), -front[name].step))
    if best != chosen:
        ahead = str(lead(front[best], own, settings))
        said += f"; the later {best} scores more, by {ahead}: within noise, and less training is safer"
    return said


def _resampled_score(candidate: Candidate, settings: SelectionSettings) -> NDArray[np.float64]:
    lost = np.minimum(0.0, resampled_means(candidate.following))
    return resampled_means(candidate.fidelity) + settings.prompt_weight * lost


def _why(chosen: str, eligible: Mapping[str, Candidate]) -> str:
    """Compare with whichever eligible checkpoint came closest to the concept."""
    own, top = eligible[chosen], max(eligible, key=lambda name: (eligible[name].fidelity.mean(), -eligible[name].step))
    gain, named = bootstrap_interval(own.fidelity), "prompt following by contrast" if own.worst else "prompt following"
    if chosen == top:
        fidelity = f"best similarity gain, {gain:+.3f} over the base"
        following = f"{named} {own.following.mean():+.3f} against the base"
    else:
        behind = bootstrap_interval(eligible[top].fidelity - own.fidelity)
        near = "within noise of the best" if behind.low <= 0 else f"{behind.mean:.3f} below the best"
        better = float(own.following.mean() - eligible[top].following.mean())
        fidelity = f"similarity gain {near} ({top}), {gain:+.3f} over the base"
        following = f"{named} {abs(better):.3f} {'better' if better >= 0 else 'worse'}"
    copying = f"{own.copied:.0%} copies" if own.copied else "no copying"
    worst = f" (worst: {own.worst[0]!r}, {own.worst[1]:+.3f})" if own.worst else ""
    lost = f", lost: {', '.join(map(repr, own.lost))}" if own.lost else ""
    drift = f", other prompts moved by {own.drift.mean:.2f}" if own.drift else ""
    return f"{fidelity}, {following}{worst}{lost}, {copying}, diversity {own.diversity_ratio:.2f} of the base's{drift}"


def _nothing(candidates: Mapping[str, Candidate], out: Mapping[str, list[str]]) -> str:
    best = max(candidates, key=lambda name: (candidates[name].fidelity.mean(), -candidates[name].step))
    gains = {name: bootstrap_interval(candidate.fidelity) for name, candidate in candidates.items()}
    if not any(gain.low > 0 for gain in gains.values()):
        return f"nothing beats the base: the best of {len(candidates)} checkpoints, {best}, gained {gains[best]:+.3f}"
    return f"nothing that beats the base is sound; the most faithful, {best}, is out: {'; '.join(out[best])}"


def _advice(candidates: Mapping[str, Candidate], settings: SelectionSettings) -> str:
    """Return what to try next where no checkpoint is eligible, by what the last ones lack."""
    first, last = (pick(candidates.values(), key=lambda candidate: candidate.step) for pick in (min, max))
    if not any(bootstrap_interval(candidate.fidelity).low > 0 for candidate in candidates.values()):
        if last.fidelity.mean() > first.fidelity.mean():
            return "it was still learning at the last step: train for more steps"
        return "it learnt nothing that shows: raise the learning rate, or check that the captions hold the trigger word"
    if last.diversity_ratio < settings.min_diversity_ratio:
        return "it collapsed: train with a lower learning rate or for fewer steps, and keep more checkpoints to choose from"
    if len(last.lost) > settings.max_lost_prompts:
        return "it draws what it was shown whatever is asked: train for fewer steps, or name more of what is seen in the captions"
    if last.drift and last.drift.mean > settings.max_drift:
        return "it changes other things too: train for fewer steps or at a lower rate, or turn on preservation"
    return "it learnt the pictures by heart: train for fewer steps or with a smaller smallest rank, or add pictures"
