"""What happens to runs when people, servers and machines do what they do: several at once, a cancel, kills, a restart.

A real server and a real worker; the pipeline is one stage, which trains a tiny FLUX, so that states and locks are real too.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from tests.flows.site import ROOT, Site, deploy, wait_until, worker
from tests.services.orchestrator import Orchestrator, open_orchestrator
from tests.tasks.trainable import make_trainable

pytestmark = pytest.mark.slow

SECONDS_TO_STOP = 30


@pytest.fixture(scope="module")
def orchestrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestrator]:
    with open_orchestrator(tmp_path_factory.mktemp("prefect")) as opened:
        yield opened


@pytest.fixture(scope="module")
def site(orchestrator: Orchestrator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = make_trainable(tmp_path_factory.mktemp("site") / "tree")
    graph = yaml.safe_load((folder / "dvc.yaml").read_text())
    graph["stages"]["train"]["always_changed"] = True
    (folder / "dvc.yaml").write_text(yaml.safe_dump(graph))
    made = Site(folder, orchestrator)
    made.worker.start()
    try:
        yield made
    finally:
        made.worker.stop()


def test_runs_asked_for_at_once_are_worked_off_one_after_another(site: Site) -> None:
    """None lost, none twice. TLORA_RUNS=10 asks for ten."""
    site.train_for(5)
    asked = [site.ask_for_run() for _ in range(int(os.environ.get("TLORA_RUNS", "3")))]
    over = [site.wait_for(run, seconds=300 * len(asked)) for run in asked]
    assert [(run["state_name"], run["run_count"]) for run in over] == [("Completed", 1)] * len(asked), site.logs(asked[0])
    spans = sorted((when(run["start_time"]), when(run["end_time"])) for run in over)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans)), spans
    tasks = site.orchestrator.ask("/task_runs/filter", flow_runs={"id": {"any_": asked}})
    assert sorted(task["flow_run_id"] for task in tasks if task["name"] == "train") == sorted(asked)
    print("\n".join(f"{start:%H:%M:%S} to {end:%H:%M:%S}" for start, end in spans))


def test_a_cancelled_run_has_saved_its_state_and_is_gone_within_half_a_minute(site: Site) -> None:
    site.train_for(100_000)
    run = site.ask_for_run()
    wait_until(lambda: site.step() > 5, "training", 300)
    step, asked = site.step(), time.monotonic()
    site.orchestrator.ask(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"})
    wait_until(lambda: not site.processes(), f"gone: {site.processes()}", 60)
    assert time.monotonic() - asked < SECONDS_TO_STOP
    assert site.wait_for(run, seconds=60)["state_type"] == "CANCELLED"
    assert site.step() >= step


def test_a_worker_killed_outright_leaves_nothing_that_blocks_the_next_run(site: Site) -> None:
    site.train_for(100_000)
    run, step = site.ask_for_run(), site.step()
    wait_until(lambda: site.step() > step, "training", 300)
    site.worker.kill_alone()
    wait_until(lambda: not site.processes(), f"gone: {site.processes()}", 60)
    assert site.wait_for(run, seconds=60)["state_type"] == "CRASHED"
    step = site.step()
    site.worker.start()
    again = site.ask_for_run()
    wait_until(lambda: site.step() > step, "training again", 300)
    wait_until(lambda: "going on from step" in site.logs(again), "the log to say so", 30)
    site.orchestrator.ask(f"/flow_runs/{again}/set_state", state={"type": "CANCELLING"})
    site.wait_for(again)


def test_a_run_outlives_its_server(site: Site) -> None:
    site.train_for(400)
    run = site.ask_for_run()
    wait_until(lambda: list(site.folder.glob("adapters/checkpoint-000005")) != [], "training", 300)
    site.orchestrator.server.stop(signal.SIGKILL)
    site.orchestrator.server.start()
    assert site.wait_for(run)["state_type"] == "COMPLETED", site.logs(run)
    assert (site.folder / "adapters/final").exists()


def test_two_machines_with_one_remote_share_the_runs_and_compute_nothing_twice(
    orchestrator: Orchestrator, brickyard: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two workers of one pool, each with a clone, a DVC cache and a temporary folder of its own."""
    shared = tmp_path_factory.mktemp("shared")
    dvc("remote", "add", "--default", "team", str(shared), folder=brickyard)
    dvc("push", folder=brickyard)
    commit("start", folder=brickyard)
    first, second = (tmp_path_factory.mktemp(name) / "tree" for name in ("first", "second"))
    for folder in (first, second):
        git("clone", "--quiet", str(brickyard), str(folder), folder=brickyard)
        dvc("pull", "data.dvc", folder=folder)
    deployment = deploy(orchestrator, "cards", 2)
    workers = [worker(orchestrator, "cards", folder) for folder in (first, second)]
    try:
        workers[0].start()
        (alone,) = run_at_once(orchestrator, deployment, 1)
        assert alone == ["Skipped", "Completed", "Completed", "Completed"]
        dvc("push", folder=first)
        commit("run", folder=first)
        git("push", "--quiet", "origin", "HEAD:shared", folder=first)
        git("pull", "--quiet", "origin", "shared", folder=second)
        dvc("pull", folder=second)
        workers[1].start()
        assert run_at_once(orchestrator, deployment, 2) == [["Skipped"] * 4] * 2
        assert (second.parent / "worker.log").read_text().count("Beginning flow run") == 1
    finally:
        for each in workers:
            each.stop()
    assert (first / "announcement.txt").read_text() == (second / "announcement.txt").read_text() == "6\n6\n"
    assert (first / "dvc.lock").read_text() == (second / "dvc.lock").read_text()


def test_a_machine_that_lost_its_power_does_not_keep_the_card_for_ever(site: Site, tmp_path: Path) -> None:
    """With the automation of flows/lost_runs.yaml, which waits minutes; here seconds."""
    rule = yaml.safe_load((ROOT / "flows/lost_runs.yaml").read_text())
    rule["trigger"]["within"] = 45
    (tmp_path / "rule.yaml").write_text(yaml.safe_dump(rule))
    command = [sys.executable, "-m", "prefect", "automation", "create", "--from-file", str(tmp_path / "rule.yaml")]
    subprocess.run(command, env=os.environ | site.orchestrator.environment, capture_output=True, check=True)
    site.train_for(100_000)
    lost = site.ask_for_run()
    site.wait_for(lost, {"RUNNING"})
    site.lose_power()
    wait_until(lambda: not site.processes(), f"gone: {site.processes()}", 30)
    assert site.run(lost)["state_type"] == "RUNNING"
    site.worker.start()
    again = site.ask_for_run()
    assert site.wait_for(lost)["state"]["message"] == rule["actions"][0]["message"]
    site.wait_for(again, {"RUNNING"})
    site.lose_power()


def test_what_was_cut_off_goes_on_when_it_is_served_again_but_not_for_ever(orchestrator: Orchestrator) -> None:
    """`make serve` sees to it before it starts a worker: nobody can be working on these any more."""
    path = f"/deployments/{deploy(orchestrator, 'served', 1)}/create_flow_run"
    names = ("begun", "claimed", "cancelled", "waiting", "said that it crashed", "hopeless")
    runs = {name: orchestrator.ask(path, state={"type": "SCHEDULED"})["id"] for name in names}

    def put(name: str, state: str) -> None:
        orchestrator.ask(f"/flow_runs/{runs[name]}/set_state", state={"type": state}, force=True)

    for name in ("begun", "cancelled", "waiting", "said that it crashed", *["hopeless"] * 6):
        put(name, "RUNNING")
    for name, state in {
        "claimed": "PENDING",
        "cancelled": "CANCELLING",
        "waiting": "PAUSED",
        "said that it crashed": "CRASHED",
    }.items():
        put(name, state)
    code = f"from flows.server_setup import prepare; prepare({{'served': 1}}, '', ['{runs['said that it crashed']}'])"
    environment = os.environ | orchestrator.environment | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    found = {run["id"]: run for run in orchestrator.ask("/flow_runs/filter", flow_runs={"id": {"any_": list(runs.values())}})}
    again = "its worker was ended: it goes on with the next"
    assert {name: (found[run]["state_type"], found[run]["state"]["message"]) for name, run in runs.items()} == {
        "begun": ("SCHEDULED", again),
        "claimed": ("SCHEDULED", None),
        "cancelled": ("CANCELLED", "its worker was ended while it was being cancelled"),
        "waiting": ("CRASHED", "its worker was ended while it waited: ask for it again"),
        "said that it crashed": ("SCHEDULED", again),
        "hopeless": ("CRASHED", "its worker was ended while it ran, 6 times: nothing tries again by itself"),
    }


def run_at_once(orchestrator: Orchestrator, deployment: str, count: int) -> list[list[str]]:
    """Ask for runs, wait for all of them, and return the names of their tasks' states."""
    path = f"/deployments/{deployment}/create_flow_run"
    asked = [orchestrator.ask(path, state={"type": "SCHEDULED"})["id"] for _ in range(count)]
    found = {"flow_runs": {"id": {"any_": asked}}}

    def over() -> bool:
        return all(run["state_type"] == "COMPLETED" for run in orchestrator.ask("/flow_runs/filter", **found))

    wait_until(over, "runs completed", 400)
    tasks = sorted(orchestrator.ask("/task_runs/filter", **found), key=lambda task: task["start_time"])
    return [[task["state_name"] for task in tasks if task["flow_run_id"] == run] for run in asked]


def dvc(*arguments: str, folder: Path) -> None:
    """Run DVC as a machine that shares nothing with the others does."""
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(folder.parent / "site")}
    subprocess.run([sys.executable, "-m", "dvc", *arguments, "--quiet"], cwd=folder, env=environment, check=True)


def commit(message: str, folder: Path) -> None:
    git("add", "--all", folder=folder)
    git("-c", "user.name=mason", "-c", "user.email=mason@localhost", "commit", "--quiet", "-m", message, folder=folder)


def git(*arguments: str, folder: Path) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def when(moment: str) -> datetime:
    return datetime.fromisoformat(moment)
