"""The studio, started as a person starts it."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Studio:
    """The page as a person finds it."""

    process: "subprocess.Popen[str]"
    address: str
    folder: Path

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


def start(folder: Path, environment: Mapping[str, str]) -> Studio:
    """Start `make studio` in a tree, and return once its page answers."""
    log = folder.parent / "studio.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "studio", "--port", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file, text=True)
    deadline = time.monotonic() + 300
    while not (found := re.search(r"studio: (http://127.0.0.1:\d+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    return Studio(process, found[1], folder)
