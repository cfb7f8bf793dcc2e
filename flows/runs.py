"""`python -m flows.runs`: what was asked of the pipeline and what became of it; ask for another run, cancel one so that it saves.

Where the deployment `pipeline/on-demand` is served, it is asked, and runs wait for their turn. Elsewhere the flow runs as a
process of this machine, one at a time, whose log and number lie in `.state/runs`: whoever asked may end, the run does not.
"""

import argparse
import fcntl
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from flows import processes
from flows.check import served_at
from flows.login import explain, shared_login
from tasks.running.loopback import loopback_without_proxy
from tasks.running.state_folder import state_folder
from tlora.errors import TloraError
from tlora.runtime.atomic_file import write_json

DEPLOYMENT = "pipeline/on-demand"
LOCAL = "local"  # id of the run that is a process of this machine
UNDER_WAY = ("queued", "running", "waiting", "being cancelled")
MOST_RUNS, MOST_LINES = 10, 12
_PATIENCE = 10.0  # seconds for an answer; SQLite on a loaded machine takes some
_WORDS = {
    "SCHEDULED": "queued",
    "PENDING": "queued",
    "RUNNING": "running",
    "PAUSED": "waiting",
    "CANCELLING": "being cancelled",
    "COMPLETED": "done",
    "FAILED": "failed",
    "CRASHED": "failed",
    "CANCELLED": "cancelled",
}
_ENDED = re.compile(r"^pipeline: (?P<error>error: )?(?P<words>.*)")


class RunsError(TloraError):
    """A run cannot be asked for, looked at or cancelled."""


@dataclass(frozen=True)
class Run:
    """A run of the pipeline.

    Args:
        id: Prefect's, or `LOCAL`.
        name: As people are told.
        state: One of `UNDER_WAY`, or done, failed, cancelled.
        words: What Prefect or the flow said last of it.
        asked_at: In UTC.
        page: Where Prefect shows it; empty where nothing is served.
    """

    id: str
    name: str
    state: str
    words: str
    asked_at: str
    page: str = ""


def is_served() -> bool:
    """Return whether a Prefect server answers where one is named.

    Raises:
        RunsError: If PREFECT_API_URL names one that does not answer: what was asked elsewhere would be asked in vain.
    """
    api = served_at()
    try:
        if api and httpx.get(f"{api}/health", timeout=_PATIENCE).is_success:
            return True
    except httpx.HTTPError as error:
        if os.environ.get("PREFECT_API_URL"):
            raise RunsError(f"Prefect at {api} does not answer ({type(error).__name__}): make serve") from error
    return False


def client_environment() -> dict[str, str]:
    """Return what a command of this machine is told besides, so that what it does shows where things are served; empty elsewhere.

    Raises:
        RunsError: As `is_served`.
    """
    return {"PREFECT_API_URL": served_at()} if is_served() else {}


def ask_for_run() -> str:
    """Ask for a run and return its id.

    Raises:
        RunsError: If a process of this machine is at it already, or Prefect does not take it.
    """
    if not is_served():
        return _start_here()
    with _asking() as client:
        name, flow = DEPLOYMENT.split("/")[::-1]
        found = _told(client.get(f"/deployments/name/{flow}/{name}"))
        asked = client.post(f"/deployments/{found['id']}/create_flow_run", json={"state": {"type": "SCHEDULED"}})
        return str(_told(asked)["id"])


def cancel_run(run: str) -> None:
    """Let a run save and end.

    Raises:
        RunsError: If it is not under way, or Prefect does not know it.
    """
    if run != LOCAL:
        with _asking() as client:
            _told(client.post(f"/flow_runs/{_id(run)}/set_state", json={"state": {"type": "CANCELLING"}}))
        return
    process = _local_process()
    if process is None:
        raise RunsError("nothing runs here that could be cancelled")
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)


def list_runs() -> list[Run]:
    """Return the latest runs, the newest first.

    Raises:
        RunsError: If Prefect does not answer.
    """
    local = _local_run()
    runs = [local] if local else []
    if is_served():
        with _asking() as client:
            wanted = {"flows": {"name": {"any_": ["pipeline"]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": MOST_RUNS}
            pages = served_at().removesuffix("/api")
            runs += [_as_run(each, pages) for each in _told(client.post("/flow_runs/filter", json=wanted))]
    return sorted(runs, key=lambda run: (run.state in UNDER_WAY, run.asked_at), reverse=True)


def last_lines(run: str) -> list[str]:
    """Return the last lines that a run has said.

    Raises:
        RunsError: If Prefect does not answer or does not know it.
    """
    if run == LOCAL:
        log = _folder() / "log"
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-MOST_LINES:] if log.exists() else []
    with _asking() as client:
        wanted = {"logs": {"flow_run_id": {"any_": [_id(run)]}}, "sort": "TIMESTAMP_DESC", "limit": MOST_LINES}
        return [str(line["message"]) for line in _told(client.post("/logs/filter", json=wanted))][::-1]


@contextmanager
def _asking() -> Iterator[httpx.Client]:
    login = next(iter(shared_login().values()), "").partition(":")
    auth = httpx.BasicAuth(login[0], login[2]) if login[0] else None
    try:
        with httpx.Client(base_url=served_at(), auth=auth, timeout=_PATIENCE) as client:
            yield client
    except httpx.HTTPStatusError as error:
        missing = error.response.status_code == httpx.codes.NOT_FOUND
        raise RunsError(f"Prefect does not know {error.request.url.path}" if missing else explain(error)) from error
    except httpx.HTTPError as error:
        raise RunsError(f"Prefect at {served_at()} does not answer ({type(error).__name__}): make check") from error


def _told(answer: httpx.Response) -> Any:
    return answer.raise_for_status().json()


def _id(run: str) -> str:
    if not re.fullmatch(r"[0-9a-f-]{36}", run):
        raise RunsError(f"{run!r} is no run's id")
    return run


def _as_run(told: dict[str, Any], pages: str) -> Run:
    state = told.get("state") or {}
    word = _WORDS.get(str(told.get("state_type")), "unknown")
    address = f"{pages}/runs/flow-run/{told['id']}"
    return Run(
        str(told["id"]), str(told["name"]), word, str(state.get("message") or ""), str(told["expected_start_time"]), address
    )


def _folder() -> Path:
    return state_folder("runs")


def _start_here() -> str:
    """Start the flow as a process that outlives this one."""
    with (_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _local_process() is not None:
            raise RunsError("a run is under way on this machine, and only 'make serve' lets another wait: cancel it, or wait")
        log = _folder() / "log"
        log.write_bytes(b"")
        told = {"PYTHONUNBUFFERED": "1"}  # its lines come when they are printed
        process = processes.start([sys.executable, "-m", "flows.pipeline"], log, os.environ | told)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(_folder() / "run.json", {"pid": process.pid, "created": process.create_time(), "asked_at": at})
    return LOCAL


def _local_process() -> psutil.Process | None:
    """Return the process that was started last, if it still is."""
    told = _local_record()
    try:
        process = psutil.Process(int(told["pid"]))
        mine = process.create_time() == told["created"] and not processes.is_dead(process)
    except (KeyError, psutil.Error):
        return None
    return process if mine else None


def _local_record() -> dict[str, Any]:
    file = _folder() / "run.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _local_run() -> Run | None:
    told = _local_record()
    if not told:
        return None
    if _local_process() is not None:
        return Run(LOCAL, "on this machine", "running", "", str(told["asked_at"]))
    said = [match for line in last_lines(LOCAL) if (match := _ENDED.match(line))]
    if not said:
        words = "it ended without a word: killed, or cancelled; what it had saved it goes on from"
        return Run(LOCAL, "on this machine", "cancelled", words, str(told["asked_at"]))
    return Run(LOCAL, "on this machine", "failed" if said[-1]["error"] else "done", said[-1]["words"], str(told["asked_at"]))


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.runs", description="Runs of the pipeline: list, ask for one, cancel one."
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--ask", action="store_true", help="ask for one, of what is served or of this machine")
    what.add_argument("--cancel", metavar="ID", help="let it save and end")
    options = parser.parse_args()
    loopback_without_proxy()
    try:
        if options.ask:
            print(f"runs: asked for {ask_for_run()}")
        elif options.cancel:
            cancel_run(options.cancel)
            print(f"runs: {options.cancel} is being cancelled")
        else:
            print("\n".join(f"{run.state:15}  {run.id}  {run.name}  {run.words}".rstrip() for run in list_runs()) or "runs: none")
    except (TloraError, OSError) as error:
        print(f"runs: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
