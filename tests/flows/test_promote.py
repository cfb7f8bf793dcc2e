"""Promotion and rollback on real servers: an approval given on the run's page, one that never comes, and what is told of them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.registry.versions import aliases_of
from tasks.tracking.store import Store, open_store
from tests.flows.served import Served
from tests.tasks.filled_registry import NAME, add_version
from tlora.trust.keys import make_keys

pytestmark = pytest.mark.slow


@pytest.fixture
def store(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Return the served MLflow, with a champion and a challenger that passes; nothing is left of them afterwards."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.mlflow)
    monkeypatch.chdir(served.clone.folder)
    store = open_store()
    add_version(store, "champion")
    add_version(store, "challenger")
    yield store
    store.client.delete_registered_model(NAME)
    served.clone.run("git", "checkout", "--quiet", "params.yaml")


def by_hand(served: Served, *arguments: str) -> tuple[int, str]:
    """Run the command in the clone; return its code and its last line."""
    command = [sys.executable, "-m", "flows.promote", "--model", NAME, *arguments]
    answer = subprocess.run(command, cwd=served.clone.folder, env=served.environment, capture_output=True, text=True, check=False)
    return answer.returncode, (answer.stdout if answer.returncode == 0 else answer.stderr).splitlines()[-1]


def test_a_person_approves_on_the_runs_page_and_can_roll_back_once(served: Served, store: Store):
    served.clone.change_params("params.yaml", {"promote.approval": True, "promote.approval_minutes": 30})
    run = served.request("promote/on-demand", model=NAME)
    waiting = served.wait(run, {"PAUSED"})
    served.wait_for_note(f"promote {waiting['name']}: Paused")
    assert "| similarity_held_out | 0.500 | 0.500 | at least 0.480 | passed |" in served.artifacts(run)["promotion"]
    assert aliases_of(store, NAME)["champion"] == "1"
    served.ask(f"/flow_runs/{run}/resume", run_input={"approve": True, "your_name": "ann", "reason": "better mortar"})
    done = served.wait(run)
    assert done["state"]["message"] == f"version 2 of {NAME} is champion, version 1 is previous (by ann)", served.logs(run)
    assert aliases_of(store, NAME) == {"champion": "2", "previous": "1", "challenger": "2"}
    tags = store.client.get_model_version(NAME, "2").tags
    assert (tags["promotion.by"], tags["promotion.why"]) == ("ann", "better mortar")
    assert tags["promotion.run"] == f"{done['name']} {run}"

    back = served.run("rollback/on-demand", model=NAME, why="grey bricks", by="bob")
    assert back["state"]["message"] == f"version 1 of {NAME} is champion again, version 2 no longer", served.logs(back["id"])
    assert aliases_of(store, NAME)["champion"] == "1"
    code, line = by_hand(served, "--rollback")
    assert (code, line) == (1, f"rollback: error: {NAME}: no version is called previous: there is nothing to roll back to")


def test_an_approval_that_never_comes_and_one_that_is_denied_are_refusals(served: Served, store: Store):
    served.clone.change_params("params.yaml", {"promote.approval": True, "promote.approval_minutes": 0.05})
    code, line = by_hand(served)
    assert (code, line) == (
        1,
        f"promote: error: version 2 of {NAME} is not promoted: nobody approved it within 0.05 minutes",
    )
    served.wait_for_note("Refused version 2 of")
    assert aliases_of(store, NAME) == {"champion": "1", "challenger": "2"}
    assert store.client.get_model_version(NAME, "2").tags["promotion.event"] == "refused"
    code, line = by_hand(served, "--approved-by", "ann")
    assert (code, line) == (0, f"promote: version 2 of {NAME} is champion, version 1 is previous (by ann)")


def test_an_unsigned_version_is_promoted_and_rolled_back_to_by_nobody_where_a_key_is_asked_for(
    served: Served, store: Store, tmp_path: Path
):
    _, public = make_keys(tmp_path)
    store.client.set_registered_model_alias(NAME, "previous", "1")
    served.clone.change_params("params.yaml", {"trust.public_key": str(public)})
    for arguments in ([], ["--rollback"]):
        code, line = by_hand(served, *arguments)
        assert (code, line[:8]) == (1, "promote:" if not arguments else "rollback")
        assert re.search(r"version [12]: (is not signed|its files are not at )", line), line
    assert aliases_of(store, NAME) == {"champion": "1", "challenger": "2", "previous": "1"}


def test_a_worse_challenger_is_refused_with_its_table(served: Served, store: Store):
    add_version(store, "challenger", {"similarity_held_out": 0.3})
    run = served.run("promote/on-demand", model=NAME)
    assert run["state_name"] == "Refused"
    reason = "similarity_held_out is 0.300, at least 0.480 needed"
    assert run["state"]["message"] == f"version 3 of {NAME} is not promoted: {reason}"
    page = served.artifacts(run["id"])["promotion"]
    assert f"**Refused: {reason}.**" in page
    assert "| similarity_held_out | 0.300 | 0.500 | at least 0.480 | **failed** |" in page


def test_ending_the_wait_is_one_line_and_decides_nothing(served: Served, store: Store):
    served.clone.change_params("params.yaml", {"promote.approval": True, "promote.approval_minutes": 30})
    command = [sys.executable, "-m", "flows.promote", "--model", NAME]
    place = {"cwd": served.clone.folder, "env": served.environment}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **place) as waiting:
        said = ""
        while "waiting for a person" not in said:
            assert waiting.stderr
            said += waiting.stderr.readline()
        time.sleep(3)
        os.killpg(waiting.pid, signal.SIGINT)
        _, rest = waiting.communicate(timeout=60)
    print(rest)
    assert (waiting.returncode, "Traceback" in rest, rest.splitlines()[-1]) == (130, False, "promote: stopped")
    assert aliases_of(store, NAME) == {"champion": "1", "challenger": "2"}
