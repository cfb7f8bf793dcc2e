"""`make serve STORE=s3` with a password, through a night: a schedule of every minute, while all that keeps it going is killed.

A picture comes in, and what came of it is pushed.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from flows.check import check_answers
from flows.processes import marked
from tasks.tracking.store import open_store
from tests.clone import ROOT, Clone
from tests.flows.kiln import fill_kiln, git, make_repository, register_present, run_everything
from tests.flows.served import COMMAND, Served, serving
from tests.services.s3 import NAME, S3, SECRET

pytestmark = pytest.mark.slow
RETRAIN = "retrain/scheduled"
LOGIN = "mason:" + "mortar-" * 3
NO_PROXY_HERE = "http://127.0.0.1:9"  # whatever asks it gets no answer


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return `make serve` on a pipeline of seconds, whose present version is champion; at the end its terminal is closed."""
    folder = tmp_path_factory.mktemp("night") / "kiln"
    make_repository(folder)
    fill_kiln(folder)
    shutil.copy(ROOT / "prefect.yaml", folder)
    with contextlib.chdir(folder):
        run_everything()
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "run")
    clone = Clone(folder)
    clone.environment["PYTHONPATH"] = str(ROOT)
    clone.environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"), NO_PROXY_HERE)
    clone.environment |= {"NO_PROXY": "", "no_proxy": "kiln.example"}
    clone.environment |= {"AWS_ACCESS_KEY_ID": NAME, "AWS_SECRET_ACCESS_KEY": SECRET, "PREFECT_API_AUTH_STRING": LOGIN}
    with serving(clone, "--store", "s3", "--s3-port", "0", ending=signal.SIGHUP) as served:
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
            patch.setenv("MLFLOW_TRACKING_URI", served.mlflow)
            register_present(open_store(), "champion")
        yield served


def switch(served: Served, active: bool) -> None:
    """Resume the schedule, for every minute, or pause it."""
    found = served.read(f"/deployments/name/{RETRAIN}")
    (schedule,) = found["schedules"]
    every_minute = {"cron": "* * * * *", "timezone": "UTC"}
    served.patch(f"/deployments/{found['id']}/schedules/{schedule['id']}", schedule=every_minute, active=active)


def next_run(served: Served) -> dict[str, Any]:
    """Wait until the schedule starts a run by itself, let it start no other, and wait until that one is over."""
    asked, deadline = datetime.now(UTC), time.monotonic() + 200
    started = {"expected_start_time": {"after_": asked.isoformat()}, "state": {"type": {"not_any_": ["SCHEDULED"]}}}
    theirs = {"deployments": {"id": {"any_": [served.read(f"/deployments/name/{RETRAIN}")["id"]]}}}
    while not (runs := served.ask("/flow_runs/filter", sort="EXPECTED_START_TIME_ASC", flow_runs=started, **theirs)):
        assert time.monotonic() < deadline, f"nothing came by itself\n{served.out()}"
        time.sleep(0.5)
    switch(served, active=False)
    return served.wait(runs[0]["id"], seconds=300)


def kill_all(served: Served, signum: signal.Signals) -> dict[str, psutil.Process]:
    """Send a signal to both servers and both workers at once, and wait until each of them was named and has a successor."""
    members = served.members()
    for member in members.values():
        member.send_signal(signum)
    for name, member in members.items():
        served.wait_for_line(f"serve: {name} (process {member.pid}) has ended")
    return members


def test_what_is_up_is_said_in_a_table(night: Served) -> None:
    table = [
        line.split()[:3] for line in night.out().splitlines() if line.split()[1:2] == ["ok"] or " ok " in line or " off " in line
    ]
    said = {line[0]: line for line in table}
    assert {"S3", "Prefect", "worker", "scheduler", "retrain/on-data-change", "notification", "MLflow", "DVC"} <= said.keys(), (
        night.out()
    )
    assert "FAILS" not in night.out()


def test_a_resumed_schedule_starts_retraining_by_itself_whoever_was_killed(night: Served) -> None:
    switch(night, active=True)
    killed = kill_all(night, signal.SIGKILL)
    run = next_run(night)
    assert (run["state_name"], run["state"]["message"]) == (
        "Skipped",
        "nothing new: data, base and settings are those of the champion, version 1",
    ), night.out()
    assert all(now.pid != killed[name].pid for name, now in night.members().items())


def test_a_picture_put_in_between_is_trained_on_and_handed_to_promote(night: Served) -> None:
    (night.clone.folder / "data" / "stone.txt").write_text("stone\n")
    switch(night, active=True)
    kill_all(night, signal.SIGTERM)
    run = next_run(night)
    assert "pictures have changed since data.dvc was written: ran train, register; promotion is run" in run["state"]["message"]
    asked = night.ask("/flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [run["id"]]}}, sort="START_TIME_ASC")
    pipeline, promotion = (night.wait(each["id"]) for each in asked)
    assert (pipeline["work_pool_name"], promotion["work_pool_name"]) == ("gpu", "cpu")
    assert promotion["state"]["message"].startswith("version 2 of tlora-kiln-brick is champion, version 1 is previous")
    assert night.artifacts(run["id"])["plan"].startswith("# Training again")


def test_the_bucket_keeps_what_is_pushed_and_what_mlflow_is_given_and_the_keys_are_nowhere(night: Served) -> None:
    announced = [line.strip() for line in night.out().splitlines() if line.startswith(("  export", "  dvc remote"))]
    night.clone.run("bash", "-euc", "\n".join([*announced, "dvc push", "dvc config --local --unset core.remote"]))
    (endpoint,) = [line.partition("=")[2].split()[0] for line in announced if line.startswith("export AWS_ENDPOINT_URL")]
    bucket = S3(None, {"AWS_ENDPOINT_URL": endpoint})
    assert bucket.objects("dvc/files/md5/")
    client = MlflowClient(night.mlflow)
    run = client.get_model_version_by_alias("tlora-kiln-brick", "champion").run_id
    client.log_text(str(run), "brick", "brick.txt")
    assert [size for key, size in bucket.objects("mlflow/").items() if key.endswith("/brick.txt")] == [5]
    files = [path for path in night.clone.folder.rglob("*") if path.is_file()]
    assert {"s3.log", "mlflow.log", "prefect.db"} <= {path.name for path in files}
    for secret in (SECRET, LOGIN.partition(":")[2]):
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_killed_itself_and_started_again_it_ends_what_was_left_and_the_next_run_comes(night: Served) -> None:
    mark = str(night.clone.folder.resolve())
    left = {process.pid for process in marked(mark)} - {night.process.pid}
    switch(night, active=True)
    night.process.kill()
    assert len(left) >= 4
    night.start_again()
    assert "serve: an earlier one was killed and has left " in night.out()
    assert not left & {process.pid for process in marked(mark)}
    assert [" ".join(each.cmdline()).count("prefect server start") for each in marked(mark)].count(1) == 1
    command = [sys.executable, "-m", "flows.check"]
    checked = subprocess.run(command, cwd=night.clone.folder, env=night.environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "retrain/scheduled       ok     next at " in checked.stdout
    prefect = night.url.removesuffix("/api")
    assert answers(night) == (0, [f"Prefect  ok     {prefect} answers", f"MLflow   ok     {night.mlflow} answers"])
    assert next_run(night)["state_type"] == "COMPLETED"


def answers(served: Served) -> tuple[int, list[str]]:
    """What the health check of a container says: its exit status and lines."""
    command = [sys.executable, "-m", "flows.check", "--answers"]
    asked = subprocess.run(command, cwd=served.clone.folder, env=served.environment, capture_output=True, text=True, check=False)
    return asked.returncode, asked.stdout.splitlines()


def test_a_container_in_which_nothing_answers_is_not_healthy(brickyard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (brickyard / ".state/serve").mkdir(parents=True)
    (brickyard / ".state/serve/addresses").write_text("http://127.0.0.1:9 http://127.0.0.1:9\n")
    said = list(check_answers())
    assert [(check.what, check.state) for check in said] == [("Prefect", "FAILS"), ("MLflow", "FAILS")]
    assert said[0].words == "http://127.0.0.1:9 does not answer"


def test_the_unit_for_systemd_starts_what_is_tested_here() -> None:
    lines = (ROOT / "configs/flux-tlora.service").read_text().splitlines()
    unit = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert unit["ExecStart"].split() == ["%h/flux-tlora/.venv/bin/python", *COMMAND[1:3]]
    assert (unit["Restart"], unit["KillMode"]) == ("on-failure", "process")
