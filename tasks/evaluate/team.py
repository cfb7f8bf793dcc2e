"""The processes of one evaluation: a single one, or those that `accelerate launch` started, each on a device of its own.

All of them do the same, but for what is shared out: drawing and losses. What one has found all are told, so all of them decide
alike; the first alone writes.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from torch import distributed

from tlora.flux.model import choose_device
from tlora.flux.spec import ModelSpec
from tlora.runtime.device_lock import hold_device
from tlora.runtime.progress import Progress

Job = TypeVar("Job")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Team:
    """This process among those of the evaluation.

    Args:
        index: Which one it is, from 0.
        size: How many there are.
        device: Its own, such as `cuda:1`.
    """

    index: int
    size: int
    device: str

    @staticmethod
    def join(model: ModelSpec) -> "Team":
        """Meet the others, as far as there are any."""
        device = choose_device(model)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Team(0, 1, str(device))
        distributed.init_process_group("gloo")  # what is told is small and lies in the computer's memory, GPU or not
        own = "cpu" if device.type == "cpu" else f"cuda:{os.environ['LOCAL_RANK']}"
        return Team(distributed.get_rank(), distributed.get_world_size(), own)

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.index == 0

    def placed(self, model: ModelSpec) -> ModelSpec:
        """Return the base model on this process's device."""
        return dataclasses.replace(model, device=self.device) if self.size > 1 else model

    def alone_on_device(self, stage: str) -> AbstractContextManager[None]:
        """Hold the device; processes that share the CPU hold it once."""
        if self.device == "cpu" and not self.is_first:
            return nullcontext()
        return hold_device(self.device, stage)

    def share(self, jobs: Sequence[Job], do: Callable[[Job], Found], what: str) -> list[Found]:
        """Do an even part of the jobs here, neighbours together, and return what came of all of them, in their order."""
        ends = [len(jobs) * index // self.size for index in range(self.size + 1)]
        own = jobs[ends[self.index] : ends[self.index + 1]]
        found = [do(job) for job in self._shown(own, what)]
        if self.size == 1:
            return found
        parts: list[list[Found]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, found)
        return [each for part in parts for each in part]

    def _shown(self, jobs: Sequence[Job], what: str) -> Iterator[Job]:
        if not self.is_first or not jobs:
            yield from jobs
            return
        with Progress(what, len(jobs)) as progress:
            for job in jobs:
                yield job
                progress.advance()
