"""One GPU, many requests: an operating-system lock per machine and device, the only one that every caller shares.

A work pool's limit knows nothing of somebody's `dvc repro` in another clone. The kernel drops the lock when its holder dies,
however it dies, so nothing can be left behind.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS_BETWEEN_TRIES = 1.0
SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def hold_device(device: str, stage: str) -> Iterator[None]:
    """Hold a device for the length of the context, waiting for whoever has it and saying so every 30 s.

    Args:
        device: Such as `cuda:0` or `cpu`.
        stage: Who asks, for others who wait.
    """
    path = Path(tempfile.gettempdir()) / f"tlora-{device.replace(':', '-')}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait_for(handle, device)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {stage}".encode(), 0)
        yield
    finally:
        os.close(handle)


def _wait_for(handle: int, device: str) -> None:
    spoke = -SECONDS_BETWEEN_LINES
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - spoke >= SECONDS_BETWEEN_LINES:
                spoke = time.monotonic()
                holder, _, stage = os.pread(handle, 200, 0).decode().partition(" ")
                print(f"waiting for {device}, held by process {holder} ({stage})", flush=True)
            time.sleep(SECONDS_BETWEEN_TRIES)
        else:
            return
