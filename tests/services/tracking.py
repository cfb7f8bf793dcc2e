"""MLflow's own server, which hands artifacts through: its clients see neither the database nor the files."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.processes import Server, answers, free_port


@dataclass(frozen=True)
class Tracking:
    """The server, its address, and the folder behind its artifact proxy."""

    server: Server
    url: str
    vault: Path


@contextmanager
def open_tracking(folder: Path, database: str) -> Iterator[Tracking]:
    """Start `mlflow server` on a database, with its artifacts in a folder of its own."""
    port, vault = free_port(), folder / "vault"
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(vault)]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    server = Server(command, folder / "log", lambda: answers(f"{url}/health"), environment, folder)
    server.start()
    try:
        yield Tracking(server, url, vault)
    finally:
        server.stop(signal.SIGKILL)
