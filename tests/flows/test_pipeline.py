"""The flow against a real Prefect server, once, with a pipeline of three shell stages."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flows.brickyard import FAIL, PREEMPTED_ONCE, SLOW

ROOT = Path(__file__).parents[2]
STARTUP_SECONDS = 180


@dataclass(frozen=True)
class Server:
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return self.environment["PREFECT_API_URL"]

    def ask(self, path: str, **criteria: Any) -> list[dict[str, Any]]:
        request = urllib.request.Request(self.url + path, json.dumps(criteria).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def start(self, folder: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "flows.pipeline"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=folder, env=self.environment, text=True, **pipes)

    def run(self, folder: Path) -> "subprocess.CompletedProcess[str]":
        with self.start(folder) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def last_run(self) -> dict[str, Any]:
        return self.ask("/flow_runs/filter", sort="START_TIME_DESC", limit=1)[0]

    def task_states(self) -> list[tuple[str, str]]:
        run = self.last_run()["id"]
        tasks = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return [(task["name"], task["state_name"]) for task in sorted(tasks, key=lambda task: task["start_time"])]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_healthy(environment["PREFECT_API_URL"], process, home / "server.log")
        yield Server(environment)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.slow
def test_stages_run_in_dvcs_order_then_are_shown_as_skipped_and_leave_a_report(server: Server, brickyard: Path):
    first = server.run(brickyard)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "pipeline: ran weigh, double, announce"
    assert "announcing the bricks" in first.stdout + first.stderr
    assert server.task_states() == [
        ("data.dvc", "Skipped"),
        ("weigh", "Completed"),
        ("double", "Completed"),
        ("announce", "Completed"),
    ]
    assert (brickyard / "announcement.txt").read_text() == "6\n6\n"

    second = server.run(brickyard)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[-1] == "pipeline: everything was up to date"
    assert {state for _, state in server.task_states()} == {"Skipped"}
    report = server.ask("/artifacts/filter", sort="CREATED_DESC", limit=1)[0]
    assert report["key"] == "pipeline"
    assert "| double | Skipped |" in report["data"]


@pytest.mark.slow
def test_a_failed_stage_fails_the_flow_with_its_reason_in_one_line(server: Server, brickyard: Path):
    (brickyard / "announce.sh").write_text(FAIL)
    run = server.run(brickyard)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "pipeline: error: announce: no bricks to announce"
    assert "Traceback" not in run.stderr
    assert server.task_states()[-1] == ("announce", "Failed")
    assert server.last_run()["state"]["message"] == "announce: no bricks to announce"


@pytest.mark.slow
def test_a_preempted_stage_is_run_again(server: Server, brickyard: Path):
    (brickyard / "announce.sh").write_text(PREEMPTED_ONCE)
    run = server.run(brickyard)
    assert run.returncode == 0, run.stderr
    assert server.task_states()[-1] == ("announce", "Completed")


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_stopped_flow_lets_its_stage_save(server: Server, brickyard: Path, stop: signal.Signals, code: int):
    (brickyard / "announce.sh").write_text(SLOW)
    with server.start(brickyard) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith("started\n"):
                break
        process.send_signal(stop)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert (brickyard / "saved").exists()
    assert "saving" in err
    assert server.last_run()["state_type"] == "CRASHED"


def _wait_until_healthy(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    pytest.fail(f"the Prefect server did not start:\n{log.read_text()}")
