"""Drawings of numbers, laid out: where lines, dots and words fall. `chart.html` draws them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.pages.axis import Axis, fit_axis
from tlora.evaluation.intervals import Interval

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 14, 44  # what is left free around the plot, in pixels
_CURVE, _FRONT, _LABEL = (360, 230), (440, 340), (34, 12)  # width and height; the page scales a drawing


@dataclass(frozen=True)
class Dot:
    """A checkpoint on a chart.

    Args:
        name: Of the checkpoint.
        label: What stands beside it, if there is room.
        across: Where it stands from left to right.
        up: Where it stands from bottom to top.
        kind: What it counts for: on the front or not, not eligible, or the base, which is no checkpoint.
    """

    name: str
    label: str
    across: Interval
    up: Interval
    kind: Literal["front", "beaten", "out", "base"] = "front"


@dataclass(frozen=True)
class Chart:
    """A drawing.

    Args:
        said: The same in words, for whoever cannot see it.
        width: In pixels.
        height: In pixels.
        names: Of both axes, across and up.
        across: From left to right.
        up: From bottom to top.
        dots: A checkpoint each.
        line: The dots that are joined, in order.
        chosen: The recommended checkpoint, which is ringed.
        base: The bare base's number, a dashed line.
        labels: Where they stand and what they say.
        is_curve: Whether intervals are a band along the line; else each dot has whiskers.
    """

    said: str
    width: int
    height: int
    names: tuple[str, str]
    across: Axis
    up: Axis
    dots: Sequence[Dot]
    line: Sequence[Dot]
    chosen: str | None
    base: Interval | None = None
    labels: Sequence[tuple[float, float, str]] = ()
    is_curve: bool = False

    @property
    def line_points(self) -> str:
        """Where the line goes, as SVG has it."""
        return self._points((dot.across.mean, dot.up.mean) for dot in self.line)

    @property
    def band_points(self) -> str:
        """What outlines the intervals along the line."""
        above = [(dot.across.mean, dot.up.high) for dot in self.line]
        return self._points(above + [(dot.across.mean, dot.up.low) for dot in reversed(self.line)])

    def _points(self, values: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.across.at(x)},{self.up.at(y)}" for x, y in values)


def curve_chart(title: str, unit: str, dots: Sequence[Dot], base: Interval | None, chosen: str | None) -> Chart:
    """Return how a metric goes with training: a line with its interval as a band, and the base as a dashed line.

    Args:
        title: Name of the metric.
        unit: What its numbers are.
        dots: A checkpoint each, in the order of their steps.
        base: The bare base's number.
        chosen: The recommended checkpoint.
    """
    width, height = _CURVE
    shown = [dot.up for dot in dots] + ([base] if base else [])
    across = fit_axis([0.0, *(dot.across.mean for dot in dots)], _LEFT, width - _RIGHT, 0.03)
    up = fit_axis([end for one in shown for end in (one.low, one.high)], height - _BOTTOM, _TOP)
    said = f"{title} by training step: {dots[0].up} at {dots[0].label}, {dots[-1].up} at {dots[-1].label}"
    said += f"; base {base}" if base else ""
    return Chart(said, width, height, ("training step", unit), across, up, dots, dots, chosen, base, is_curve=True)


def front_chart(names: tuple[str, str], dots: Sequence[Dot], chosen: str | None) -> Chart:
    """Return two metrics against each other; those on the front are joined by a line.

    Args:
        names: Of both metrics, across and up; more is better in both.
        dots: A checkpoint each, the base among them.
        chosen: The recommended one.
    """
    width, height = _FRONT
    across = fit_axis([end for dot in dots for end in (dot.across.low, dot.across.high)], _LEFT, width - _RIGHT)
    up = fit_axis([end for dot in dots for end in (dot.up.low, dot.up.high)], height - _BOTTOM, _TOP)
    best = sorted((dot for dot in dots if dot.kind == "front"), key=lambda dot: dot.across.mean)
    wanted = sorted(dots, key=lambda dot: (dot.name != chosen, dot not in best))
    labels = _labels([(across.at(dot.across.mean) + 10, up.at(dot.up.mean) - 7, dot.label) for dot in wanted])
    said = f"{names[1]} against {names[0]}; on the front: {', '.join(dot.name for dot in best) or 'none'}"
    return Chart(said, width, height, names, across, up, dots, best, chosen, labels=labels)


def _labels(wanted: Iterable[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Return those labels, first come, first served, that do not run into another."""
    placed: list[tuple[float, float, str]] = []
    for x, y, label in wanted:
        if all(abs(x - other_x) > _LABEL[0] or abs(y - other_y) > _LABEL[1] for other_x, other_y, _ in placed):
            placed.append((round(x, 1), round(y, 1), label))
    return placed
