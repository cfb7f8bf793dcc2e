"""Which processes a test has left behind, and how much memory one may take."""

import contextlib
import resource
from pathlib import Path

import psutil


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the processes that were started with MARK in their environment, or by one that was."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or gone
            found += [process] if process.environ().get("MARK") == mark else []
    return found


def limit_memory(extra: int) -> None:
    """Let this process take so many bytes beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
