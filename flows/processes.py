"""Processes that are started together and end together, with all that they have started themselves.

A worker starts its flows in sessions of their own, and flows their stages, so no signal to a group reaches them all. Linux can
make this process the one that orphans are handed to: then all of them are below it, whoever has died in between. And all of
them bear a mark in their environment, by which the next one knows them, should this process be killed itself.
"""

import ctypes
import functools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "TLORA_SERVED"  # in the environment of all that `make serve` starts: the folder of its repository
RUN = "PREFECT__FLOW_RUN_ID"  # what a worker tells the process that it starts for a run
SECONDS_TO_SAVE = 35.0  # a stage may take 25
SECONDS_TO_END = 15.0
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


def start(command: Iterable[str], log: Path, environment: Mapping[str, str]) -> psutil.Popen:
    """Start a process in a session of its own, so that a Ctrl-C at the terminal reaches this process alone."""
    with log.open("ab") as file:
        return psutil.Popen(
            list(command), env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )


def below_this() -> list[psutil.Process]:
    """Return what this process has started or adopted, and what those have."""
    return [process for process in psutil.Process().children(recursive=True) if not is_dead(process)]


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that bear a mark, other than this one and those that it runs under."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in own and environment_of(process).get(MARK) == mark]


def runs_below(process: psutil.Process) -> dict[str, psutil.Process]:
    """Return the flows that a worker has started and that still run, by the id of their run."""
    try:
        return {environment_of(child)[RUN]: child for child in process.children() if is_run(child)}
    except psutil.NoSuchProcess:
        return {}


def is_run(process: psutil.Process) -> bool:
    """Return whether a process is a flow that a worker has started, rather than one of its stages."""
    return RUN in environment_of(process) and any(word.startswith("prefect") for word in _command_of(process))


def take_down(family: Callable[[], list[psutil.Process]], say: Callable[[str], None]) -> list[str]:
    """Let what runs save and end, then end everything; return the ids of the runs.

    The workers are held still meanwhile: they would begin the next run, and, told to stop, would hurry the ones that save.

    Args:
        family: Returns all that is to end, as it is at that moment.
        say: Told how many have to save.
    """
    workers = [process for process in family() if {"worker", "start"} <= {*_command_of(process)}]
    _signal_all(workers, signal.SIGSTOP)
    runs = [process for process in family() if is_run(process)]
    ids = [environment_of(run)[RUN] for run in runs if RUN in environment_of(run)]
    if runs:
        say(f"{len(runs)} running, being asked to save")
    stop_all(runs, 0)
    wait_for_end([process for process in family() if RUN in environment_of(process)], SECONDS_TO_SAVE)
    _signal_all(workers, signal.SIGKILL)
    stop_all(family(), SECONDS_TO_END)
    while left := family():
        _signal_all(left, signal.SIGKILL)
        reap_adopted(())
        time.sleep(0.05)
    return ids


def stop_all(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Send TERM to each process, and to the group that it leads, and wait until all have ended, at most so long.

    Returns:
        Those that have not ended.
    """
    for process in processes:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if process.is_running() and os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGTERM)
            else:
                process.terminate()
    return wait_for_end(processes, seconds)


def wait_for_end(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended, at most so long; return those that have not."""
    deadline = time.monotonic() + seconds
    while (left := [process for process in processes if not is_dead(process)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def kill_session(leader: int) -> None:
    """Kill what is left of the session that a process led which has ended."""
    _signal_all([process for process in below_this() if _session_of(process) == leader], signal.SIGKILL)


def reap_adopted(own: Iterable[int]) -> None:
    """Let the dead among the adopted go; how one of our own has ended is for others to ask."""
    for child in psutil.Process().children():
        if child.pid not in own and is_dead(child):
            with suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)


def is_dead(process: psutil.Process) -> bool:
    """Return whether a process has ended, also where nobody has asked yet how."""
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Return what a process was started with; nothing for one that has ended, or is another user's."""
    try:
        return dict(process.environ())
    except (psutil.Error, OSError):
        return {}


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


def _signal_all(processes: Iterable[psutil.Process], signum: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signum)
