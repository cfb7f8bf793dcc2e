"""How long work shows itself: a bar with an ETA on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts steps of known total; use it as a context.

    Args:
        what: What is being done.
        total: Steps in all.
        done: Steps already done, when resuming.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._first, self._done = what, total, done, done
        self._started = self._spoke = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc=what, unit="") if sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, note: str = "", steps: int = 1) -> None:
        """Count steps, with a short note such as a loss."""
        self._done += steps
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
            return
        now = time.monotonic()
        if now - self._spoke >= SECONDS_BETWEEN_LINES or self._done == self._total:
            self._spoke = now
            pace = (now - self._started) / max(1, self._done - self._first)
            left = pace * (self._total - self._done)
            end = f"{left:.0f} s left" if left else "done"
            print(f"{self._what}: {self._done}/{self._total} {note} {pace:.3g} s each, {end}", flush=True)


def show_progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items, and say on the way how many are done and how long the rest will take."""
    with Progress(what, total) as progress:
        for item in items:
            yield item
            progress.advance()
