"""Show a run in MLflow while it happens.

A convenience: `register` completes whatever is missing from the files. So nothing that the store does, or does not do, stops
or noticeably slows the stage: calls are short, failures are one line, and after one the store is left alone for a while.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tasks.tracking.runs import Point, find_or_create_run, known_points, log_pictures, log_points
from tasks.tracking.store import Store, TrackingError, explained_failures, open_store, public_uri, store_uri
from tlora.metadata.adapter import AdapterMetadata
from tlora.runtime.preemption import Preempted

_SEND_EVERY = 3.0  # seconds between two requests
_FIRST_PAUSE = 60.0  # seconds that a store which failed is left alone; doubled every time
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class LiveRun:
    """A run that is going on.

    Args:
        metadata: Of the adapter; the run is the one with its fingerprint.
        say: Where the one line goes when the store is away.

    Example:
        with LiveRun(metadata) as live:
            for line in lines:
                live.log(training_points(line))
    """

    def __init__(self, metadata: AdapterMetadata, say: Callable[[str], None] = print) -> None:
        self._metadata, self._say = metadata, say
        self._open: tuple[Store, str] | None = None
        self._known: set[Point] = set()
        self._waiting: list[Point] = []
        self._pictures: list[tuple[str, int, Path]] = []
        self._next_try, self._pause = 0.0, _FIRST_PAUSE

    def __enter__(self) -> "LiveRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Send the rest and say how it ended; an exception goes on its way."""
        if self._open or self._waiting or self._pictures:
            stopped = kind is not None and (issubclass(kind, Preempted) or not issubclass(kind, Exception))
            self._send("FINISHED" if kind is None else "KILLED" if stopped else "FAILED")

    def log(self, points: Sequence[Point]) -> None:
        """Take points; they are sent every few seconds."""
        self._waiting += points
        if time.monotonic() >= self._next_try:
            self._send("RUNNING")

    def show(self, series: str, step: int, picture: Path) -> None:
        """Take a picture; it is sent with the next points, unless the run has one of that series and step."""
        self._pictures.append((series, step, picture))

    def _send(self, status: str) -> None:
        self._next_try = time.monotonic() + _SEND_EVERY
        try:
            with _impatience(), explained_failures():
                store, run_id = self._open = self._open or self._start()
                log_points(store, run_id, [point for point in self._waiting if point not in self._known])
                self._waiting.clear()  # at once: what fails below must not send them twice
                if status != "RUNNING":
                    store.client.set_terminated(run_id, status)
                with _any_failure_explained():
                    for series, step, picture in self._pictures:
                        log_pictures(store, run_id, series, {step: picture}, again=False)
                self._pictures.clear()
        except TrackingError as error:
            if self._pause == _FIRST_PAUSE:
                self._say(f"{error}: going on without it, register will complete the run")
            self._next_try, self._pause = time.monotonic() + self._pause, 2 * self._pause
        else:
            self._pause = _FIRST_PAUSE

    def _start(self) -> tuple[Store, str]:
        store = open_store()
        run_id = find_or_create_run(store, self._metadata).info.run_id
        store.client.update_run(run_id, status="RUNNING")
        self._known = known_points(store, run_id, [*store.client.get_run(run_id).data.metrics])
        return store, run_id


@contextmanager
def _any_failure_explained() -> Iterator[None]:
    """Turn whatever the client of an artifact store raises (S3's, Google's, a full disk) into the one line that is said."""
    try:
        yield
    except Exception as error:
        reason = public_uri(str(error).strip().split("\n")[0])[:300]
        raise TrackingError(f"pictures for MLflow store {public_uri(store_uri())}: {type(error).__name__}: {reason}") from error


@contextmanager
def _impatience() -> Iterator[None]:
    """Do not let MLflow's client wait minutes for a server that is away."""
    before = {name: os.environ.get(name) for name in _IMPATIENT}
    os.environ.update(_IMPATIENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
