"""The numbers of an evaluation as a page shows them: every number that the file holds, whoever added it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.pages.axis import show_exactly
from tasks.pages.charts import Dot, Estimate, curve_chart
from tasks.pages.metric_words import KNOWN, describe
from tasks.pages.page import escape, table

BASE = "base"
_NO_METRICS = ("step", "scale")  # numbers that say what was measured, not how good it is
Entries = Mapping[str, Mapping[str, Any]]  # checkpoint -> its numbers, as metrics/evaluate.json has them


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
    """Return the metrics that any checkpoint has a number of: those described in words first, then the others by name."""
    found = {
        name for entry in entries.values() for name, value in entry.items() if name not in _NO_METRICS and estimate_of(value)
    }
    return [name for name in KNOWN if name in found] + sorted(found - KNOWN.keys())


def in_order(entries: Entries) -> list[str]:
    """Return the checkpoints in the order of their steps, the base first."""
    return sorted(entries, key=lambda name: (name != BASE, int(entries[name].get("step", 0)), name))


def score_table(entries: Entries, chosen: str | None) -> str:
    """Return a row for the base and each checkpoint, a column for each metric, and why a checkpoint is not eligible."""
    metrics, names = metric_names(entries), in_order(entries)
    objections = any(entries[name].get("objections") for name in names)
    head = ["checkpoint", *(metric_head(metric) for metric in metrics)]
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


def number_table(head: str, entries: Entries) -> str:
    """Return a row for each entry, a column for each metric."""
    metrics = metric_names(entries)
    rows = [
        [escape(name), *(show_estimate(estimate_of(entry.get(metric))) for metric in metrics)] for name, entry in entries.items()
    ]
    return table([escape(head), *(metric_head(metric) for metric in metrics)], rows)


def metric_head(metric: str) -> str:
    """Return the name of a metric, with its meaning for whoever points at it."""
    return f'<span title="{escape(describe(metric).meaning)}">{escape(describe(metric).label)}</span>'


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
