"""Drawings of numbers as SVG inside the page: its colours are the page's, in light and in dark, and its text can be selected."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.pages.axis import Axis, fit_axis, show, show_exactly
from tasks.pages.page import escape

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 14, 44  # what is left free around the plot, in pixels


@dataclass(frozen=True)
class Size:
    """Of a drawing, in pixels; the page scales it, so this is what its text is measured against."""

    width: int
    height: int


SIGNS = {  # what stands for a checkpoint, around the origin
    "front": '<circle class="dot" r="4"/>',
    "beaten": '<circle class="hollow" r="4"/>',
    "out": '<path class="cross" d="M-4-4L4 4M-4 4L4-4"/>',
    "base": '<path class="square" d="M-4-4H4V4H-4Z"/>',
}
_CURVE, _FRONT, _LABEL = Size(360, 230), Size(440, 340), Size(34, 12)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; both ends are the number itself where nobody knows better."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = f" ({show_exactly(self.low)} to {show_exactly(self.high)})" if self.is_interval else ""
        return show_exactly(self.mean) + interval

    @property
    def is_interval(self) -> bool:
        """Whether it says how sure it is."""
        return self.low != self.high


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
    across: Estimate
    up: Estimate
    kind: Literal["front", "beaten", "out", "base"] = "front"


def curve_chart(title: str, unit: str, dots: Sequence[Dot], base: Estimate | None, chosen: str | None) -> str:
    """Return how a metric goes with training: a line with its interval as a band, and the base as a dashed line.

    Args:
        title: Name of the metric.
        unit: What its numbers are.
        dots: A checkpoint each, in the order of their steps.
        base: The bare base's number.
        chosen: The recommended checkpoint, which is ringed.
    """
    shown = [dot.up for dot in dots] + ([base] if base else [])
    across = fit_axis([0.0, *(dot.across.mean for dot in dots)], _LEFT, _CURVE.width - _RIGHT, 0.03)
    up = fit_axis([end for one in shown for end in (one.low, one.high)], _CURVE.height - _BOTTOM, _TOP)
    band = [(dot.across.mean, dot.up.high) for dot in dots] + [(dot.across.mean, dot.up.low) for dot in reversed(dots)]
    parts = [_frame(across, up, "training step", unit, _CURVE)]
    if base:
        y = up.at(base.mean)
        parts.append(f'<line class="base" x1="{_LEFT}" x2="{_CURVE.width - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="note" x="{_LEFT + 4}" y="{y - 5 if y > 2 * _TOP else y + 13}">base</text>')
    parts.append(f'<polygon class="band" points="{_points(across, up, band)}"/>')
    parts.append(f'<polyline class="line" points="{_points(across, up, [(d.across.mean, d.up.mean) for d in dots])}"/>')
    parts += [_dot(dot, across, up, dot.name == chosen) for dot in dots]
    said = f"{title} by training step: {dots[0].up} at {dots[0].label}, {dots[-1].up} at {dots[-1].label}"
    return _drawing(said + (f"; base {base}" if base else ""), parts, _CURVE)


def front_chart(axes: tuple[str, str], dots: Sequence[Dot], chosen: str | None) -> str:
    """Return two metrics against each other; those on the front are joined by a line.

    Args:
        axes: Names of both metrics, across and up; more is better in both.
        dots: A checkpoint each, the base among them.
        chosen: The recommended one, which is ringed.
    """
    across = fit_axis([end for dot in dots for end in (dot.across.low, dot.across.high)], _LEFT, _FRONT.width - _RIGHT)
    up = fit_axis([end for dot in dots for end in (dot.up.low, dot.up.high)], _FRONT.height - _BOTTOM, _TOP)
    best = sorted((dot for dot in dots if dot.kind == "front"), key=lambda dot: dot.across.mean)
    parts = [_frame(across, up, *axes, _FRONT)]
    parts += [_whiskers(dot, across, up) for dot in dots]
    parts.append(f'<polyline class="front" points="{_points(across, up, [(d.across.mean, d.up.mean) for d in best])}"/>')
    parts += [_dot(dot, across, up, dot.name == chosen) for dot in dots]
    wanted = sorted(dots, key=lambda dot: (dot.name != chosen, dot not in best))
    parts += _labels([(across.at(dot.across.mean) + 10, up.at(dot.up.mean) - 7, dot.label) for dot in wanted])
    names = ", ".join(dot.name for dot in best) or "none"
    return _drawing(f"{axes[1]} against {axes[0]}; on the front: {names}", parts, _FRONT)


def _drawing(said: str, parts: Iterable[str], size: Size) -> str:
    head = f'viewBox="0 0 {size.width} {size.height}" role="img" aria-label="{escape(said)}"'
    return f"<svg {head}>{''.join(parts)}</svg>"


def _frame(across: Axis, up: Axis, across_name: str, up_name: str, size: Size) -> str:
    """Return grid lines with their numbers, and the names of both axes."""
    floor, right = size.height - _BOTTOM, size.width - _RIGHT
    center, middle = (_LEFT + right) / 2, (_TOP + floor) / 2
    lines = []
    for value in up.ticks():
        y = up.at(value)
        lines.append(f'<line class="rule" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{show(value)}</text>')
    for value in across.ticks():
        x = across.at(value)
        lines.append(f'<line class="rule" x1="{x}" x2="{x}" y1="{floor}" y2="{floor + 4}"/>')
        lines.append(f'<text class="tick" x="{x}" y="{floor + 17}" text-anchor="middle">{show(value)}</text>')
    return "".join(lines) + (
        f'<text class="axis" x="{center}" y="{size.height - 7}" text-anchor="middle">{escape(across_name)}</text>'
        f'<text class="axis" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(up_name)}</text>'
    )


def _dot(dot: Dot, across: Axis, up: Axis, ringed: bool) -> str:
    if not (math.isfinite(dot.across.mean) and math.isfinite(dot.up.mean)):
        return ""
    ring = '<circle class="ring" r="8"/>' if ringed else ""
    at = f"translate({across.at(dot.across.mean)} {up.at(dot.up.mean)})"
    return f'<g transform="{at}"><title>{escape(dot.name)}: {dot.up}</title>{ring}{SIGNS[dot.kind]}</g>'


def _labels(wanted: Iterable[tuple[float, float, str]]) -> list[str]:
    """Return those labels, first come, first served, that do not run into another."""
    placed: list[tuple[float, float]] = []
    written = []
    for x, y, label in wanted:
        if all(abs(x - other_x) > _LABEL.width or abs(y - other_y) > _LABEL.height for other_x, other_y in placed):
            placed.append((x, y))
            written.append(f'<text class="note" x="{round(x, 1)}" y="{round(y, 1)}">{escape(label)}</text>')
    return written


def _whiskers(dot: Dot, across: Axis, up: Axis) -> str:
    x, y = across.at(dot.across.mean), up.at(dot.up.mean)
    return (
        f'<line class="whisker" x1="{across.at(dot.across.low)}" x2="{across.at(dot.across.high)}" y1="{y}" y2="{y}"/>'
        f'<line class="whisker" x1="{x}" x2="{x}" y1="{up.at(dot.up.low)}" y2="{up.at(dot.up.high)}"/>'
    )


def _points(across: Axis, up: Axis, values: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{across.at(x)},{up.at(y)}" for x, y in values if math.isfinite(x) and math.isfinite(y))
