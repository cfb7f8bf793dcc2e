"""The numbers of an evaluation as a page shows them: every number that the file holds, whoever added it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.pages.charts import Chart, Dot, curve_chart
from tlora.evaluation.intervals import Interval
from tlora.evaluation.metric_words import KNOWN, Metric, describe
from tlora.metadata.adapter import BASE

_NO_METRICS = ("step", "scale")  # numbers that say what was measured, not how good it is
Entries = Mapping[str, Mapping[str, Any]]  # checkpoint -> its numbers, as reports/evaluate/evaluate.json has them


@dataclass(frozen=True)
class ScoreTable:
    """Numbers to be shown as a table.

    Args:
        head: What the rows are.
        metrics: What the columns are.
        rows: Name -> a number for each metric, as far as there is one.
        objections: Name -> why it cannot be recommended; empty where none has any.
    """

    head: str
    metrics: Sequence[Metric]
    rows: Mapping[str, Sequence[Interval | None]]
    objections: Mapping[str, str]


def interval_of(value: Any) -> Interval | None:
    """Return a number, or a number with its interval, or None for anything else."""
    if isinstance(value, Mapping):
        parts = [interval_of(value.get(part)) for part in ("mean", "low", "high")]
        mean, low, high = (part.mean if part else math.nan for part in parts)
        return Interval(mean, low if math.isfinite(low) else mean, high if math.isfinite(high) else mean) if parts[0] else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Interval(float(value), float(value), float(value))
    return None


def metric_names(entries: Entries) -> list[str]:
    """Return the metrics that any checkpoint has a number of: those described in words first, then the others by name."""
    found = {
        name for entry in entries.values() for name, value in entry.items() if name not in _NO_METRICS and interval_of(value)
    }
    return [name for name in KNOWN if name in found] + sorted(found - KNOWN.keys())


def in_order(entries: Entries) -> list[str]:
    """Return the checkpoints in the order of their steps, the base first."""
    return sorted(entries, key=lambda name: (name != BASE, int(entries[name].get("step", 0)), name))


def score_table(head: str, entries: Entries) -> ScoreTable:
    """Return a row for each entry, in its order, and a column for each metric.

    Args:
        head: What the rows are, in a word.
        entries: What was measured.
    """
    metrics = metric_names(entries)
    rows = {name: [interval_of(entry.get(metric)) for metric in metrics] for name, entry in entries.items()}
    objections = {name: "; ".join(entry.get("objections", [])) for name, entry in entries.items()}
    return ScoreTable(head, [describe(metric) for metric in metrics], rows, objections if any(objections.values()) else {})


def curves(entries: Entries, chosen: str | None) -> list[tuple[Metric, Chart]]:
    """Return each metric with its chart by training step."""
    trained = [name for name in in_order(entries) if name != BASE]
    charts = []
    for name in metric_names(entries):
        metric, base, dots = describe(name), interval_of(entries.get(BASE, {}).get(name)), list(_dots(entries, trained, name))
        if dots:
            charts.append((metric, curve_chart(metric.label, metric.unit, dots, base, chosen)))
    return charts


def _dots(entries: Entries, names: Iterable[str], metric: str) -> Iterable[Dot]:
    for name in names:
        step, value = interval_of(entries[name].get("step")), interval_of(entries[name].get(metric))
        if step and value:
            yield Dot(name, f"step {step.mean:g}", step, value)
