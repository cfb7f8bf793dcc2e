"""Which cached views each training step sees: a function of (seed, step), so that a resumed run sees the same ones.

All samples of one step have the same size. Each size is chosen as often as it has views, and within a size every view comes
once before any comes twice.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_SIZE_STREAM, _ORDER_STREAM = 1, 2


class SamplePlan:
    """The order of samples of a whole run.

    Args:
        shapes: Height and width of the latents of each view.
        samples_per_step: Samples of one optimizer step, over micro-steps and processes.
        steps: Steps of the run.
        seed: Seed of the run.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], samples_per_step: int, steps: int, seed: int) -> None:
        self._samples, self._seed = samples_per_step, seed
        self._sizes = [np.flatnonzero([s == size for s in shapes]) for size in sorted(set(shapes))]
        share = np.array([len(members) for members in self._sizes]) / len(shapes)
        self._chosen = np.random.default_rng([seed, _SIZE_STREAM]).choice(len(share), size=steps, p=share)
        turns = np.zeros(len(share), np.int64)
        self._turn = np.empty(steps, np.int64)  # how often the step's size had its turn before
        for step, size in enumerate(self._chosen):
            self._turn[step] = turns[size]
            turns[size] += 1

    def indices(self, step: int) -> list[int]:
        """Return the views of a step, in the order of its samples."""
        size = int(self._chosen[step])
        members = self._sizes[size]
        first = int(self._turn[step]) * self._samples
        return [
            int(members[_order(len(members), self._seed, size, position // len(members))[position % len(members)]])
            for position in range(first, first + self._samples)
        ]


@lru_cache(maxsize=32)
def _order(count: int, seed: int, size: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER_STREAM, size, epoch]).permutation(count)
