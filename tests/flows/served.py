"""`make serve` in a copy of this tree: real servers, real workers, and a person who asks them for runs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil

from flows.processes import marked
from tests.clone import ROOT, Clone
from tests.services.orchestrator import headers_for

FINAL_STATES = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
COMMAND = [sys.executable, "-m", "flows.serve", "--prefect-port", "0", "--mlflow-port", "0"]


@dataclass
class Served:
    """What is being served.

    Args:
        clone: The tree that it was started in, and that its workers work in.
        process: `make serve` itself.
        notes: What was posted to TLORA_NOTIFY_URL so far.
        options: What it was started with beside the ports.
        url: The Prefect server's API.
        mlflow: The MLflow server's address.
    """

    clone: Clone
    process: "subprocess.Popen[str]"
    notes: list[str]
    options: tuple[str, ...] = ()
    url: str = ""
    mlflow: str = ""

    def wait_until_up(self) -> None:
        """Wait until it says that it is."""
        file, deadline = self.clone.folder / ".state/serve/addresses", time.monotonic() + 400
        while not (file.exists() and self.out().rstrip().endswith("Ctrl-C ends all of it.")):
            assert self.process.poll() is None, self.out()
            assert time.monotonic() < deadline, f"not up in time: {self.out()}"
            time.sleep(0.5)
        prefect, self.mlflow = file.read_text().split()
        self.url = f"{prefect}/api"

    def out(self) -> str:
        """Return what it has printed since it was started."""
        return out_of(self.clone).read_text()

    def start_again(self) -> None:
        """Start another one where this one was, which has ended, however that was."""
        self.process.wait(timeout=60)
        self.process = start(self.clone, self.options)
        self.wait_until_up()

    def members(self) -> dict[str, psutil.Process]:
        """Return the servers and workers, by name."""
        marks = {"Prefect": "prefect server", "MLflow": "mlflow server", "worker gpu": "--pool gpu", "worker cpu": "--pool cpu"}
        marks |= {"S3": "weed"} if "s3" in self.options else {}
        commands = {process: " ".join(process.cmdline()) for process in psutil.Process(self.process.pid).children()}
        return {name: next(each for each, command in commands.items() if mark in command) for name, mark in marks.items()}

    def wait_for_line(self, words: str, seconds: float = 120) -> None:
        """Wait until it has printed these words."""
        deadline = time.monotonic() + seconds
        while words not in self.out():
            assert time.monotonic() < deadline, f"{words!r} is not in {self.out()}"
            time.sleep(0.2)

    @property
    def environment(self) -> dict[str, str]:
        """What somebody who was told the two addresses sets."""
        home = str(self.clone.folder / ".state/prefect")
        addresses = {"PREFECT_API_URL": self.url, "MLFLOW_TRACKING_URI": self.mlflow, "PREFECT_HOME": home}
        login = {name: value for name, value in self.clone.environment.items() if name == "PREFECT_API_AUTH_STRING"}
        return os.environ | addresses | login | {"PYTHONPATH": str(ROOT)}

    def ask(self, path: str, **criteria: Any) -> Any:
        """Post to the API."""
        return self._call(path, json.dumps(criteria).encode())

    def read(self, path: str) -> Any:
        """Get from the API."""
        return self._call(path)

    def patch(self, path: str, **changes: Any) -> None:
        """Change something."""
        self._call(path, json.dumps(changes).encode(), "PATCH")

    def _call(self, path: str, data: bytes | None = None, method: str | None = None) -> Any:
        headers = headers_for(self.clone.environment.get("PREFECT_API_AUTH_STRING", ""))
        return _answer(urllib.request.Request(self.url + path, data, headers, method=method))

    def request(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run, as `prefect deployment run` does, and return its id."""
        found = self.read(f"/deployments/name/{deployment}")
        created = self.ask(f"/deployments/{found['id']}/create_flow_run", parameters=parameters, state={"type": "SCHEDULED"})
        return str(created["id"])

    def wait(self, run: str, states: set[str] = FINAL_STATES, seconds: float = 900) -> dict[str, Any]:
        """Wait until a run is in one of these states, by type, and return it."""
        deadline = time.monotonic() + seconds
        while (found := self.read(f"/flow_runs/{run}"))["state_type"] not in states:
            assert time.monotonic() < deadline, f"{found['name']} is still {found['state_name']}\n{self.logs(run)}"
            time.sleep(0.5)
        return dict(found)

    def wait_for_note(self, words: str, seconds: float = 60) -> None:
        """Wait until something with these words, and a link to the run's page, was posted."""
        deadline = time.monotonic() + seconds
        while not any(words in note and "/runs/flow-run/" in note for note in self.notes):
            assert time.monotonic() < deadline, self.notes
            time.sleep(0.5)

    def run(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """Ask for a run and return it when it is over."""
        return self.wait(self.request(deployment, **parameters))

    def logs(self, run: str) -> str:
        """Return what a run logged."""
        lines = self.ask("/logs/filter", logs={"flow_run_id": {"any_": [run]}}, sort="TIMESTAMP_ASC", limit=200)
        return "\n".join(line["message"] for line in lines)

    def artifacts(self, run: str) -> dict[str, str]:
        """Return the markdown that a run left, by key."""
        found = self.ask("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}}, sort="CREATED_DESC")
        return {artifact["key"]: artifact["data"] for artifact in found}

    def tasks(self, run: str) -> list[tuple[str, str]]:
        """Return the tasks of a run and their states, in order."""
        tasks = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return [(task["name"], task["state_name"]) for task in sorted(tasks, key=lambda task: task["start_time"])]


def _answer(request: urllib.request.Request) -> Any:
    """Return the answer to a request, asked again while the server is too busy, as Prefect's own clients do."""
    for attempt in range(10):
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer) if answer.status != HTTPStatus.NO_CONTENT else None
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(1 + attempt)
    raise AssertionError(f"{request.full_url}: the server is too busy")


@contextmanager
def serving(clone: Clone, *options: str, ending: signal.Signals = signal.SIGINT) -> Iterator[Served]:
    """Serve a tree; at the end a Ctrl-C, or another signal, after which no process may be left."""
    clone.environment |= {"PREFECT_WORKER_QUERY_SECONDS": "2"}
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        clone.environment.pop(name, None)
    notes: list[str] = []
    with listening(notes) as address:
        clone.environment["TLORA_NOTIFY_URL"] = address
        served = Served(clone, start(clone, options), notes, options)
        try:
            served.wait_until_up()
            yield served
        finally:
            served.process.send_signal(ending)
            code = served.process.wait(timeout=120)
            assert (code, marked(str(clone.folder.resolve()))) == (0, []), served.out()


def start(clone: Clone, options: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """Start `make serve` in a tree, without waiting for it."""
    with out_of(clone).open("w") as out:
        return subprocess.Popen([*COMMAND, *options], cwd=clone.folder, env=clone.environment, stdout=out, stderr=out, text=True)


def out_of(clone: Clone) -> Path:
    """Return where its output goes."""
    return clone.folder.parent / "serve.out"


@contextmanager
def listening(notes: list[str]) -> Iterator[str]:
    """Listen on the loopback for what is posted, keep its text, and yield the address."""

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notes.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/notes"
        server.shutdown()
