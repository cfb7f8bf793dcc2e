"""Processes that are started together and end together, with all that they have started themselves.

A worker starts its flows in sessions of their own, and flows their stages, so no signal to a group reaches them all. Linux can
make this process the one that orphans are handed to: then all of them are below it, whoever has died in between.
"""

import ctypes
import functools
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

_SECONDS_BETWEEN_LOOKS = 1.0
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Let whatever loses its parent below this process become its child."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@functools.cache  # one thread, however often it is asked for
def end_with_parent() -> None:
    """Ask this process to stop, as TERM does, once its parent is gone, however that ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()  # PR_SET_PDEATHSIG would follow the parent's thread, not the parent


def start(command: list[str], log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own, so that a Ctrl-C at the terminal reaches this process alone."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )


def children_of(process: int) -> list[int]:
    """Return the processes that a process has started or adopted, and that still run."""
    everybody = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return [each for each in everybody if _state_and_parent(each)[1] == process and not _is_dead(each)]


def descendants_of(process: int) -> list[int]:
    """Return the children of a process, and theirs."""
    found = children_of(process)
    return found + [grandchild for child in found for grandchild in descendants_of(child)]


def stop_all(processes: list[int], seconds: float) -> None:
    """Send TERM to each process, and to the group that it leads, and wait until all have ended, at most so long."""
    for process in processes:
        with suppress(ProcessLookupError):
            if os.getpgid(process) == process:
                os.killpg(process, signal.SIGTERM)
            else:
                os.kill(process, signal.SIGTERM)
    wait_for_end(processes, seconds)


def wait_for_end(processes: list[int], seconds: float) -> list[int]:
    """Wait until all have ended, at most so long; return those that have not."""
    deadline = time.monotonic() + seconds
    while (left := [process for process in processes if not _is_dead(process)]) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.1)
    return left


def kill_all_below(process: int) -> None:
    """Kill every descendant of a process, also those that are started meanwhile."""
    while left := descendants_of(process):
        for each in left:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        _reap()
        time.sleep(0.05)


def _is_dead(process: int) -> bool:
    return _state_and_parent(process)[0] in "ZX"


def _state_and_parent(process: int) -> tuple[str, int]:
    """Return the kernel's letter for the state of a process (X where there is none), and its parent."""
    try:
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def _reap() -> None:
    """Let the dead among our children and the adopted go."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
