"""What the scores say of each checkpoint, and which one the rule recommends: the numbers of reports/evaluate/evaluate.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.evaluate.scoring import Scores
from tlora.evaluation.efficientnet import NAME
from tlora.evaluation.intervals import Cells, bootstrap_interval, drawn_cells, ratio_interval
from tlora.evaluation.lost_prompts import lost_prompts, worst_prompt
from tlora.evaluation.memorisation import loss_gap, loss_reduction
from tlora.evaluation.recommendation import (
    Candidate,
    Recommendation,
    SelectionSettings,
    certain_objections,
    objections,
    recommend,
)
from tlora.evaluation.second_opinion import second_opinion
from tlora.metadata.adapter import BASE

NOT_MEASURED = "the similarity gain was not measured, so nothing can be recommended"
SECOND = "efficientnet_held_out"  # there where a second opinion is wanted
PAIRED = {  # differences to the base at the same prompt and seed
    "similarity_gain": "similarity_held_out",
    "dinov2_gain": "dinov2_held_out",
    "efficientnet_gain": SECOND,
    "prompt_following": "prompt_similarity",
    "contrast_change": "prompt_contrast",
}


@dataclass(frozen=True)
class Losses:
    """Losses at fixed noise of pictures that were trained on and of held-out ones, each (pictures, repetitions)."""

    train: Cells
    held_out: Cells


@dataclass(frozen=True)
class Measured:
    """Everything that was measured of the base, or of one checkpoint.

    Args:
        step: Of training.
        scores: Of its pictures.
        losses: Of true pictures.
        moved: How far its pictures without the trigger word are from the base's; None where they were not drawn.
    """

    step: int
    scores: Scores
    losses: Losses
    moved: Cells | None = None


def summarise(
    measured: Mapping[str, Measured],
    prompts: Sequence[str],
    rule: SelectionSettings,
    dropped: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return every checkpoint's numbers beside the base's, who stands on the front, and the one that the rule recommends.

    Args:
        measured: The base, and the checkpoints in the order of their steps.
        prompts: What was drawn.
        rule: How to choose. Where fidelity was not measured, or no checkpoint could be, nothing is recommended.
        dropped: Checkpoints that were not drawn to the end, and why; none of them is recommended.
    """
    dropped = dropped or {}
    base = measured[BASE]
    entries = {
        name: {"step": own.step, **describe(own, base, prompts), "objections": [NOT_MEASURED]} for name, own in measured.items()
    }
    chosen, opinion = Recommendation(None, NOT_MEASURED), {}
    if "similarity_held_out" in base.scores and len(measured) > 1:
        candidates = {name: candidate_of(own, base, prompts) for name, own in measured.items() if name != BASE}
        whole = {name: c for name, c in candidates.items() if name not in dropped}
        chosen = recommend(whole, rule, len(dropped))
        if SECOND in base.scores:
            gains = {name: measured[name].scores[SECOND] - base.scores[SECOND] for name in whole}
            opinion = {"second_opinion": asdict(second_opinion(NAME, whole, gains, chosen.checkpoint, rule))}
        for name, candidate in candidates.items():
            entries[name]["objections"] = (certain_objections if name in dropped else objections)(candidate, rule)
    entries[BASE]["objections"] = []
    for name, entry in entries.items():
        entry["on_front"] = name in chosen.front
    return {
        "recommended": chosen.checkpoint,
        "reason": chosen.reason,
        "advice": chosen.advice,
        **opinion,
        "front": list(chosen.front),
        "checkpoints": entries,
    }


def describe(own: Measured, base: Measured, prompts: Sequence[str]) -> dict[str, Any]:
    """Return each metric's mean over what was drawn with its interval: as it is, and where the base counts, against it."""
    scores = {name: drawn_cells(cells) for name, cells in own.scores.items()}
    entry = {
        name: asdict(bootstrap_interval(cells)) for name, cells in scores.items() if name != "prompt_similarity" and cells.size
    }
    entry |= compare(own.scores, base.scores)
    entry |= _prompt_by_prompt(own, base, prompts)
    if own.moved is not None:
        entry["drift"] = asdict(bootstrap_interval(own.moved))
    if "diversity" in scores and scores["diversity"].size:
        entry["diversity_ratio"] = asdict(ratio_interval(scores["diversity"], _beside("diversity", own, base)))
    train, held_out = _reductions(own, base)
    entry["loss_reduction_train"] = asdict(bootstrap_interval(train))
    entry["loss_reduction_held_out"] = asdict(bootstrap_interval(held_out))
    entry["loss_gap"] = asdict(loss_gap(train, held_out))
    return entry


def compare(own: Scores, base: Scores) -> dict[str, Any]:
    """Return the differences to the base at the same prompt and seed."""
    differences = {name: drawn_cells(own[cells] - base[cells]) for name, cells in PAIRED.items() if cells in own}
    return {name: asdict(bootstrap_interval(cells)) for name, cells in differences.items()}


def candidate_of(own: Measured, base: Measured, prompts: Sequence[str]) -> Candidate:
    """Return a checkpoint as rule and race see it: what was not drawn is NaN, and no copy.

    It follows its prompts as far as they can be told apart; where there is but one prompt, as far as it is similar to that.
    """
    shape = base.scores["similarity_held_out"].shape
    nothing = np.full(shape, np.nan)
    told_by = "prompt_contrast" if "prompt_contrast" in base.scores else "prompt_similarity"
    copied, diversity = own.scores.get("copied", nothing), own.scores.get("diversity", np.full((1, 1), np.nan))
    return Candidate(
        step=own.step,
        fidelity=own.scores.get("similarity_held_out", nothing) - base.scores["similarity_held_out"],
        following=own.scores.get(told_by, nothing) - base.scores[told_by],
        diversity_ratio=ratio_interval(diversity, base.scores["diversity"]).mean if not np.isnan(diversity).any() else math.nan,
        copied=float(np.nansum(copied) / copied.size),
        copied_by_base=float(base.scores["copied"].mean()),
        loss_gap=loss_gap(*_reductions(own, base)),
        lost=_lost(own, base, prompts),
        worst=worst_prompt(_contrast_change(own, base), prompts),
        drift=None if own.moved is None else bootstrap_interval(own.moved),
    )


def _prompt_by_prompt(own: Measured, base: Measured, prompts: Sequence[str]) -> dict[str, Any]:
    """Return what a mean over prompts hides: the worst of them, and those that are lost."""
    change = _contrast_change(own, base)
    worst = worst_prompt(change, prompts)
    if worst is None:
        return {}
    row = change[prompts.index(worst[0])]
    interval = asdict(bootstrap_interval(row[~np.isnan(row)][None]))
    lost = _lost(own, base, prompts)
    return {"worst_prompt": {**interval, "prompt": worst[0]}, "lost_prompts": len(lost), "lost": list(lost)}


def _contrast_change(own: Measured, base: Measured) -> Cells:
    if "prompt_contrast" not in base.scores or "prompt_contrast" not in own.scores:
        return np.full((0, 0), np.nan)
    return own.scores["prompt_contrast"] - base.scores["prompt_contrast"]


def _lost(own: Measured, base: Measured, prompts: Sequence[str]) -> tuple[str, ...]:
    contrast = own.scores.get("prompt_contrast")
    return () if contrast is None else lost_prompts(contrast, base.scores["prompt_contrast"], prompts)


def _beside(score: str, own: Measured, base: Measured) -> Cells:
    """Return the base's cells where the checkpoint has some too."""
    return drawn_cells(np.where(np.isnan(own.scores[score]), np.nan, base.scores[score]))


def _reductions(own: Measured, base: Measured) -> tuple[Cells, Cells]:
    return loss_reduction(own.losses.train, base.losses.train), loss_reduction(own.losses.held_out, base.losses.held_out)
