"""Concept against prompts: the two things that an adapter is wanted for, and that it trades for each other."""

from collections.abc import Mapping
from typing import Any, Literal

from tasks.pages.charts import SIGNS, Dot, front_chart
from tasks.pages.metric_words import describe
from tasks.pages.scores import BASE, Entries, estimate_of, in_order

ACROSS, UP = "prompt_following", "similarity_gain"
_LEGEND = {
    f'<path class="front" d="M-15 0H15"/>{SIGNS["front"]}': "no eligible one is better in both",
    SIGNS["beaten"]: "another is",
    SIGNS["out"]: "not eligible",
    SIGNS["base"]: "the bare base",
    '<circle class="ring" r="5.5"/>': "recommended",
    '<path class="whisker" d="M-13 0H13M0-6V6"/>': "interval",
}


def front_figure(entries: Entries, chosen: str | None) -> str:
    """Return the drawing with its legend, or nothing where there is nothing to compare."""
    dots = []
    for name in in_order(entries):
        across, up = estimate_of(entries[name].get(ACROSS)), estimate_of(entries[name].get(UP))
        if across and up:
            label = name if name == BASE else str(entries[name].get("step", name))
            dots.append(Dot(name, label, across, up, _kind(name, entries[name])))
    if len(dots) < 2:
        return ""
    drawn = front_chart((describe(ACROSS).label, describe(UP).label), dots, chosen)
    signs = "".join(
        f'<li><svg viewBox="-15 -7 30 14" aria-hidden="true">{sign}</svg>{meaning}</li>' for sign, meaning in _LEGEND.items()
    )
    return f'<ul class="legend">{signs}</ul><figure class="chart large">{drawn}</figure>'


def _kind(name: str, entry: Mapping[str, Any]) -> Literal["front", "beaten", "out", "base"]:
    if name == BASE:
        return "base"
    if entry.get("objections"):
        return "out"
    return "front" if entry.get("on_front") else "beaten"
