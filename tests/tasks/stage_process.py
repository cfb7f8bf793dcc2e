"""The training stage in a process of its own: started, limited, killed."""

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

from tests.processes import limit_memory
from tests.tasks.trainable import RUN

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tasks.train"])  # each process starts with the imports done, and is as real as any other


def start(folder: Path, *, memory: int = 0, signal_at: str = "") -> multiprocessing.process.BaseProcess:
    """Start the stage in a folder.

    Args:
        folder: Made by `make_trainable`.
        memory: Bytes that it may take beyond what it starts with; 0 for no limit.
        signal_at: Name of a checkpoint; while it is published, the process is asked to stop.
    """
    process = FORK.Process(target=_attempt, args=(str(folder), memory, signal_at))
    process.start()
    return process


def kill(pid: int) -> None:
    """Kill a process with its whole group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def bytes_of(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def _attempt(folder: str, memory: int, signal_at: str) -> None:
    """Run the stage, in a process group of its own, as its command would."""
    os.setsid()
    os.chdir(folder)
    with Path("train.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if memory:
        limit_memory(memory)
    from tasks.running.cli import run_stage
    from tasks.train.stage import train

    if signal_at:
        _ask_while_publishing(signal_at)
    run_stage(train, RUN)


def _ask_while_publishing(name: str) -> None:
    """Let SIGTERM arrive in the middle of the copy of a checkpoint, as nobody could time it from outside."""
    import tlora.training.run_folder

    copy = shutil.copytree

    def copy_and_ask(source: Path, target: Path, **options: bool) -> Path:
        if source.name == name:
            signal.raise_signal(signal.SIGTERM)
        return copy(source, target, **options)

    tlora.training.run_folder.shutil.copytree = copy_and_ask  # type: ignore[assignment]
