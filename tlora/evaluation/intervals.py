"""How sure a mean is: the bootstrap, over prompts and seeds together.

Both are resampled because neither other prompts nor other seeds would give the same cells. Resamples depend on nothing but the
shape of the table, so two tables of one shape are resampled alike, and differences between checkpoints stay paired.
Known failure: with fewer than about eight prompts or seeds, intervals of the bootstrap are too narrow.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Cells: TypeAlias = NDArray[np.float64]  # (prompts, seeds), or (pictures, repetitions)
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval; both ends are the mean itself where nobody knows better.

    Example:
        >>> f"{Interval(0.25, 0.125, 0.5):+.2f}", str(Interval(0.25, 0.25, 0.25))
        ('+0.25 (+0.12 to +0.50)', '0.250')
    """

    mean: float
    low: float
    high: float

    @property
    def is_interval(self) -> bool:
        """Whether it says how sure it is."""
        return self.low != self.high

    def __format__(self, specification: str) -> str:
        """Write each of its numbers by a specification, by default with three places."""
        mean, low, high = (format(value, specification or ".3f") for value in (self.mean, self.low, self.high))
        return f"{mean} ({low} to {high})" if self.is_interval else mean

    def __str__(self) -> str:
        return format(self)


def drawn_cells(cells: Cells) -> Cells:
    """Return a table without its NaN, the cells that were not drawn: rows may be empty, the others must have equally many cells.

    What is left of a row moves together: first to first, second to second, where seeds stood below each other.
    """
    drawn = ~np.isnan(cells)
    rows = int(drawn.any(axis=1).sum())
    return cells if drawn.all() else cells[drawn].reshape(rows, int(drawn.sum()) // max(1, rows))


def resampled_means(cells: Cells) -> NDArray[np.float64]:
    """Return the mean of each resample of a table, (RESAMPLES,).

    Raises:
        ValueError: If there are no cells.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 6 and 13; two-way as in Owen (2007), The
        pigeonhole bootstrap.
    """
    if cells.ndim != 2 or cells.size == 0:
        raise ValueError(f"need a table of prompts by seeds, got shape {cells.shape}")
    source = np.random.default_rng(0)
    rows = source.integers(0, cells.shape[0], (RESAMPLES, cells.shape[0]))
    columns = source.integers(0, cells.shape[1], (RESAMPLES, cells.shape[1]))
    return cells[rows[:, :, None], columns[:, None, :]].mean((1, 2))


def bootstrap_interval(cells: Cells) -> Interval:
    """Return the mean of a table with its interval."""
    resamples = resampled_means(cells)
    return _interval(float(cells.mean()), resamples)


def ratio_interval(own: Cells, base: Cells) -> Interval:
    """Return the ratio of the means of two tables of one shape, resampled together; 0 where the base's mean is 0."""
    if not base.mean() > 0:
        return Interval(0.0, 0.0, 0.0)
    below = resampled_means(base)
    ratios = np.divide(resampled_means(own), below, out=np.zeros(RESAMPLES), where=below > 0)
    return _interval(float(own.mean() / base.mean()), ratios)


def gap_interval(own: Cells, others: Cells) -> Interval:
    """Return the difference of the means of two tables with nothing in common, each resampled by itself."""
    apart = np.random.default_rng(1).permutation(resampled_means(others))
    return _interval(float(own.mean() - others.mean()), resampled_means(own) - apart)


def _interval(mean: float, resamples: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resamples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))
