"""The runs of the comparison, several at a time: each one method, on one concept, with one seed."""

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks.comparison.concepts import all_concepts
from benchmarks.comparison.measures import Yardstick, measure
from benchmarks.comparison.page import strip_of
from benchmarks.comparison.trial import Bench, learn
from tlora.runtime.atomic_file import write_json
from tlora.runtime.progress import Progress


@dataclass(frozen=True)
class Run:
    """One run, and where its result and its strips of pictures lie; concept and arm by name."""

    concept: str
    seed: int
    arm: str

    def result(self, folder: Path) -> Path:
        """Return the file of its measures; where it exists, the run is done."""
        return folder / f"{self._slug}.json"

    def strip(self, folder: Path, step: int) -> Path:
        """Return the file of the pictures drawn at a step."""
        return folder / f"{self._slug}-{step:04d}.png"

    @property
    def _slug(self) -> str:
        return f"{self.concept}-{self.seed}-" + "".join(ch if ch.isalnum() else "_" for ch in self.arm)


def run_missing(wanted: Sequence[Run], steps: tuple[int, ...], folder: Path) -> None:
    """Do the runs that have no result yet, one a core: on a model this small a second thread gains less than a second process."""
    missing = [run for run in wanted if not run.result(folder).exists()]
    if not missing:
        return
    workers = min(len(os.sched_getaffinity(0)), len(missing))
    with (
        Progress("comparison", len(wanted), len(wanted) - len(missing)) as progress,
        multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, [1]) as pool,
    ):
        for run in pool.imap_unordered(partial(_do, steps, folder), missing):
            progress.advance(f"{run.concept}, {run.arm}, seed {run.seed}")
        pool.close()
        pool.join()


def _do(steps: tuple[int, ...], folder: Path, run: Run) -> Run:
    """Train and measure; the result is written last."""
    bench = _bench()
    concept = next(c for c in all_concepts() if c.name == run.concept)
    yardstick = Yardstick.of(concept, bench.evaluator)
    novel, others = _drawn_by_base(run.seed)
    strip_of(novel).save(folder / f"base-{run.seed}.png")
    lines = {0: measure(novel, others, yardstick, bench.judge, bench.evaluator)}
    for step in learn(bench, concept, run.arm, run.seed, steps):
        novel, others = bench.draw(run.seed)
        lines[step] = measure(novel, others, yardstick, bench.judge, bench.evaluator)
        strip_of(novel).save(run.strip(folder, step))
    write_json(run.result(folder), {str(step): m.plain() for step, m in lines.items()})
    return run


@cache
def _bench() -> Bench:
    return Bench.load()


@cache
def _drawn_by_base(seed: int) -> tuple[dict[str, list[Image.Image]], dict[str, Image.Image]]:
    return _bench().draw(seed)
