"""Map work over many items in order, on the cores of this machine or on a Ray cluster.

Few chunks are under way at once, so memory does not grow with the number of items. The function and its items are pickled, and
what it reads must be readable where it runs; a Ray cluster therefore needs this package and the same shared folders.
"""

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, TypeVar

from tlora.errors import SettingsError, TloraError

Engine = Literal["processes", "ray"]
Item = TypeVar("Item")
Result = TypeVar("Result")
_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # off: ray listens on 127.0.0.1 alone, on every system
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FEW = 16  # items that are not worth starting processes for
_CHUNK = 16
_CHUNKS_PER_WORKER = 4  # under way: enough that none waits, few enough to hold


class WorkerDied(TloraError):
    """A process that did part of the work is gone, as when memory runs out."""


def map_in_order(
    function: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item], engine: Engine
) -> Iterator[Result]:
    """Yield what a function makes of each item, in order.

    Args:
        function: Makes one result of each of a few items; importable by name, without side effects on this process.
        items: What it is called with, a few at a time.
        engine: `processes`, one a core; or `ray`: the cluster that RAY_ADDRESS names, or else one on this machine alone.

    Raises:
        WorkerDied: If a worker is gone; what was yielded before is whole.
        SettingsError: If ray is asked for and not installed.
    """
    if engine == "ray":
        return _map_ray(function, items)
    workers = len(os.sched_getaffinity(0))
    if workers == 1 or len(items) <= _FEW:
        return iter(function(items))
    return _map_processes(function, items, workers)


def _map_processes(
    function: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    with ProcessPoolExecutor(workers, initializer=_hang_on_parent) as pool:

        def submit(chunk: Sequence[Item]) -> "Future[list[Result]]":
            return pool.submit(_each, function, chunk)

        is_done = False
        try:
            yield from _in_window(submit, Future.result, items, workers)
            is_done = True
        except BrokenProcessPool as error:
            raise WorkerDied("a worker process died, perhaps for lack of memory: run again, it goes on") from error
        finally:
            if not is_done:
                _end_workers()  # the pool sees it, and its thread is waited for: left to itself it fails as Python ends


def _end_workers() -> None:
    """End the workers in the middle of their chunks: whoever asked us to stop does not wait for large pictures."""
    for worker in multiprocessing.active_children():
        worker.terminate()


def _map_ray(function: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item]) -> Iterator[Result]:
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault(_LOOPBACK_ONLY, "0")  # read when ray is imported
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise SettingsError("engine: ray is not installed: pip install 'flux-tlora[ray]', or engine: processes") from error
    try:
        _start_ray(ray)
        run = ray.remote(_each)
        workers = int(ray.cluster_resources().get("CPU", 1))
        yield from _in_window(lambda chunk: run.remote(function, chunk), ray.get, items, workers)
    except (RayError, ConnectionError) as error:
        raise WorkerDied(f"ray: {str(error).strip().splitlines()[0]}: run again, it goes on") from error
    finally:
        ray.shutdown()


def _start_ray(ray: Any) -> None:
    """Join the cluster of RAY_ADDRESS, or start one of this machine's cores that nobody else can reach."""
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, **quiet)


def _in_window(
    submit: Callable[[Sequence[Item]], Any], collect: Callable[[Any], list[Result]], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """Keep a bounded number of chunks under way, and yield their results in order."""
    under_way: deque[Any] = deque()
    for first in range(0, len(items), _CHUNK):
        under_way.append(submit(items[first : first + _CHUNK]))
        if len(under_way) >= workers * _CHUNKS_PER_WORKER:
            yield from collect(under_way.popleft())
    while under_way:
        yield from collect(under_way.popleft())


def _each(function: Callable[[Sequence[Item]], Iterable[Result]], chunk: Sequence[Item]) -> list[Result]:
    return list(function(chunk))


def _hang_on_parent() -> None:
    """Leave the keyboard's signal to the parent, and end with it: a pool's workers outlive a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
