"""Round numbers along an axis, and where a value falls on it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A stretch of numbers laid along a stretch of the drawing.

    Args:
        low: Smallest value.
        high: Largest value.
        start: Where the smallest falls, in pixels.
        end: Where the largest falls; less than `start` on an axis that goes up.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return where a value falls, in pixels, to a tenth.

        Example:
            >>> Axis(0, 10, 100, 0).at(2.5)
            75.0
        """
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, about: int = 6) -> list[float]:
        """Return round values on the axis, about so many.

        Example:
            >>> Axis(-0.13, 0.42, 0, 1).ticks()
            [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4]
            >>> Axis(0, 200, 0, 1).ticks()
            [0.0, 50.0, 100.0, 150.0, 200.0]
        """
        step = _round_up((self.high - self.low) / about)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) + 0.0 for i in range(first, last + 1)]


def fit_axis(values: Iterable[float], start: float, end: float, room: float = 0.06) -> Axis:
    """Return an axis that holds all values, with some room at both ends.

    Args:
        values: What it must hold; numbers that are not finite are passed over.
        start: Where it begins, in pixels.
        end: Where it ends.
        room: Share of the stretch that is left free at each end.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    free = room * (high - low) or abs(high) * room or room
    return Axis(low - free, high + free, start, end)


def show(value: float) -> str:
    """Return a number as short as it can be said.

    Example:
        >>> [show(value) for value in (0.0, 0.2, 50.0, -0.05, 1500.0)]
        ['0', '0.2', '50', '−0.05', '1500']
    """
    return f"{value:.6g}".replace("-", "−")


def show_exactly(value: float, signed: bool = False) -> str:
    """Return a number to three places; what rounds to nothing has no sign.

    Example:
        >>> show_exactly(-0.0004), show_exactly(0.25, signed=True), show_exactly(-0.12)
        ('0.000', '+0.250', '−0.120')
    """
    rounded = round(value, 3) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.3f}".replace("-", "−")


def _round_up(step: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, 50, ... (also 0.1, 0.2, ...)."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
