"""What a Prefect server is told before workers start: the work pools, which runs were cut off and go on, whom to notify."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect import State
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.states import Cancelled, Crashed, Scheduled
from prefect.types import SecretDict
from pydantic import SecretStr

NOTIFICATION = "tlora-notify"  # name of the block and of the automation
NOTIFIED = ("Failed", "Crashed", "TimedOut", "Refused", "Paused")  # states that somebody is told of; Paused waits for a person
MOST_TRIES = 5  # of a run whose workers end again and again: it may be what ends them
_UNSETTLED = (StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING)
_PAYLOAD = """\
{"text": {{ (flow.name ~ ' ' ~ flow_run.name ~ ': ' ~ flow_run.state.name ~ ' ' ~ (flow_run.state.message or '')
 ~ ' ' ~ (flow_run | ui_url or '')) | tojson }}}
"""


def prepare(pools: Mapping[str, int], notify_url: str, cut_off: Sequence[str] = ()) -> None:
    """Make the work pools, let runs go on that nobody works on any more, and set up notification.

    Args:
        pools: Work pool -> runs at once.
        notify_url: What is posted to when a run failed, was refused or waits; empty for nothing.
        cut_off: Ids of runs that an earlier `make serve` has left, and that were asked to save.
    """
    with get_client(sync_client=True) as client:
        for pool, limit in pools.items():
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", concurrency_limit=limit), overwrite=True)
        for automation in client.read_automations_by_name(NOTIFICATION):
            client.delete_automation(automation.id)
    let_go_on(list(pools), cut_off)
    if notify_url:
        _notify(notify_url)


def let_go_on(pools: Sequence[str], cut_off: Sequence[str]) -> None:
    """Let runs go on that nobody works on any more: they would hold the card's slot for ever.

    Args:
        pools: Work pools whose workers have ended; whatever is unsettled there is meant.
        cut_off: Ids of runs that are known to have been cut off, and may have said themselves that they crashed.
    """
    unsettled = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_UNSETTLED))))
    with get_client(sync_client=True) as client:
        theirs = WorkPoolFilter(name=WorkPoolFilterName(any_=list(pools)))
        left = client.read_flow_runs(flow_run_filter=unsettled, work_pool_filter=theirs)
        for run in left + [client.read_flow_run(UUID(each)) for each in cut_off]:
            if run.state_type in (*_UNSETTLED, StateType.CRASHED):
                client.set_flow_run_state(run.id, _state_after(run), force=True)


def _state_after(run: FlowRun) -> State[Any]:
    """Return what becomes of a run whose worker has gone."""
    if run.state_type is StateType.CANCELLING:
        return Cancelled(message="its worker was ended while it was being cancelled")
    if run.state_type is StateType.PAUSED:
        return Crashed(message="its worker was ended while it waited: ask for it again")
    if run.run_count > MOST_TRIES:
        return Crashed(message=f"its worker was ended while it ran, {run.run_count} times: nothing tries again by itself")
    return Scheduled(message="its worker was ended: it goes on with the next" if run.run_count else None)


def _notify(url: str) -> None:
    block = Webhook(url=SecretStr(url), headers=SecretDict({"Content-Type": "application/json"}))
    saved = block.save(NOTIFICATION, overwrite=True)
    assert isinstance(saved, UUID)  # where nothing is async, this is no coroutine
    trigger = EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in NOTIFIED},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    action = CallWebhook(block_document_id=saved, payload=_PAYLOAD)
    Automation(name=NOTIFICATION, trigger=trigger, actions=[action]).create()
