"""One GPU, many requests: an operating-system lock per machine and device, the only one that every caller shares.

A work pool's limit knows nothing of somebody's `dvc repro` in another clone. The kernel drops the lock when its holder dies,
however it dies, so nothing can be left behind.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS_BETWEEN_TRIES = 1.0
SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def hold_device(device: str, stage: str, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a device for the length of the context, waiting for whoever has it and saying so every 30 s.

    Args:
        device: Such as `cuda:0` or `cpu`.
        stage: Who asks, for others who wait.
        say: Where the line goes that somebody has it; by default it is printed.
    """
    handle = _open_for_everybody(Path(tempfile.gettempdir()) / f"tlora-{device.replace(':', '-')}.lock")
    try:
        _wait_for(handle, device, say or _say)
        with suppress(OSError):  # another user's, from before it was everybody's to write: who holds it is not said then
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} {stage} in {Path.cwd()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def _open_for_everybody(path: Path) -> int:
    """Open a file that every user of this machine shares, whoever comes first, and whatever umask that one has.

    One that is there is opened without O_CREAT, which Linux refuses for other users' files in a folder like /tmp
    (fs.protected_regular). A lock can be had of a file that may only be read.
    """
    while True:
        for flags in (os.O_RDWR, os.O_RDONLY):
            with suppress(FileNotFoundError, PermissionError):
                return os.open(path, flags | os.O_NOFOLLOW)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        except FileExistsError:
            if not os.access(path, os.R_OK):
                raise PermissionError(f"{path} is another user's and closed to you: have it removed, it is made anew") from None
            continue  # somebody was faster
        os.fchmod(handle, 0o666)
        return handle


def _say(line: str) -> None:
    print(line, flush=True)


def _wait_for(handle: int, device: str, say: Callable[[str], None]) -> None:
    spoke = -SECONDS_BETWEEN_LINES
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - spoke >= SECONDS_BETWEEN_LINES:
                spoke = time.monotonic()
                holder, _, stage = os.pread(handle, 200, 0).decode(errors="replace").partition(" ")
                say(f"waiting for {device}, held by process {holder} ({stage})")
            time.sleep(SECONDS_BETWEEN_TRIES)
        else:
            return
