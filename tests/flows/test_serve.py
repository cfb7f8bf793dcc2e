"""What `make serve` brings up, asked for runs as a person would. Everything is started once, for the whole folder."""

import subprocess
import sys

import pytest
import yaml

from tests.flows.served import COMMAND, Served

pytestmark = pytest.mark.slow

SHORTER = ["train.max_train_steps=2", "train.checkpointing_steps=2", "train.rank=4", "evaluate.num_inference_steps=2"]


def test_a_run_with_overrides_has_a_branch_of_its_own_and_leaves_the_tree_alone(served: Served):
    clone = served.clone
    concept = clone.folder / "concept.yaml"
    concept.write_text(f"{concept.read_text()}# somebody is in the middle of an edit\n")
    before = clone.run("git", "status", "--porcelain"), (clone.folder / "params.yaml").read_text()
    run = served.run("pipeline/on-demand", overrides=SHORTER)
    branch = f"run/{run['id'][:8]}"
    message = f"ran validate, cache_latents, cache_prompts, train, evaluate, register, on branch {branch}"
    assert (run["state_name"], run["state"]["message"]) == ("Completed", message), served.logs(run["id"])
    assert (clone.run("git", "status", "--porcelain"), (clone.folder / "params.yaml").read_text()) == before
    assert clone.run("git", "log", "--format=%s", f"main..{branch}").splitlines() == [
        f"Run {branch.removeprefix('run/')}",
        f"Override {', '.join(SHORTER)}",
    ]
    train = yaml.safe_load(clone.run("git", "show", f"{branch}:params.yaml"))["train"]
    assert (train["rank"], train["max_train_steps"], train["learning_rate"]) == (4, 2, 0.002)
    assert "checkpoint-000002" in clone.run("git", "show", f"{branch}:metrics/evaluate.json")
    assert "train:" in clone.run("git", "show", f"{branch}:dvc.lock")
    assert len(clone.run("git", "worktree", "list").splitlines()) == 1
    clone.run("git", "checkout", "--quiet", "concept.yaml")


def test_a_wrong_override_is_one_line_before_anything_is_made(served: Served):
    branches = served.clone.run("git", "branch", "--list", "run/*")
    run = served.run("pipeline/on-demand", overrides=["train.rnk=32"])
    assert run["state_type"] == "FAILED"
    assert run["state"]["message"] == "override 'train.rnk=32': unknown key 'rnk', did you mean 'rank'?"
    assert served.clone.run("git", "branch", "--list", "run/*") == branches


def test_a_second_one_says_that_one_is_running_and_where(served: Served):
    second = subprocess.run(
        COMMAND, cwd=served.clone.folder, env=served.clone.environment, capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    where = f"Prefect {served.url.removesuffix('/api')}, MLflow {served.mlflow}"
    assert second.stderr == (
        f"serve: error: one is running already (process {served.process.pid}): {where}; end it with 'kill {served.process.pid}'\n"
    )


def test_the_card_takes_one_run_at_once(served: Served):
    pools = served.ask("/work_pools/filter")
    limits = {pool["name"]: pool["concurrency_limit"] for pool in pools}
    assert limits == {"gpu": 1, "cpu": 4}


def test_a_port_that_is_taken_is_named(served: Served, tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    port = served.mlflow.rpartition(":")[2]
    command = [sys.executable, "-m", "flows.serve", "--prefect-port", "0", "--mlflow-port", port]
    second = subprocess.run(command, cwd=tmp_path, env=served.clone.environment, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert second.stderr == f"serve: error: port {port} is taken: choose another with 'make serve MLFLOW_PORT=...'\n"
