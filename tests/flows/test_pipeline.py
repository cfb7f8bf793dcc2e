"""The flow against a real Prefect server, once, with a pipeline of three shell stages."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flows.brickyard import FAIL, PREEMPTED_ONCE, SLOW
from tests.flows.served import Served


def start(served: Served, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "flows.pipeline"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=served.environment, text=True, **pipes)


def run(served: Served, folder: Path) -> "subprocess.CompletedProcess[str]":
    with start(served, folder) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def last_run(served: Served) -> dict[str, Any]:
    return served.ask("/flow_runs/filter", sort="START_TIME_DESC", limit=1)[0]


def last_tasks(served: Served) -> list[tuple[str, str]]:
    return served.tasks(last_run(served)["id"])


@pytest.mark.slow
def test_stages_run_in_dvcs_order_then_are_shown_as_skipped_and_leave_a_report(served: Served, brickyard: Path):
    first = run(served, brickyard)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "pipeline: ran weigh, double, announce"
    assert "announcing the bricks" in first.stdout + first.stderr
    assert last_tasks(served) == [
        ("data.dvc", "Skipped"),
        ("weigh", "Completed"),
        ("double", "Completed"),
        ("announce", "Completed"),
    ]
    assert (brickyard / "announcement.txt").read_text() == "6\n6\n"

    second = run(served, brickyard)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[-1] == "pipeline: everything was up to date"
    assert {state for _, state in last_tasks(served)} == {"Skipped"}
    report = served.ask("/artifacts/filter", sort="CREATED_DESC", limit=1)[0]
    assert report["key"] == "pipeline"
    assert "| double | Skipped |" in report["data"]


@pytest.mark.slow
def test_a_failed_stage_fails_the_flow_with_its_reason_in_one_line(served: Served, brickyard: Path):
    (brickyard / "announce.sh").write_text(FAIL)
    result = run(served, brickyard)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "pipeline: error: announce: no bricks to announce"
    assert "Traceback" not in result.stderr
    assert last_tasks(served)[-1] == ("announce", "Failed")
    assert last_run(served)["state"]["message"] == "announce: no bricks to announce"


@pytest.mark.slow
def test_a_preempted_stage_is_run_again(served: Served, brickyard: Path):
    (brickyard / "announce.sh").write_text(PREEMPTED_ONCE)
    result = run(served, brickyard)
    assert result.returncode == 0, result.stderr
    assert last_tasks(served)[-1] == ("announce", "Completed")


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_stopped_flow_lets_its_stage_save(served: Served, brickyard: Path, stop: signal.Signals, code: int):
    (brickyard / "announce.sh").write_text(SLOW)
    with start(served, brickyard) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith("started\n"):
                break
        process.send_signal(stop)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert (brickyard / "saved").exists()
    assert "saving" in err
    assert last_run(served)["state_type"] == "CRASHED"
