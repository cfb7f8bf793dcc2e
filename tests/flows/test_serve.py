"""What `make serve` brings up, asked for runs as a person would. Everything is started once, for the whole folder."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Param

from tasks.registry.promotion import fetch_adapter, judge
from tasks.registry.verdict import PromoteSettings
from tasks.tracking.store import Store, open_store
from tests.browser import Browser, take_picture
from tests.flows.served import COMMAND, Served

pytestmark = pytest.mark.slow

SHORTER = ["train.max_train_steps=2", "train.checkpointing_steps=2", "train.rank=12", "evaluate.num_inference_steps=2"]
MODEL = "tlora-pocket-flux-brick"


@pytest.fixture
def store(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Return the served MLflow; until the test ends, the tree has the settings of the run with overrides, uncommitted."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.mlflow)
    monkeypatch.chdir(served.clone.folder)
    overridden = dict(override.split("=") for override in SHORTER)
    served.clone.change_params("params.yaml", {name: int(value) for name, value in overridden.items()})
    yield open_store()
    served.clone.run("git", "checkout", "--quiet", "params.yaml")


def test_a_run_with_overrides_has_a_branch_of_its_own_and_leaves_the_tree_alone(served: Served):
    clone = served.clone
    concept = clone.folder / "concept.yaml"
    concept.write_text(f"{concept.read_text()}# somebody is in the middle of an edit\n")
    before = clone.run("git", "status", "--porcelain", "--", ".", ":!decisions.jsonl"), (clone.folder / "params.yaml").read_text()
    run = served.run("pipeline/on-demand", overrides=SHORTER)
    branch = f"run/{run['id'][:8]}"
    message = f"ran validate, cache_latents, cache_prompts, draw_prior, train, evaluate, register, on branch {branch}"
    assert (run["state_name"], run["state"]["message"]) == ("Completed", message), served.logs(run["id"])
    assert (
        clone.run("git", "status", "--porcelain", "--", ".", ":!decisions.jsonl"),
        (clone.folder / "params.yaml").read_text(),
    ) == before
    assert clone.run("git", "log", "--format=%s", f"main..{branch}").splitlines() == [
        f"Run {branch.removeprefix('run/')}",
        f"Override {', '.join(SHORTER)}",
    ]
    train = yaml.safe_load(clone.run("git", "show", f"{branch}:params.yaml"))["train"]
    assert (train["rank"], train["max_train_steps"], train["learning_rate"]) == (12, 2, 0.002)
    assert "checkpoint-000002" in clone.run("git", "show", f"{branch}:metrics/evaluate.json")
    assert "train:" in clone.run("git", "show", f"{branch}:dvc.lock")
    assert len(clone.run("git", "worktree", "list").splitlines()) == 1
    clone.run("git", "checkout", "--quiet", "concept.yaml")


def test_a_champion_that_was_measured_otherwise_is_measured_anew_by_the_command_that_the_refusal_names(
    served: Served, store: Store, tmp_path: Path
):
    """Its adapter is the challenger's own here: measured rightly, it scores the same to the last digit."""
    challenger = store.client.get_model_version(MODEL, "1")
    store.client.set_model_version_tag(MODEL, "1", "recommended", "true")  # whatever the evaluation thinks of two steps
    run = store.client.create_run(store.experiment_id).info
    settings = store.client.get_run(challenger.run_id).data.params
    store.client.log_batch(run.run_id, params=[Param(name, value) for name, value in settings.items()])
    store.client.log_artifacts(run.run_id, str(fetch_adapter(store, challenger, tmp_path)), "adapter/artifacts/final")
    tags = challenger.tags | {"evaluation.prompts": "yesterday's"}
    champion = store.client.create_model_version(MODEL, f"{run.artifact_uri}/adapter", run.run_id, tags=tags)
    store.client.set_registered_model_alias(MODEL, "champion", champion.version)

    refused = judge(store, MODEL, PromoteSettings())
    assert refused.objection == (
        "champion and challenger were measured with different prompts: measure the champion anew, then promote"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [*refused.remedy.split(), "--watch"]
    answer = subprocess.run(command, env=served.environment | {"PATH": path}, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    verdict = judge(store, MODEL, PromoteSettings())
    assert len(verdict.checks) == 6
    assert [check.champion for check in verdict.checks] == [check.challenger for check in verdict.checks]


def test_retraining_asks_for_runs_of_its_deployments(served: Served, store: Store):
    served.clone.change_params("params.yaml", {"train.seed": 1})
    run = served.run("retrain/scheduled")
    assert run["state_name"] == "Completed", served.logs(run["id"])
    asked = served.ask("/flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [run["id"]]}}, sort="START_TIME_ASC")
    pipeline, promotion = (served.wait(each["id"]) for each in asked)
    assert (pipeline["work_pool_name"], promotion["work_pool_name"]) == ("gpu", "cpu")
    assert run["state"]["message"].endswith(f"train, evaluate, register; promotion is run {promotion['name']}")
    assert promotion["state"]["message"].startswith(
        f"version 3 of {MODEL} is not promoted: the evaluation recommends no checkpoint"
    )
    assert served.artifacts(run["id"])["plan"].startswith("# Training again")


def test_the_page_of_a_run_shows_its_progress_and_its_scores_beside_the_champions(served: Served, browser: Browser):
    (run,) = served.ask("/flow_runs/filter", flows={"name": {"any_": ["pipeline"]}}, sort="START_TIME_DESC", limit=1)
    visit = browser.visit(f"{served.url.removesuffix('/api')}/runs/flow-run/{run['id']}", width=1400, height=1150)
    page = visit.page
    page.set_default_timeout(120_000)
    page.get_by_text("Artifacts", exact=True).last.click()
    page.get_by_text("train: step 2 of 2").first.wait_for()
    take_picture(page, "prefect-run")
    page.get_by_text("What ran, and what came of it").first.click()
    page.get_by_role("columnheader", name="champion, version 2").wait_for()
    page.get_by_role("heading", name="Registered").evaluate("heading => heading.scrollIntoView()")
    take_picture(page, "prefect-summary")
    link = page.get_by_role("link", name="brick-")
    assert str(link.get_attribute("href")).startswith(f"{served.mlflow}/#/experiments/")
    assert not [problem for problem in visit.problems if problem.startswith(("outside", "uncaught"))]


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
