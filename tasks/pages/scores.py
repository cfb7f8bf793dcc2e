"""The numbers of an evaluation as a page shows them: every number that the file holds, in words where they are known.

A metric that nobody described here is shown all the same, under the name that the file gives it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.pages.axis import show_exactly
from tasks.pages.charts import Dot, Estimate, curve_chart
from tasks.pages.page import escape, table

BASE = "base"
Entries = Mapping[str, Mapping[str, Any]]  # checkpoint -> its numbers, as metrics/evaluate.json has them


@dataclass(frozen=True)
class Metric:
    """A metric in words.

    Args:
        label: Its name for a person.
        unit: What its numbers are.
        meaning: What it says, and which way is better, in a sentence.
    """

    label: str
    unit: str = "value"
    meaning: str = ""


_COSINE, _DIFFERENCE = "cosine", "difference of cosines"
_KNOWN = {
    "similarity_gain": Metric(
        "Concept gained over the base",
        _DIFFERENCE,
        "Similarity to held-out pictures, less the base's at the same prompt and seed. More is better.",
    ),
    "prompt_following": Metric(
        "Prompt following against the base",
        _DIFFERENCE,
        "Similarity to the prompt, less the base's at the same prompt and seed. Below 0, prompts are lost.",
    ),
    "similarity_held_out": Metric(
        "Similarity to held-out pictures", _COSINE, "With pictures never trained on. More is better, up to copying."
    ),
    "similarity_train": Metric(
        "Similarity to training pictures", _COSINE, "More is better, as long as the held-out pictures keep up."
    ),
    "nearest_training_picture": Metric(
        "Similarity to the nearest training picture", _COSINE, "With whichever training picture is closest. Near 1 is a copy."
    ),
    "diversity": Metric(
        "Diversity across seeds", "1 − cosine", "How much pictures of one prompt differ. Near 0 all seeds look the same."
    ),
    "diversity_ratio": Metric("Diversity against the base", "share of the base's", "Too little of the base's is collapse."),
}


def describe(name: str) -> Metric:
    """Return a metric in words.

    Example:
        >>> describe("seam_ratio").label
        'Seam ratio'
    """
    return _KNOWN.get(name) or Metric(name.replace("_", " ").capitalize())


def estimate_of(value: Any) -> Estimate | None:
    """Return a number, or a number with its interval, or None for anything else."""
    if isinstance(value, Mapping):
        parts = [estimate_of(value.get(part)) for part in ("mean", "low", "high")]
        mean, low, high = (part.mean if part else math.nan for part in parts)
        return Estimate(mean, low if math.isfinite(low) else mean, high if math.isfinite(high) else mean) if parts[0] else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Estimate(float(value), float(value), float(value))
    return None


def metric_names(entries: Entries) -> list[str]:
    """Return the metrics that any checkpoint has a number of: those described here first, then the others by name."""
    found = {name for entry in entries.values() for name, value in entry.items() if name != "step" and estimate_of(value)}
    return [name for name in _KNOWN if name in found] + sorted(found - _KNOWN.keys())


def in_order(entries: Entries) -> list[str]:
    """Return the checkpoints in the order of their steps, the base first."""
    return sorted(entries, key=lambda name: (name != BASE, int(entries[name].get("step", 0)), name))


def score_table(entries: Entries, chosen: str | None) -> str:
    """Return a row for the base and each checkpoint, a column for each metric, and why a checkpoint is not eligible."""
    metrics, names = metric_names(entries), in_order(entries)
    objections = any(entries[name].get("objections") for name in names)
    head = ["checkpoint", *(f'<span title="{escape(describe(m).meaning)}">{escape(describe(m).label)}</span>' for m in metrics)]
    rows = [
        [
            escape(name) + ('<span class="badge">recommended</span>' if name == chosen else ""),
            *(show_estimate(estimate_of(entries[name].get(metric))) for metric in metrics),
            *([_words(entries[name].get("objections", []))] if objections else []),
        ]
        for name in names
    ]
    return table(
        [*head, *(["not eligible because"] if objections else [])], rows, [i for i, n in enumerate(names) if n == chosen]
    )


def show_estimate(estimate: Estimate | None) -> str:
    """Return a number and below it its interval, as HTML."""
    if estimate is None:
        return "–"
    interval = f"<small>{show_exactly(estimate.low)} to {show_exactly(estimate.high)}</small>" if estimate.is_interval else ""
    return show_exactly(estimate.mean) + interval


def curves(entries: Entries, chosen: str | None) -> str:
    """Return a chart for each metric, by training step."""
    trained = [name for name in in_order(entries) if name != BASE]
    return f'<div class="charts">{"".join(_curve(entries, trained, metric, chosen) for metric in metric_names(entries))}</div>'


def _curve(entries: Entries, trained: Sequence[str], metric: str, chosen: str | None) -> str:
    described, base = describe(metric), estimate_of(entries.get(BASE, {}).get(metric))
    dots = list(_dots(entries, trained, metric))
    if not dots:
        return ""
    drawn = curve_chart(described.label, described.unit, dots, base, chosen)
    meaning = f"<p>{escape(described.meaning)}</p>"
    return f'<figure class="chart"><h3>{escape(described.label)}</h3>{meaning}{drawn}</figure>'


def _dots(entries: Entries, names: Iterable[str], metric: str) -> Iterable[Dot]:
    for name in names:
        step, value = estimate_of(entries[name].get("step")), estimate_of(entries[name].get(metric))
        if step and value:
            yield Dot(name, f"step {step.mean:g}", step, value)


def _words(objections: Sequence[str]) -> str:
    return f'<span class="small">{escape("; ".join(objections))}</span>' if objections else ""
