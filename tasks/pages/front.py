"""Concept against prompts: the two things that an adapter is wanted for, and that it trades for each other."""

from collections.abc import Sequence

from tasks.pages.charts import Dot, front_chart
from tasks.pages.scores import BASE, Entries, estimate_of, in_order
from tasks.pages.wording import describe

ACROSS, UP = "prompt_following", "similarity_gain"
_SIGNS = {
    "no other is better in both": '<path class="front" d="M0 7H30"/><circle class="dot" cx="15" cy="7" r="4"/>',
    "another is better in both": '<circle class="dot beaten" cx="15" cy="7" r="4"/>',
    "recommended": '<circle class="ring" cx="15" cy="7" r="5.5"/>',
    "interval": '<path class="whisker" d="M2 7H28M15 1V13"/>',
}


def pareto_front(dots: Sequence[Dot]) -> list[str]:
    """Return the names of those that no other equals or beats in both numbers, beating it in one."""
    return [one.name for one in dots if not any(_beats(other, one) for other in dots)]


def front_figure(entries: Entries, chosen: str | None) -> str:
    """Return the drawing with its legend, or nothing where a number is missing everywhere."""
    dots = []
    for name in in_order(entries):
        across, up = estimate_of(entries[name].get(ACROSS)), estimate_of(entries[name].get(UP))
        if across and up:
            dots.append(Dot(name, name if name == BASE else str(entries[name].get("step", name)), across, up))
    if len(dots) < 2:
        return ""
    drawn = front_chart((describe(ACROSS).label, describe(UP).label), dots, pareto_front(dots), chosen)
    signs = "".join(f'<li><svg viewBox="0 0 30 14" aria-hidden="true">{sign}</svg>{said}</li>' for said, sign in _SIGNS.items())
    return f'<ul class="legend">{signs}</ul><figure class="chart large">{drawn}</figure>'


def _beats(other: Dot, one: Dot) -> bool:
    there, here = (other.across.mean, other.up.mean), (one.across.mean, one.up.mean)
    return there != here and there[0] >= here[0] and there[1] >= here[1]
