"""The thin adapter to DVC: ask for the order of its stages, run one as a child process that is ours.

Only the command line is used. DVC never forwards a signal to the stage that it runs, so dvc and stage get a process group
of their own, and whoever stops waiting for the group stops the group: this process, or, if it was killed with -9, the supervisor.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal

from flows import supervisor
from flows.secrets import strike_out
from tasks.dvc_command import dvc_command, last_error, run_dvc
from tasks.running.state_folder import exit_file
from tlora.runtime.preemption import PREEMPTED

Outcome = Literal["Completed", "Skipped", "Restored", "Preempted", "Failed"]

_NO_SECRETS: Mapping[str, str] = {}
GRACE_SECONDS = 25.0  # for a stage to save what it needs; Prefect kills a cancelled flow after 30

_NODE = re.compile(r'^"(?P<node>[^"]+)";$', re.MULTILINE)
_EDGE = re.compile(r'^"(?P<first>[^"]+)" -> "(?P<then>[^"]+)";$', re.MULTILINE)


@dataclass(frozen=True)
class StageRun:
    """What became of a stage.

    Args:
        stage: A stage of dvc.yaml, or a `.dvc` file.
        outcome: `Skipped` where nothing had changed, `Restored` where DVC had kept the outputs of an equal run, `Preempted`
            where the stage stopped in good order and goes on when it is run again.
        reason: Why it did not complete, in a line; empty if it did.
        seconds: Wall time.
    """

    stage: str
    outcome: Outcome
    reason: str
    seconds: float


def stage_order() -> list[str]:
    """Return every node of DVC's graph, each after those that it depends on, the `.dvc` files first.

    `.dvc` files only re-hash what they track, but a stage that is run by itself never looks at them.

    Raises:
        SettingsError: If DVC cannot read its files; in DVC's words.
    """
    return order_graph(run_dvc("dag", "--dot"))


def order_graph(dot: str) -> list[str]:
    """Return the nodes of a graph in Graphviz's language in the order in which they can run."""
    order = TopologicalSorter(read_graph(dot)).static_order()
    return sorted(order, key=lambda node: not node.endswith(".dvc"))  # stable: the order among the others is kept


def read_graph(dot: str) -> dict[str, set[str]]:
    """Return the nodes of a graph in Graphviz's language, and for each those that it depends on directly."""
    before: dict[str, set[str]] = {node: set() for node in sorted(_NODE.findall(dot))}
    for first, then in _EDGE.findall(dot):
        before.setdefault(first, set())
        before.setdefault(then, set()).add(first)
    return before


def run_stage(
    stage: str,
    log: Callable[[str], None],
    *,
    allow_missing: bool = False,
    secrets: Mapping[str, str] = _NO_SECRETS,
    grace_seconds: float = GRACE_SECONDS,
) -> StageRun:
    """Let DVC bring one stage up to date, and say what became of it.

    Whatever interrupts this call (a cancelled flow, a timeout, the keyboard) or ends this process (kill -9) stops the stage
    too: TERM, wait, KILL.

    Args:
        stage: A node of `stage_order`.
        log: Called with each line that DVC and the stage print, secrets struck out.
        allow_missing: Whether a stage that lacks its outputs, and is unchanged otherwise, is skipped.
        secrets: What is added to the stage's environment.
        grace_seconds: How long a stage that was asked to stop may take to save its work.
    """
    started = time.time()
    options = ["--allow-missing"] if allow_missing else []
    process = subprocess.Popen(
        [*_supervisor(grace_seconds), *dvc_command("--wait-for-lock", "repro", "--single-item", *options, stage)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**_environment(), **secrets},
        start_new_session=True,
    )
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(strike_out(line, secrets))
        with suppress(SystemExit):  # rich raises it, once, where nobody reads the log any more: the worker has gone
            log(lines[-1])

    finished = False
    with process:  # closes the pipes and reaps the supervisor
        try:
            _follow(process, hear)
            finished = True
        finally:
            if not finished:
                _stop(process, hear, grace_seconds)
    outcome, reason = _judge(stage, process.returncode, lines, started)
    return StageRun(stage, outcome, strike_out(reason, secrets), time.time() - started)


def _follow(process: "subprocess.Popen[str]", hear: Callable[[str], None]) -> None:
    assert process.stdout is not None  # it is a pipe
    for line in process.stdout:
        if text := line.rstrip():
            hear(text)


def _stop(process: "subprocess.Popen[str]", hear: Callable[[str], None], grace_seconds: float) -> None:
    """Ask the group to stop, pass on its last words, and kill what is left of it."""
    with _deaf():
        os.killpg(process.pid, signal.SIGTERM)
        killer = threading.Timer(grace_seconds, os.killpg, (process.pid, signal.SIGKILL))
        killer.start()
        try:
            _follow(process, hear)  # until the last of the group has closed its output
        finally:
            killer.cancel()
            os.killpg(process.pid, signal.SIGKILL)  # cannot meet a stranger: the leader is not reaped yet


@contextmanager
def _deaf() -> Iterator[None]:
    """Hear no second request to stop: it would cut short what the first one lets a stage save."""
    if threading.current_thread() is not threading.main_thread():
        yield  # nor does it hear the first
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _judge(stage: str, code: int, lines: list[str], started: float) -> tuple[Outcome, str]:
    if code == 0 and not {f"Stage '{stage}' didn't change, skipping", f"'{stage}' didn't change, skipping"}.isdisjoint(lines):
        return "Skipped", ""
    if code == 0:
        restored = f"Stage '{stage}' is cached - skipping run, checking out outputs" in lines
        return ("Restored" if restored else "Completed"), ""
    left = _last_exit(stage, started)
    reason = left.get("reason") or _own_words(stage, lines) or last_error("\n".join(lines)) or f"dvc ended with exit code {code}"
    return ("Preempted" if left.get("code") == PREEMPTED else "Failed"), str(reason)


def _last_exit(stage: str, started: float) -> dict[str, object]:
    """Return what the stage left behind when it failed; DVC's own exit code is 255 for every reason."""
    path = exit_file()
    if not path.exists() or path.stat().st_mtime < started:
        return {}
    left: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return left if left.get("stage") == stage and left.get("code") else {}


def _own_words(stage: str, lines: list[str]) -> str:
    """Return what the stage printed of its failure, for one that could leave no word: its disk may be full."""
    prefix = f"{stage}: error: "
    return next((line.removeprefix(prefix) for line in reversed(lines) if line.startswith(prefix)), "")


def _supervisor(grace_seconds: float) -> list[str]:
    return [sys.executable, "-I", supervisor.__file__, str(grace_seconds)]


def _environment() -> dict[str, str]:
    """Let the `python` in a stage's command be this one, and let its lines come when they are printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"}
