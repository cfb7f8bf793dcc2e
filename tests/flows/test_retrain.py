"""Retraining against real servers, on a pipeline of seconds; and the schedule, as it is deployed."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from tasks.registry.versions import aliases_of
from tasks.tracking.store import open_store
from tests.flows.kiln import dvc, fill_kiln, git, make_repository, register_present, run_everything
from tests.flows.served import Served
from tests.tasks.filled_registry import NAME

pytestmark = pytest.mark.slow


def retrain(served: Served, folder: Path) -> tuple[int, str]:
    """Run the flow by hand; return its code and its last line."""
    command = [sys.executable, "-m", "flows.retrain"]
    answer = subprocess.run(command, cwd=folder, env=served.environment, capture_output=True, text=True, check=False)
    return answer.returncode, (answer.stdout if answer.returncode == 0 else answer.stderr).splitlines()[-1]


@pytest.fixture
def kiln(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a tree in which everything has run, set to share what it makes by a bare upstream and a DVC remote; work there."""
    folder = tmp_path / "kiln"
    make_repository(folder)
    fill_kiln(folder)
    monkeypatch.chdir(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["retrain"] |= {"git_remote": "origin", "commit": True, "push": True}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    dvc(folder, "remote", "add", "--default", "team", str(tmp_path / "team"))
    run_everything()
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "run")
    git(tmp_path, "clone", "--quiet", "--bare", str(folder), "upstream.git")
    git(folder, "remote", "add", "origin", str(tmp_path / "upstream.git"))
    return folder


def test_nothing_new_ends_at_once_and_new_pictures_end_in_a_new_champion_that_others_can_pull(
    served: Served, kiln: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.mlflow)
    store = open_store()
    register_present(store, "champion")
    try:
        code, line = retrain(served, kiln)
        assert (code, line) == (0, "retrain: nothing new: data, base and settings are those of the champion, version 1")

        (kiln / "data" / "stone.txt").write_text("stone\n")
        code, line = retrain(served, kiln)
        assert code == 0, line
        assert line.startswith("retrain: the pictures have changed since data.dvc was written")
        assert "ran train, register; version 2 of tlora-kiln-brick is champion, version 1 is previous (by the gate)" in line
        assert line.endswith("; pushed; committed")
        assert aliases_of(store, NAME)["champion"] == "2"
        (run,) = [
            found
            for found in served.ask("/flow_runs/filter", sort="START_TIME_DESC", limit=5)
            if found["state"]["message"] and "pictures have changed" in found["state"]["message"]
        ]
        plan = served.artifacts(run["id"])["plan"]
        assert "- the pictures have changed since data.dvc was written" in plan
        assert "| train | runs | data modified | not timed yet |" in plan
        assert "| register | runs | adapter.txt modified, always runs | not timed yet |" in plan
    finally:
        store.client.delete_registered_model(NAME)

    git(tmp_path, "clone", "--quiet", "upstream.git", "colleague")
    assert git(tmp_path / "colleague", "log", "-1", "--format=%s") == "Train again"
    dvc(tmp_path / "colleague", "pull", "--quiet")
    for file in ("adapter.txt", "data/stone.txt"):
        assert (tmp_path / "colleague" / file).read_text() == (kiln / file).read_text()


def test_the_schedule_waits_to_be_switched_on_and_of_missed_times_one_is_made_up_for(served: Served):
    found = served.read("/deployments/name/retrain/scheduled")
    assert [(schedule["schedule"]["cron"], schedule["active"]) for schedule in found["schedules"]] == [("0 3 * * *", False)]
    # without a version there is something new: a wrong section makes either run end early, in one line
    served.clone.change_params("params.yaml", {"retrain.git_branch": 7})
    try:
        runs = []
        for hours in (2, 1):
            due = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
            state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}
            created = served.ask(f"/deployments/{found['id']}/create_flow_run", parameters={}, state=state)
            runs.append(created["id"])
        ended = [served.wait(run)["state"] for run in runs]
        messages = [state["message"].split(",")[0] for state in ended]
        assert messages == ["missed its time", "params.yaml: retrain.git_branch: must be text"], ended
    finally:
        served.clone.run("git", "checkout", "--quiet", "params.yaml")


def test_an_event_that_says_the_data_has_changed_starts_a_run(served: Served):
    served.clone.change_params("params.yaml", {"retrain.git_branch": 7})
    try:
        found = served.read("/deployments/name/retrain/on-data-change")
        command = ["event", "emit", "tlora.data.changed", "--resource-id", "tlora.data.brick"]
        subprocess.run([sys.executable, "-m", "prefect", *command], env=served.environment, check=True, capture_output=True)
        criteria = {"deployments": {"id": {"any_": [found["id"]]}}}
        for _ in range(120):
            if runs := served.ask("/flow_runs/filter", **criteria):
                break
            subprocess.run(["sleep", "0.5"], check=True)
        ended = served.wait(runs[0]["id"])
        assert ended["state"]["message"].startswith("params.yaml: retrain.git_branch: must be text")
    finally:
        served.clone.run("git", "checkout", "--quiet", "params.yaml")
