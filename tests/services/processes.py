"""Start a server on loopback, wait until it answers, and leave nothing of it behind."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

STARTUP_SECONDS = 240  # of a loaded machine


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A process with a process group of its own, which can be killed and started again.

    Args:
        command: What to run.
        log: Where its output goes, appended.
        ready: Whether it can be used.
        environment: By default this process's.
        folder: Working folder, by default this process's.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        ready: Callable[[], bool],
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._command, self.log, self._ready = command, log, ready
        self._environment, self._folder = environment or dict(os.environ), folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it is ready."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, cwd=self._folder, start_new_session=True
            )
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._ready():
                return
            time.sleep(0.3)
        self.stop(signal.SIGKILL)
        pytest.fail(f"{' '.join(self._command)} did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it and all that it started; once more does nothing."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, how)
            self._process.wait(timeout=60)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def kill_alone(self) -> None:
        """Kill it with -9 and nothing that it has started."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None
