"""What the scores say of each checkpoint, and which one the rule recommends: the numbers of reports/evaluate/evaluate.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tasks.evaluate.scoring import Scores
from tlora.evaluation.intervals import Cells, Interval, bootstrap_interval, ratio_interval
from tlora.evaluation.memorisation import loss_gap, loss_reduction
from tlora.evaluation.recommendation import Candidate, Recommendation, SelectionSettings, objections, recommend
from tlora.metadata.adapter import BASE

NOT_MEASURED = "the similarity gain was not measured, so nothing can be recommended"
PAIRED = {  # differences to the base at the same prompt and seed
    "similarity_gain": "similarity_held_out",
    "dinov2_gain": "dinov2_held_out",
    "prompt_following": "prompt_similarity",
}


@dataclass(frozen=True)
class Losses:
    """Losses at fixed noise of pictures that were trained on and of held-out ones, each (pictures, repetitions)."""

    train: Cells
    held_out: Cells


@dataclass(frozen=True)
class Measured:
    """Everything that was measured of the base, or of one checkpoint."""

    step: int
    scores: Scores
    losses: Losses


def summarise(measured: Mapping[str, Measured], rule: SelectionSettings) -> dict[str, Any]:
    """Return every checkpoint's numbers beside the base's, who stands on the front, and the one that the rule recommends.

    Args:
        measured: The base, and the checkpoints in the order of their steps.
        rule: How to choose. Where fidelity was not measured, or no checkpoint could be, nothing is recommended.
    """
    base = measured[BASE]
    entries = {name: {"step": own.step, **describe(own, base), "objections": [NOT_MEASURED]} for name, own in measured.items()}
    chosen = Recommendation(None, NOT_MEASURED)
    if "similarity_held_out" in base.scores and len(measured) > 1:
        candidates = {name: _candidate(own, base, entries[name]) for name, own in measured.items() if name != BASE}
        chosen = recommend(candidates, rule)
        for name, candidate in candidates.items():
            entries[name]["objections"] = objections(candidate, rule)
    entries[BASE]["objections"] = []
    for name, entry in entries.items():
        entry["on_front"] = name in chosen.front
    return {
        "recommended": chosen.checkpoint,
        "reason": chosen.reason,
        "advice": chosen.advice,
        "front": list(chosen.front),
        "checkpoints": entries,
    }


def describe(own: Measured, base: Measured) -> dict[str, Any]:
    """Return each metric's mean with its interval: as it is, and where the base is what counts, as difference or ratio."""
    entry = {name: asdict(bootstrap_interval(cells)) for name, cells in own.scores.items() if name != "prompt_similarity"}
    entry |= compare(own.scores, base.scores)
    if "diversity" in own.scores:
        entry["diversity_ratio"] = asdict(ratio_interval(own.scores["diversity"], base.scores["diversity"]))
    train = loss_reduction(own.losses.train, base.losses.train)
    held_out = loss_reduction(own.losses.held_out, base.losses.held_out)
    entry["loss_reduction_train"] = asdict(bootstrap_interval(train))
    entry["loss_reduction_held_out"] = asdict(bootstrap_interval(held_out))
    entry["loss_gap"] = asdict(loss_gap(train, held_out))
    return entry


def compare(own: Scores, base: Scores) -> dict[str, Any]:
    """Return the differences to the base at the same prompt and seed."""
    return {name: asdict(bootstrap_interval(own[cells] - base[cells])) for name, cells in PAIRED.items() if cells in own}


def _candidate(own: Measured, base: Measured, entry: Mapping[str, Any]) -> Candidate:
    return Candidate(
        step=own.step,
        fidelity=own.scores["similarity_held_out"] - base.scores["similarity_held_out"],
        following=own.scores["prompt_similarity"] - base.scores["prompt_similarity"],
        diversity_ratio=entry["diversity_ratio"]["mean"],
        copied=float(own.scores["copied"].mean()),
        copied_by_base=float(base.scores["copied"].mean()),
        loss_gap=Interval(**entry["loss_gap"]),
    )
