"""`make check`: whether what every promise rests on does its work, found out in seconds by letting it do a little.

A server can be healthy and do nothing: a scheduler that fails at every pass shows its schedules as active all the same.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flows.crew import POOLS, answers
from flows.login import explain
from tasks.dvc_command import dvc_command, last_error, run_dvc
from tasks.running.state_folder import state_folder
from tasks.tracking.store import prove_store, public_uri, store_uri
from tlora.errors import TloraError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PATIENCE_SECONDS = 30.0  # the scheduler looks at new deployments every 5 s, a worker is heard of at once
FRESH_SECONDS = 95.0  # a worker is heard of every 30
DVC_SECONDS = 30.0
TRIAL = "tlora-check"  # flow and deployment that the scheduler is tried on, and that nobody ever runs
SCHEDULED, ON_EVENT, NOTIFICATION = "retrain/scheduled", "retrain/on-data-change", "tlora-notify"


@dataclass(frozen=True)
class Check:
    """What was found out about one thing.

    Args:
        what: The thing.
        state: `off` where nobody has switched it on.
        words: How it was found out, or what to do next.
    """

    what: str
    state: Literal["ok", "off", "FAILS"]
    words: str


def check_all(since: datetime | None = None) -> Iterator[Check]:
    """Try everything once.

    Args:
        since: A worker must have been heard of after that; by default a minute and a half ago.
    """
    api = served_at()
    if not api:
        yield Check("Prefect", "FAILS", "nothing is served here, so nothing is scheduled: make serve")
    elif not answers(f"{api}/health"):
        yield Check("Prefect", "FAILS", f"{api} does not answer: make serve")
    else:
        os.environ["PREFECT_API_URL"] = api  # prefect reads it when it is imported
        yield Check("Prefect", "ok", api.removesuffix("/api"))
        yield from _check_prefect(since or datetime.now(UTC) - timedelta(seconds=FRESH_SECONDS))
    yield _check_mlflow()
    yield check_remote()


def check_answers() -> Iterator[Check]:
    """Ask both servers whether they are there, and nothing more: what looks every half minute must leave no traces."""
    prefect, mlflow = served_at(), mlflow_served_at()
    for what, address, health in (("Prefect", prefect.removesuffix("/api"), "api/health"), ("MLflow", mlflow, "health")):
        if not address:
            yield Check(what, "FAILS", "nothing is served here: make serve")
        elif not answers(f"{address}/{health}"):
            yield Check(what, "FAILS", f"{public_uri(address)} does not answer")
        else:
            yield Check(what, "ok", f"{public_uri(address)} answers")


def served_at() -> str:
    """Return where Prefect's API is: PREFECT_API_URL, or what `make serve` has left in `.state`; empty for nowhere."""
    left = _left_addresses()
    return os.environ.get("PREFECT_API_URL") or (f"{left[0]}/api" if left else "")


def mlflow_served_at() -> str:
    """Return where MLflow's pages are: MLFLOW_TRACKING_URI, or what `make serve` has left in `.state`; empty for nowhere."""
    uri, left = store_uri(), _left_addresses()
    return uri if uri.startswith("http") else (left[1] if left else "")


def _left_addresses() -> list[str]:
    """Return what `make serve` has left in `.state`: Prefect's address and MLflow's, or nothing."""
    file = state_folder("serve") / "addresses"
    return file.read_text(encoding="utf-8").split() if file.exists() else []


def as_table(checks: list[Check]) -> str:
    """Return a line for each."""
    width = max(len(check.what) for check in checks)
    return "\n".join(f"{check.what.ljust(width)}  {check.state:<5}  {check.words}" for check in checks)


def check_remote() -> Check:
    """Ask the default DVC remote for what data.dvc names."""
    what = "DVC remote"
    if not (name := run_dvc("config", "core.remote")):
        return Check(what, "off", "none is set, results stay on this machine: dvc remote add --default NAME ADDRESS")
    listed = [line.removesuffix("(default)").split(maxsplit=1) for line in run_dvc("remote", "list").splitlines()]
    address = {words[0]: words[1].strip() for words in listed if len(words) == 2}.get(name, name)
    if "://" not in address and not Path(address).is_dir():
        return Check(what, "FAILS", f"{name}: no folder {address}: mount its disk, or let 'dvc push' make it")
    target = ["data.dvc"] if Path("data.dvc").exists() else []
    try:
        command = dvc_command("status", "--cloud", "--remote", name, *target)
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DVC_SECONDS)
    except subprocess.TimeoutExpired:
        return Check(what, "FAILS", f"{name}: {public_uri(address)} has not answered in {DVC_SECONDS:.0f} s")
    if answer.returncode:
        return Check(what, "FAILS", f"{name}: {public_uri(address)}: {last_error(answer.stderr) or 'does not answer'}")
    return Check(what, "ok", f"{name}: {public_uri(address)} answers")


def _check_mlflow() -> Check:
    where = public_uri(store_uri())
    try:
        prove_store()
    except (TloraError, OSError) as error:
        return Check("MLflow", "FAILS", str(error))
    return Check("MLflow", "ok", f"{where} took a write and gave it back")


def _check_prefect(since: datetime) -> Iterator[Check]:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True) as client:
            with _trial(client) as planned:
                for pool in POOLS:
                    yield _check_worker(client, pool, since)
                yield planned()
            yield _check_schedule(client)
            yield from _check_automations(client)
    except httpx.HTTPError as error:
        yield Check("Prefect", "FAILS", explain(error))
    except PrefectException as error:
        yield Check("Prefect", "FAILS", f"{type(error).__name__}: {error}")


def _check_worker(client: "SyncPrefectClient", pool: str, since: datetime) -> Check:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        heard = [worker.last_heartbeat_time for worker in client.read_workers_for_work_pool(pool)]
        if fresh := [moment for moment in heard if moment and moment > since]:
            age = (datetime.now(UTC) - max(fresh)).total_seconds()
            return Check(f"worker {pool}", "ok", f"heard of {max(0, age):.0f} s ago")
        if time.monotonic() > deadline:
            return Check(f"worker {pool}", "FAILS", f"none was heard of: runs of pool {pool} wait; see worker-{pool}.log")
        time.sleep(0.5)


@contextmanager
def _trial(client: "SyncPrefectClient") -> Iterator[Callable[[], Check]]:
    """Have a schedule that belongs to no pool for a while; yields what waits for its runs to be planned."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.schedules import IntervalSchedule

    started = time.monotonic()
    flow = client.create_flow_from_name(TRIAL)
    daily = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(days=1)), active=True)
    deployment = client.create_deployment(flow, TRIAL, schedules=[daily])

    def planned() -> Check:
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        while time.monotonic() - started < PATIENCE_SECONDS:
            if runs := client.read_flow_runs(deployment_filter=mine):
                words = f"planned {len(runs)} runs of a schedule on trial within {time.monotonic() - started:.0f} s"
                return Check("scheduler", "ok", words)
            time.sleep(0.5)
        words = f"planned nothing in {PATIENCE_SECONDS:.0f} s: no schedule starts anything; see prefect.log, and 'make setup'"
        return Check("scheduler", "FAILS", words)

    try:
        yield planned
    finally:
        client.delete_deployment(deployment)
        client.delete_flow(flow)


def _check_schedule(client: "SyncPrefectClient") -> Check:
    """Say when retraining comes next; a schedule that is active must have runs."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.exceptions import ObjectNotFound

    try:
        deployment = client.read_deployment_by_name(SCHEDULED)
    except ObjectNotFound:
        return Check(SCHEDULED, "FAILS", "is not deployed: prefect --no-prompt deploy --all")
    if deployment.paused or not any(schedule.active for schedule in deployment.schedules):
        return Check(SCHEDULED, "off", f"switch it on with 'prefect deployment schedule ls {SCHEDULED}', then 'schedule resume'")
    waiting = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    mine = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        times = [run.expected_start_time for run in client.read_flow_runs(deployment_filter=mine, flow_run_filter=waiting)]
        if due := [moment for moment in times if moment]:
            return Check(SCHEDULED, "ok", f"next at {min(due):%Y-%m-%d %H:%M} UTC")
        time.sleep(1)
    return Check(SCHEDULED, "FAILS", "its schedule is active, and nothing is planned")


def _check_automations(client: "SyncPrefectClient") -> Iterator[Check]:
    from prefect.exceptions import ObjectNotFound

    try:
        deployment = client.read_deployment_by_name(ON_EVENT)
        armed = [each for each in client.read_resource_related_automations(f"prefect.deployment.{deployment.id}") if each.enabled]
    except ObjectNotFound:
        armed = []
    yield (
        Check(ON_EVENT, "ok", "armed: the event tlora.data.changed starts it")
        if armed
        else Check(ON_EVENT, "FAILS", "no automation is armed, the event would start nothing: prefect --no-prompt deploy --all")
    )
    told = [automation for automation in client.read_automations_by_name(NOTIFICATION) if automation.enabled]
    words = "armed: failed runs and those that wait are posted" if told else "TLORA_NOTIFY_URL is not set: nobody is told"
    yield Check("notification", "ok" if told else "off", words)


def main() -> int:
    """Print the table and return 1 if something fails."""
    words = "Whether scheduler, workers, automations, MLflow and the DVC remote do their work."
    parser = argparse.ArgumentParser(prog="python -m flows.check", description=words)
    parser.add_argument("--answers", action="store_true", help="ask only whether Prefect and MLflow answer, in a second")
    checks = list(check_answers() if parser.parse_args().answers else check_all())
    print(as_table(checks))
    return int(any(check.state == "FAILS" for check in checks))


if __name__ == "__main__":
    sys.exit(main())
