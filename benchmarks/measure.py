"""Time contenders in turns, and say on what."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def take_turns(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run every contender once a round, and return the seconds of each; drift then hits all of them alike.

    Args:
        contenders: What to call, by name; whatever is asynchronous must wait for its own end.
        rounds: Counted rounds.
        warm_up: Rounds before them that do not count.
        clock: What is read; `time.process_time` where other work shares the machine.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(warm_up + rounds):
        for name, contender in contenders.items():
            started = clock()
            contender()
            if index >= warm_up:
                seconds[name].append(clock() - started)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, floor: str) -> float:
    """Return the median, over rounds, of one contender's time as a multiple of another's in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[floor], strict=True))


def machine() -> str:
    """Return date, processor or GPU, threads and torch version, for the head of a table."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{datetime.date.today()}, {device}, torch {torch.__version__}, {os.cpu_count()} cores, {platform.system()}"


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())
    except OSError:
        return platform.machine()
