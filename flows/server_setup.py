"""What a Prefect server is told before workers start: the work pools, what became of runs that were cut off, whom to notify."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect import State
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.states import Crashed, Scheduled
from prefect.types import SecretDict
from pydantic import SecretStr

NOTIFICATION = "tlora-notify"  # name of the block and of the automation
NOTIFIED = ("Failed", "Crashed", "TimedOut", "Refused", "Paused")  # states that somebody is told of; Paused waits for a person
_PAYLOAD = """\
{"text": {{ (flow.name ~ ' ' ~ flow_run.name ~ ': ' ~ flow_run.state.name ~ ' ' ~ (flow_run.state.message or '')) | tojson }}}
"""


def prepare(pools: Mapping[str, int], notify_url: str) -> None:
    """Make the work pools, settle runs that nobody works on any more, and set up notification.

    Args:
        pools: Work pool -> runs at once.
        notify_url: What is posted to when a run failed, was refused or waits; empty for nothing.
    """
    with get_client(sync_client=True) as client:
        for pool, limit in pools.items():
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", concurrency_limit=limit), overwrite=True)
        _settle(client, list(pools))
        for automation in client.read_automations_by_name(NOTIFICATION):
            client.delete_automation(automation.id)
    if notify_url:
        _notify(notify_url)


def _settle(client: SyncPrefectClient, pools: list[str]) -> None:
    """Say of runs that were cut off that they were, since they would hold the card's slot; those not yet begun begin anew."""
    unsettled = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
    left = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unsettled))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=pools)),
    )
    for run in left:
        begun = run.state_type is not StateType.PENDING
        state: State[Any] = Crashed(message="its worker was ended while it ran") if begun else Scheduled()
        client.set_flow_run_state(run.id, state, force=True)


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
