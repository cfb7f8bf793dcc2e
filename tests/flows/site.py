"""A tree, a Prefect server with pools, and workers that a test can kill: what `make serve` holds together, taken apart."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.services.orchestrator import Orchestrator
from tests.services.processes import Server

ROOT = Path(__file__).parents[2]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Site:
    """A tree with one stage, a server with a pool for one card, and a worker.

    Args:
        folder: The tree.
        orchestrator: The server.
    """

    def __init__(self, folder: Path, orchestrator: Orchestrator) -> None:
        self.folder, self.orchestrator = folder, orchestrator
        self.deployment = deploy(orchestrator, "gpu", 1)
        self.worker = worker(orchestrator, "gpu", folder)

    def ask_for_run(self) -> str:
        return str(self.orchestrator.ask(f"/deployments/{self.deployment}/create_flow_run", state={"type": "SCHEDULED"})["id"])

    def run(self, run: str) -> dict[str, Any]:
        (found,) = self.orchestrator.ask("/flow_runs/filter", flow_runs={"id": {"any_": [run]}})
        return dict(found)

    def wait_for(self, run: str, states: set[str] = FINAL, seconds: float = 600) -> dict[str, Any]:
        wait_until(lambda: self.run(run)["state_type"] in states, f"{states}: {self.run(run)['state']}", seconds)
        return self.run(run)

    def logs(self, run: str) -> str:
        lines = self.orchestrator.ask("/logs/filter", logs={"flow_run_id": {"any_": [run]}}, sort="TIMESTAMP_ASC", limit=200)
        return "\n".join(line["message"] for line in lines)

    def train_for(self, steps: int) -> None:
        file = self.folder / "params.yaml"
        params = yaml.safe_load(file.read_text())
        params["train"]["max_train_steps"] = steps
        file.write_text(yaml.safe_dump(params))

    def step(self) -> int:
        """Return the newest step whose state is saved, or 0."""
        return max((int(file.stem.removeprefix("state-")) for file in self.folder.glob(".state/train/*/state-*")), default=0)

    def processes(self) -> list[list[str]]:
        """Return the commands of what runs in the tree: dvc, its stage, and the flow."""
        return [process.info["cmdline"] for process in self._members()]

    def lose_power(self) -> None:
        """Kill the worker and all that runs in the tree with -9, before any of them can say so."""
        self.worker.kill_alone()
        for process in self._members():
            process.kill()

    def _members(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter(["cwd", "cmdline"]) if process.info["cwd"] == str(self.folder)]


def deploy(orchestrator: Orchestrator, pool: str, limit: int) -> str:
    """Make a pool for so many runs at once, and pipeline/on-demand as prefect.yaml has it; return the deployment's id."""
    written = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    (on_demand,) = [each for each in written["deployments"] if each["name"] == "on-demand" and "pipeline" in each["entrypoint"]]
    orchestrator.ask("/work_pools/", name=pool, type="process", concurrency_limit=limit)
    flow = orchestrator.ask("/flows/", name="pipeline")
    made = {"name": f"on-demand-{pool}", "flow_id": flow["id"], "work_pool_name": pool, "enforce_parameter_schema": False}
    made |= {"entrypoint": on_demand["entrypoint"], "pull_steps": written["pull"]}
    return str(orchestrator.ask("/deployments/", **made)["id"])


def worker(orchestrator: Orchestrator, pool: str, folder: Path) -> Server:
    """Return a worker that has not been started, of a machine with one card that keeps its tree in a folder."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    command += ["--name", folder.parent.name, "--limit", "1"]
    log = folder.parent / "worker.log"
    own = {
        "TLORA_REPOSITORY": str(folder),
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder.parent),
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
        "OMP_NUM_THREADS": "1",
        "PREFECT_CLIENT_MAX_RETRIES": "8",
    }
    own |= {"PREFECT_WORKER_QUERY_SECONDS": "2", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment = os.environ | orchestrator.environment | own
    return Server(command, log, lambda: "started!" in log.read_text(), environment, folder.parent)


def wait_until(happened: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.2)
