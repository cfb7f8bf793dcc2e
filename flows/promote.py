"""`promote` and `rollback`: which version is champion. Flows of their own, on the CPU: what waits for a person holds no card.

The gate compares (tasks/tracking/promotion.py); this decides what follows: a refusal with its table, a question to a person,
or the move of the aliases.
"""

import argparse
import asyncio
import getpass
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.utilities.urls import url_for

from flows.command import run_once
from flows.worktree import is_unmerged
from tasks.registry import promotion
from tasks.registry.names import PARAMS, registered_name_here
from tasks.registry.verdict import PromoteSettings, PromotionError, Verdict
from tasks.registry.versions import BRANCH
from tasks.running.cli import read_section
from tasks.tracking.store import Store, explained_failures, open_store, run_address, version_address
from tlora.errors import TloraError
from tlora.runtime.settings import parse_settings
from tlora.trust.settings import TrustSettings

GATE = "the gate"
LATE_SECONDS = 600  # a server that finds a pause expired puts a failure of its own in place of every state proposed to it


@dataclass(frozen=True)
class Answer:
    """What was said with the command: who approves, why, and whether a version may be champion again."""

    approved_by: str
    why: str
    again: bool


class Approval(RunInput):
    """What the page of a waiting run asks a person for."""

    approve: bool
    your_name: str
    reason: str = ""


@flow(name="promote", persist_result=False)
def promote(model: str = "", version: str = "", approved_by: str = "", why: str = "", again: bool = False) -> State[None]:
    """Hold the challenger against the champion and, if the gate and perhaps a person let it pass, make it champion.

    Args:
        model: Name of the registered model, by default the one that params.yaml and concept.yaml are about.
        version: Its number, by default the challenger's.
        approved_by: Who approves, where that is known before; nobody is asked then.
        why: The reason, for the record.
        again: Whether it may be one that was champion before, or was rolled back: that takes a reason.
    """
    try:
        if again and not why:
            raise PromotionError("to make a version champion again, say why: AGAIN=1 WHY='...'")
        with explained_failures():
            return _promote(open_store(), model or registered_name_here(), version, Answer(approved_by, why, again))
    except (TloraError, OSError) as error:
        return Failed(message=str(error))


@flow(name="rollback", persist_result=False)
def rollback(model: str = "", why: str = "", by: str = "") -> State[None]:
    """Make the version that was champion before champion again.

    Args:
        model: Name of the registered model, by default the one that params.yaml and concept.yaml are about.
        why: The reason, for the record.
        by: Who decided, for the record.
    """
    try:
        with explained_failures():
            name, who = model or registered_name_here(), by or _account()
            given = {"by": who, "run": _this_run(), "why": why or "asked for"}
            restored, replaced = promotion.roll_back(open_store(), name, **given, settings=_settings(), trust=_trust())
    except (TloraError, OSError) as error:
        return Failed(message=str(error))
    return Completed(message=f"version {restored} of {name} is champion again, version {replaced} no longer")


def _promote(store: Store, model: str, version: str, given: Answer) -> State[None]:
    settings, trust = _settings(), _trust()
    verdict = promotion.judge(store, model, settings, version, again=given.again, trust=trust)
    create_markdown_artifact(verdict.to_markdown(), key="promotion", description="Challenger against champion")
    if verdict.champion == verdict.challenger:
        return Completed(message=f"{model}: {verdict.objection}")
    if verdict.objection:
        return _refuse(store, verdict, GATE, verdict.objection)
    by, reason = given.approved_by or GATE, given.why or "passed the gate"
    if settings.approval and not given.approved_by:
        try:
            answer = _ask(verdict.to_markdown() + _pages(store, verdict), settings.approval_minutes)
        except TimeoutError:
            return _refuse(store, verdict, GATE, f"nobody approved it within {settings.approval_minutes:g} minutes")
        by, reason = answer.your_name, answer.reason or reason
        if not answer.approve:
            return _refuse(store, verdict, by, f"{by} said no" + (f": {answer.reason}" if answer.reason else ""))
        # the champion may be another one by now
        verdict = promotion.judge(store, model, settings, verdict.challenger, again=given.again, trust=trust)
        if verdict.objection:
            return _refuse(store, verdict, GATE, verdict.objection)
    promotion.promote_version(store, verdict, by=by, run=_this_run(), why=reason)
    before = f", version {verdict.champion} is previous" if verdict.champion else ""
    return Completed(message=f"version {verdict.challenger} of {model} is champion{before} (by {by}){_stands_on(store, verdict)}")


def _settings() -> PromoteSettings:
    return parse_settings(PromoteSettings, read_section(PARAMS, "promote"), f"{PARAMS}: promote")


def _trust() -> TrustSettings:
    return parse_settings(TrustSettings, read_section(PARAMS, "trust"), f"{PARAMS}: trust")


def _stands_on(store: Store, verdict: Verdict) -> str:
    """Say how a champion's settings are kept, where they are those of a run's branch alone."""
    branch = store.client.get_model_version(verdict.model, verdict.challenger).tags.get(BRANCH, "")
    return f"; its settings are those of {branch}: 'git merge {branch} && dvc checkout' keeps them" if is_unmerged(branch) else ""


def _pages(store: Store, verdict: Verdict) -> str:
    """Return where the pictures are that a person judges by, as Markdown."""
    version = store.client.get_model_version(verdict.model, verdict.challenger)
    shown = version_address(store, verdict.model, verdict.challenger)
    run = run_address(store, str(version.run_id))
    if not shown:
        return f"\nPictures: {Path('reports') / 'register' / 'champion.html'}\n"
    beside = f"[beside the champion's]({run}/artifacts/reports/register/champion.html)"
    return f"\nPictures: {beside}; [version {verdict.challenger}]({shown})\n"


def _ask(page: str, minutes: float) -> Approval:
    """Wait for a person, who sees the comparison on the run's page; the process waits, no card does.

    Raises:
        TimeoutError: If nobody comes.
    """
    seconds = max(1, round(60 * minutes))
    asked = Approval.with_initial_data(description=page)
    where = url_for("flow-run", obj_id=flow_run.id) if flow_run.id else None
    get_run_logger().info(
        "waiting for a person to say yes or no%s; at a command line: make promote APPROVED_BY=name",
        f" on {where}" if where else "",
    )

    async def ask() -> Approval:
        async with asyncio.timeout(seconds):
            return await apause_flow_run(wait_for_input=asked, timeout=seconds + LATE_SECONDS, poll_interval=min(10, seconds))

    return asyncio.run(ask())


def _refuse(store: Store, verdict: Verdict, by: str, why: str) -> State[None]:
    promotion.note_refusal(store, verdict, by=by, run=_this_run(), why=why)
    remedy = f": {verdict.remedy}" if verdict.remedy else ""
    return Failed(name="Refused", message=f"version {verdict.challenger} of {verdict.model} is not promoted: {why}{remedy}")


def _this_run() -> str:
    return f"{flow_run.name} {flow_run.id}"


def _account() -> str:
    """Return who runs this, also where no $USER is set."""
    try:
        return os.environ.get("USER") or getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in containers
        return f"user {os.getuid()}"


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.promote", description="Make the challenger champion, or roll back.")
    parser.add_argument("--rollback", action="store_true", help="make the version that was champion before champion again")
    parser.add_argument("--model", default="", help="name of the registered model, by default this tree's")
    parser.add_argument("--version", default="", help="to promote, by default the challenger")
    parser.add_argument("--approved-by", default="", help="who approves, where params.yaml asks for it")
    parser.add_argument("--again", action="store_true", help="let one be champion again that was before; needs --why")
    parser.add_argument("--by", default="", help="who rolls back, for the record; by default $USER")
    parser.add_argument("--why", default="", help="the reason, for the record")
    options = parser.parse_args()
    if options.rollback:
        return run_once("rollback", lambda: rollback(options.model, options.why, options.by or _account(), return_state=True))
    given = (options.model, options.version, options.approved_by, options.why, options.again)
    return run_once("promote", lambda: promote(*given, return_state=True))


if __name__ == "__main__":
    sys.exit(main())
