"""`retrain`: on a schedule, or when the data is said to have changed.

It looks, in seconds, whether there is anything new; if so, the plan is shown, the pipeline runs where the card is, and the
challenger is held against the champion. The flow itself needs no card. Served, the pipeline and the promotion are runs of their
own deployments; without a server's workers (`python -m flows.retrain`) they run here, one after the other.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed

from flows.command import run_once
from flows.pipeline import pipeline
from flows.plan import make_plan, rows_of, summary_of
from flows.promote import promote
from flows.reasons import RetrainReasons, RetrainSettings, bring_in, find_reasons, read_settings
from flows.run_page import table
from flows.worktree import commit
from tasks.dvc_command import run_dvc
from tasks.registry.decisions import FILE as DECISIONS
from tasks.registry.names import registered_name_here
from tasks.running.git import git
from tasks.tracking.store import explained_failures, open_store
from tlora.errors import TloraError

KEPT = ("dvc.lock", "data.dvc", "metrics/evaluate.json", DECISIONS)  # what git keeps of a run


@flow(name="retrain", persist_result=False)
def retrain() -> State[None]:
    """Train again if there is anything new, and let the result become champion if it may."""
    try:
        if later := _later_run():
            return Completed(name="Skipped", message=f"missed its time, and {later} came due since: nothing is done twice")
        return _retrain(read_settings())
    except (TloraError, OSError) as error:
        return Failed(message=str(error))


def _retrain(settings: RetrainSettings) -> State[None]:
    for line in bring_in(settings):
        get_run_logger().info(line)
    with explained_failures():
        found = find_reasons(open_store(), registered_name_here(), settings)
    if not found.reasons:
        return Completed(name="Skipped", message=f"nothing new: {found.quiet}")
    get_run_logger().info("training again: %s", "; ".join(found.reasons))
    _show_plan(found)
    ran = _run_pipeline()
    if not ran.is_completed():
        return Failed(message=f"pipeline: {ran.message}")
    kept = _keep(settings)
    return Completed(message=f"{'; '.join(found.reasons)}: {ran.message}; {found.held or _promote()}{kept}")


def _show_plan(found: RetrainReasons) -> None:
    """Show what is going to run, why and for how long, before the card is asked for."""
    plan = make_plan()
    reasons = "\n".join(f"- {reason}" for reason in found.reasons)
    page = f"# Training again\n\n{reasons}\n\n{summary_of(plan)}.\n\n{table(('stage', 'what', 'why', 'about'), rows_of(plan))}\n"
    create_markdown_artifact(page, key="plan", description="What is going to run, and why")


def _run_pipeline() -> State[Any]:
    """Run the pipeline where the card is, and wait for it."""
    if not deployment.id:
        return pipeline(return_state=True)
    run: Any = run_deployment("pipeline/on-demand", timeout=None, poll_interval=5)
    state: State[Any] = run.state
    return state


def _promote() -> str:
    """Let the gate decide; where a person is asked too, the run that waits for the answer goes on by itself."""
    if not deployment.id:
        return str(promote(return_state=True).message)
    run: Any = run_deployment("promote/on-demand", timeout=0)
    return f"promotion is run {run.name}"


def _keep(settings: RetrainSettings) -> str:
    """Push what DVC holds and commit what git keeps, as configured; return what was done."""
    done = ""
    if settings.push:
        run_dvc("push", "--quiet")  # before git says that it is there
        done += "; pushed"
    if settings.commit and commit("Train again", [name for name in KEPT if Path(name).exists()]):
        done += "; committed"
    if settings.push and settings.commit and settings.git_remote:
        git("push", "--quiet", settings.git_remote, f"HEAD:{settings.git_branch}")
    return done


def _later_run() -> str | None:
    """Return the name of a run of this deployment that came due after this one, if there is one that works, will or has tried.

    While nobody worked, every missed time of a schedule has left a run: the last of them does the work of all. Who began first
    would not tell them apart, since several may begin at once.
    """
    due = flow_run.scheduled_start_time
    if not deployment.id or not due:
        return None
    lost = [StateType.CRASHED, StateType.CANCELLED, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        others = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[UUID(deployment.id)])),
            flow_run_filter=FlowRunFilter(
                expected_start_time=FlowRunFilterExpectedStartTime(after_=due),
                state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=lost)),
            ),
        )
    now = datetime.now(UTC)
    came_due = ((other, other.expected_start_time) for other in others if other.expected_start_time)
    return next((other.name for other, time in came_due if (due, flow_run.id) < (time, str(other.id)) and time <= now), None)


def main() -> int:
    """Run the command and return its exit status."""
    words = "Train again if there is anything new; section retrain of params.yaml says where it comes from."
    argparse.ArgumentParser(prog="python -m flows.retrain", description=words).parse_args()
    return run_once("retrain", lambda: retrain(return_state=True))


if __name__ == "__main__":
    sys.exit(main())
