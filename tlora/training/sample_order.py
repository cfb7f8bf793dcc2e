"""Which cached views each training step sees: a function of (seed, step), so that a resumed run sees the same ones.

All samples of one step have the same size. Each size is chosen as often as it has views, and within a size every view comes
once before any comes twice.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_SIZE_STREAM, _ORDER_STREAM, _PRIOR_STREAM = 1, 2, 3


class SamplePlan:
    """The order of samples of a whole run.

    Args:
        shapes: Height and width of the latents of each view.
        samples_per_step: Samples of one optimizer step, over micro-steps and processes.
        steps: Steps of the run.
        seed: Seed of the run.
        prior: Height and width of the latents of each prior picture, counted on from the views; every size of theirs is there.
        prior_share: Share of all samples that are prior pictures, evenly spread over the run.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        samples_per_step: int,
        steps: int,
        seed: int,
        prior: Sequence[tuple[int, int]] = (),
        prior_share: float = 0.0,
    ) -> None:
        self._samples, self._seed, self._prior_share = samples_per_step, seed, prior_share
        sizes = sorted(set(shapes))
        self._own = [np.flatnonzero([s == size for s in shapes]) for size in sizes]
        self._prior = [len(shapes) + np.flatnonzero([s == size for s in prior]) for size in sizes]
        share = np.array([len(members) for members in self._own]) / len(shapes)
        self._chosen = np.random.default_rng([seed, _SIZE_STREAM]).choice(len(share), size=steps, p=share)
        seen = np.zeros((len(share), 2), np.int64)
        self._before = np.empty((steps, 2), np.int64)  # of the step's size, how many views and prior pictures came before
        for step, size in enumerate(self._chosen):
            self._before[step] = seen[size]
            mixed_in = self.prior_before(step, samples_per_step) - self.prior_before(step, 0)
            seen[size] += (samples_per_step - mixed_in, mixed_in)

    def prior_before(self, step: int, slot: int) -> int:
        """Return how many prior pictures come in the whole run before a sample, by its step and its place there."""
        return int((step * self._samples + slot) * self._prior_share)

    def indices(self, step: int) -> list[int]:
        """Return the views of a step, in the order of its samples; prior pictures are counted on from the views."""
        size = int(self._chosen[step])
        own, prior = map(int, self._before[step])
        found = []
        for slot in range(self._samples):
            if self.prior_before(step, slot + 1) > self.prior_before(step, slot):
                found.append(self._pick(self._prior[size], prior, size, _PRIOR_STREAM))
                prior += 1
            else:
                found.append(self._pick(self._own[size], own, size, _ORDER_STREAM))
                own += 1
        return found

    def _pick(self, members: NDArray[np.int64], position: int, size: int, stream: int) -> int:
        return int(members[_order(len(members), self._seed, stream, size, position // len(members))[position % len(members)]])


@lru_cache(maxsize=32)
def _order(count: int, seed: int, stream: int, size: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, size, epoch]).permutation(count)
