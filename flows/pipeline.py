"""`python -m flows.pipeline`: the stages of dvc.yaml as a Prefect flow, one task each.

DVC decides what is stale and in which order; Prefect decides when, where and what happens on failure. So nothing is cached
or persisted here, the order is never declared again, and a stage that DVC skipped is shown as skipped.
"""

import argparse
import os
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import stages
from flows.command import run_once
from flows.needed_outputs import needed_stages
from flows.plan import read_status
from flows.processes import RUN, end_with_parent
from flows.progress import ProgressArtifact
from flows.run_page import data_report, run_report
from flows.secrets import stage_secrets
from flows.stages import Outcome, StageRun
from flows.worktree import PARAMS, own_tree, remove_branch
from tasks.dvc_command import run_dvc
from tasks.running.all_settings import CHECKED, require_all_settings
from tlora.errors import TloraError

SUCCESSES: tuple[Outcome, ...] = ("Completed", "Skipped", "Restored")
PREEMPTIONS = 20  # a stage that goes on where it was makes progress; one that never does must end
PREEMPTION_DELAY = 10  # seconds


def was_preempted(stage: Any, task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether a stage stopped in good order and is worth another try; a failure never is."""
    return state.name == "Preempted"


@task(
    name="stage",
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=PREEMPTIONS,
    retry_delay_seconds=PREEMPTION_DELAY,
    retry_condition_fn=was_preempted,
)
def run_stage(stage: str, allow_missing: bool) -> State[None]:
    """Run one stage; its state bears the outcome's name and the stage's own reason."""
    progress = ProgressArtifact(stage, get_run_logger().info)
    run = stages.run_stage(stage, progress.hear, allow_missing=allow_missing, secrets=stage_secrets())
    if run.reason:
        return Failed(name=run.outcome, message=run.reason)
    return Completed(name=run.outcome, message=f"{run.seconds:.1f} s")


@flow(name="pipeline", persist_result=False)
def pipeline(overrides: list[str] | None = None, stage_timeout_seconds: float | None = None) -> State[None]:
    """Bring every stage up to date, in DVC's order, and leave a report as an artifact.

    Args:
        overrides: Settings of params.yaml to run with, such as `train.rank=32`: the run then has a tree and a branch of its
            own, made from the last commit, and the tree that it was asked for in stays as it is.
        stage_timeout_seconds: How long any one stage may take; no limit by default.
    """
    try:
        with own_tree(run_id(), overrides) if overrides else nullcontext("") as branch:
            runs = _run_stages(stage_timeout_seconds)
        if branch and runs[-1].reason:
            remove_branch(branch)
    except (TloraError, OSError) as error:
        return Failed(message=str(error))
    return _verdict(runs, branch)


def run_id() -> str:
    """Return what names an isolated run: the start of Prefect's own id, so that one is found from the other."""
    return str(flow_run.id or uuid.uuid4())[:8]


def _run_stages(timeout_seconds: float | None) -> list[StageRun]:
    if RUN in os.environ:
        end_with_parent()  # a run that goes on without its worker cannot be cancelled any more, and holds the card
    dot = run_dvc("dag", "--dot")
    order, needed = stages.order_graph(dot), needed_stages(stages.read_graph(dot), read_status())
    if set(order) >= CHECKED and needed & CHECKED:
        require_all_settings(PARAMS)
    runs: list[StageRun] = []
    for stage in order:
        started = time.monotonic()
        attempt = run_stage.with_options(timeout_seconds=timeout_seconds)
        state = attempt(stage, allow_missing=stage not in needed, return_state=True)
        runs.append(_as_run(stage, state, time.monotonic() - started))
        if not state.is_completed():
            break
    create_markdown_artifact(run_report(runs, order), key="pipeline", description="What ran, and what came of it")
    if data := data_report(runs):
        create_markdown_artifact(data, key="data", description="What changed in the data since the champion's")
    return runs


def _as_run(stage: str, state: State[Any], seconds: float) -> StageRun:
    """Read a task's state back: Prefect has states of its own, such as TimedOut, and they are failures with a message."""
    for outcome in SUCCESSES:
        if state.name == outcome:
            return StageRun(stage, outcome, "", seconds)
    return StageRun(stage, "Failed", state.message or str(state.name), seconds)


def _verdict(runs: Sequence[StageRun], branch: str) -> State[None]:
    if runs and runs[-1].reason:
        return Failed(message=f"{runs[-1].stage}: {runs[-1].reason}")
    where = f", on branch {branch}" if branch else ""
    fresh = [run.stage for run in runs if run.outcome == "Completed" and not run.stage.endswith(".dvc")]
    return Completed(message=(f"ran {', '.join(fresh)}" if fresh else "everything was up to date") + where)


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description="Bring every stage up to date, as a Prefect flow."
    )
    words = "settings to run with, in a tree and on a branch of its own, such as train.rank=32"
    parser.add_argument("--overrides", nargs="+", action="extend", metavar="SECTION.KEY=VALUE", help=words)
    parser.add_argument("--stage-timeout-seconds", type=float, help="how long any one stage may take; no limit by default")
    options = parser.parse_args()
    return run_once("pipeline", lambda: pipeline(options.overrides, options.stage_timeout_seconds, return_state=True))


if __name__ == "__main__":
    sys.exit(main())
