"""Prefect's own server, with its pages, on SQLite or on a database that it is given."""

import base64
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flows.crew import answers
from tests.services.processes import Server, free_port


@dataclass(frozen=True)
class Orchestrator:
    """The server, where people and clients find it, and what clients need in their environment."""

    server: Server
    url: str
    environment: dict[str, str]
    login: str = ""

    def ask(self, path: str, **criteria: Any) -> Any:
        """Post to its API and return the answer."""
        data = json.dumps(criteria).encode()
        request = urllib.request.Request(f"{self.url}/api{path}", data, headers_for(self.login))
        body = _open_patiently(request)
        return json.loads(body) if body else None


@contextmanager
def open_orchestrator(folder: Path, database: str = "", login: str = "") -> Iterator[Orchestrator]:
    """Start a server whose home is an empty folder, and which asks its clients for `name:password` where that is given."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {"PREFECT_HOME": str(folder), "PREFECT_API_URL": f"{url}/api", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment |= {"DO_NOT_TRACK": "1"}
    own = environment | ({"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {})
    own |= {"PREFECT_SERVER_API_AUTH_STRING": login} if login else {}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = Server(command, folder / "server.log", lambda: answers(f"{url}/api/health"), os.environ | own, folder)
    server.start()
    try:
        yield Orchestrator(server, url, environment | ({"PREFECT_API_AUTH_STRING": login} if login else {}), login)
    finally:
        server.stop(signal.SIGKILL)


def headers_for(login: str) -> dict[str, str]:
    """Return what a request is sent with; `login` is `name:password`, or empty."""
    basic = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    return {"Content-Type": "application/json", **basic}


def _open_patiently(request: urllib.request.Request) -> bytes:
    """Open it, again while SQLite is locked, which the server says with 503 and clients are meant to retry."""
    for _ in range(20):
        try:
            with urllib.request.urlopen(request) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(0.5)
    raise AssertionError(f"{request.full_url}: the server is never available")
