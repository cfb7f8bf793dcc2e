"""Which processes a test has left behind."""

import contextlib

import psutil


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the processes that were started with MARK in their environment, or by one that was."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or gone
            found += [process] if process.environ().get("MARK") == mark else []
    return found
