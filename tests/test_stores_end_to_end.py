"""A team's stores, all of them real: DVC's remote over SSH, MLflow and Prefect on PostgreSQL, artifacts by MLflow's proxy.

One run of the pipeline is looked at from all sides, in the order in which the tests stand: it loses its tracking server in the
middle of training, is completed, pushed, restored elsewhere, served without the repository, and found by a person with a
browser. A token is in its environment all the time, and nowhere else.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from flows.crew import answers
from tasks.dvc_command import run_dvc
from tests.browser import Browser, take_picture
from tests.clone import RESULTS, SHIPPED, Clone, new_clone
from tests.services.bare_environment import make_bare_environment
from tests.services.orchestrator import Orchestrator, open_orchestrator
from tests.services.postgres import Postgres, open_postgres
from tests.services.processes import Server, free_port
from tests.services.ssh import Ssh, open_ssh
from tests.services.tracking import Tracking, open_tracking
from tlora.errors import SettingsError

pytestmark = pytest.mark.slow

STEPS = 12
MODEL = "tlora-pocket-flux-brick"
IN_ENVIRONMENT, IN_BLOCK = "hf_" + "environment" * 3, "hf_" + "block" * 5  # spelt so that this file does not hold them
SAVE_BLOCK = "from prefect.blocks.system import Secret; import sys; Secret(value=sys.argv[1]).save('hf-token')"


@dataclass
class Team:
    """Every server, the clone that a person works in, and what its flow runs printed."""

    postgres: Postgres
    ssh: Ssh
    tracking: Tracking
    orchestrator: Orchestrator
    clone: Clone
    folder: Path
    model: Path
    seen_by_training: list[str]
    printed: list[str]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    with ExitStack() as stack:
        for name in ("ssh", "mlflow", "prefect"):
            (folder / name).mkdir()
        postgres = stack.enter_context(open_postgres())
        ssh = stack.enter_context(open_ssh(folder / "ssh"))
        databases = postgres.make_database("prefect", "asyncpg"), postgres.make_database("mlflow", "psycopg2")
        orchestrator = stack.enter_context(open_orchestrator(folder / "prefect", databases[0]))
        tracking = stack.enter_context(open_tracking(folder / "mlflow", databases[1]))
        clone = new_clone(folder / "clone")
        clone.change_params("params.yaml", {"train.max_train_steps": STEPS, "train.checkpointing_steps": STEPS // 2})
        clone.run("dvc", "remote", "add", "--default", "team", ssh.address(folder / "remote"))
        clone.commit("share")
        clone.run("dvc", "remote", "modify", "--local", "team", "keyfile", str(ssh.key))
        clone.environment |= {**orchestrator.environment, "MLFLOW_TRACKING_URI": tracking.url, "OMP_NUM_THREADS": "1"}
        yield Team(postgres, ssh, tracking, orchestrator, clone, folder, folder / "model", [], [])


def start_flow(team: Team, token: str) -> "subprocess.Popen[str]":
    environment = team.clone.environment | ({"HF_TOKEN": token} if token else {})
    return subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline"],
        cwd=team.clone.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_training(flow: "subprocess.Popen[str]", folder: Path, steps: int) -> None:
    """Wait until so many steps are done."""
    while flow.poll() is None:
        logs = list(folder.glob(".state/train/*/log.jsonl"))
        if logs and logs[0].read_text().count("\n") >= steps:
            return
        time.sleep(0.05)


def tokens_of(command: str, folder: Path) -> list[str]:
    """Return the HF_TOKEN of every process that runs a command in a folder."""
    processes = psutil.process_iter(["cmdline", "cwd"])
    running = [process for process in processes if command in " ".join(process.info["cmdline"] or [])]
    return [process.environ().get("HF_TOKEN", "") for process in running if process.info["cwd"] == str(folder)]


def test_training_outlives_the_tracking_server_and_a_second_run_completes_what_is_missing(team: Team) -> None:
    with start_flow(team, IN_ENVIRONMENT) as flow:
        wait_for_training(flow, team.clone.folder, 2)
        team.seen_by_training.extend(tokens_of("-m tasks.train", team.clone.folder))
        team.tracking.server.stop(signal.SIGKILL)
        printed, _ = flow.communicate()
    team.printed.append(printed)
    assert flow.returncode == 1, printed
    assert f"MLflow store {team.tracking.url}: " in printed
    assert "going on without it, register will complete the run" in printed
    assert printed.splitlines()[-1].startswith(f"pipeline: error: register: MLflow store {team.tracking.url}: ")
    assert "Traceback" not in printed
    assert (team.clone.folder / "artifacts/grids/grid.png").exists()

    team.clone.run(sys.executable, "-c", SAVE_BLOCK, IN_BLOCK)
    team.tracking.server.start()
    with start_flow(team, "") as flow:
        printed, _ = flow.communicate()
    team.printed.append(printed)
    assert flow.returncode == 0, printed
    assert printed.splitlines()[-1] == "pipeline: ran register"
    assert f"registered version 1 of {MODEL}" in printed
    client = MlflowClient(team.tracking.url)
    (run,) = client.search_runs([client.get_experiment_by_name("tlora").experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [*range(1, STEPS + 1)]
    assert run.info.status == "FINISHED"


def test_grids_and_model_come_back_through_the_proxy_and_lie_nowhere_else(team: Team, tmp_path: Path) -> None:
    client = MlflowClient(team.tracking.url)
    version = client.get_model_version(MODEL, "1")
    assert client.get_run(version.run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    grid = Path(client.download_artifacts(version.run_id, "grids/grid.png", str(tmp_path)))
    assert grid.read_bytes() == (team.clone.folder / "artifacts/grids/grid.png").read_bytes()
    team.clone.run("mlflow", "artifacts", "download", "-u", f"models:/{MODEL}/1", "-d", str(team.model))
    for file in (team.clone.folder / "adapters" / version.tags["checkpoint"]).iterdir():
        (kept,) = team.model.rglob(file.name)
        assert kept.read_bytes() == file.read_bytes()
    assert (team.model / "artifacts/pocket-flux/model_index.json").exists()
    assert list(team.tracking.vault.rglob("grid.png"))
    assert not {"mlflow.db", "mlruns", "mlartifacts"} & {path.name for path in team.clone.folder.iterdir()}


def test_a_remote_that_is_away_costs_one_line_and_nothing_else(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(team.clone.folder)
    before = (team.clone.folder / "dvc.lock").read_bytes()
    team.ssh.server.stop()
    with pytest.raises(SettingsError) as refusal:
        run_dvc("push")
    assert "\n" not in str(refusal.value)
    assert "Connect call failed" in str(refusal.value)
    assert (team.clone.folder / "dvc.lock").read_bytes() == before
    team.ssh.server.start()
    run_dvc("push")
    assert "in sync" in run_dvc("status", "--cloud")


def test_another_machine_restores_over_ssh_and_trains_nothing(team: Team) -> None:
    team.clone.commit("run")
    other = Clone(team.folder / "elsewhere" / "clone")
    other.folder.parent.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(team.clone.folder), str(other.folder)], check=True)
    other.environment |= {"MLFLOW_TRACKING_URI": team.tracking.url}
    other.run("dvc", "remote", "modify", "--local", "team", "keyfile", str(team.ssh.key))
    other.run("dvc", "pull", *SHIPPED)
    other.run("dvc", "pull", *RESULTS)
    other.environment |= team.orchestrator.environment
    output = other.run(sys.executable, "-m", "flows.pipeline")
    assert output.splitlines()[-1] == "pipeline: ran register", output
    assert f"already version 1 of {MODEL}" in output
    assert not (other.folder / "cache").exists()


def test_the_token_reached_training_and_is_nowhere_else(team: Team) -> None:
    assert team.seen_by_training
    assert {*team.seen_by_training} == {IN_ENVIRONMENT}
    texts = {"printed": "".join(team.printed).encode()}
    texts |= {name: team.postgres.dump(name).encode() for name in ("prefect", "mlflow")}
    files = [path for path in team.folder.rglob("*") if path.is_file()]
    texts |= {str(path): path.read_bytes() for path in files}
    kinds = {"dvc.lock", "log.jsonl", "tlora_weights.safetensors", "grid.png", "server.log", "MLmodel"}
    assert kinds <= {path.name for path in files}
    assert b"brick" in texts["mlflow"]
    assert b"register" in texts["prefect"]
    for token in (IN_ENVIRONMENT, IN_BLOCK):
        assert [name for name, content in texts.items() if token.encode() in content] == []
    for picture in (path for path in files if path.suffix == ".png"):  # text in a picture may be compressed
        with Image.open(picture) as image:
            assert "hf_" not in str(image.info), picture


def test_the_run_shows_its_progress_and_a_summary_with_a_link(team: Team) -> None:
    found = {artifact["key"]: artifact for artifact in team.orchestrator.ask("/artifacts/latest/filter")}
    assert found["train-progress"]["type"] == "progress"
    assert found["train-progress"]["data"] == 100
    assert found["train-progress"]["description"].startswith(f"train: step {STEPS} of {STEPS}, loss ")
    summary = found["pipeline"]["data"]
    assert f"{MODEL}, version 1" in summary
    assert f"]({team.tracking.url}/#/experiments/" in summary


def test_the_champion_is_served_without_the_repository_and_draws_the_same_bits(team: Team, tmp_path: Path) -> None:
    """In an environment that holds the packages which the model pins, and no code of ours: that comes with the model."""
    client = MlflowClient(team.tracking.url)
    client.set_registered_model_alias(MODEL, "champion", "1")
    version = client.get_model_version_by_alias(MODEL, "champion")
    drawn = draw_by_hand(team.clone, version.tags["checkpoint"], tmp_path)
    away = team.folder / "moved away"
    team.clone.folder.rename(away)
    try:
        served = serve_and_ask(team, tmp_path)
    finally:
        away.rename(team.clone.folder)
    assert served.size == (64, 64)
    assert served.tobytes() == drawn.tobytes()


def draw_by_hand(clone: Clone, checkpoint: str, folder: Path) -> Image.Image:
    """Draw with `tlora infer`, with the settings of the evaluation, which a served model has too."""
    drawing = yaml.safe_load((clone.folder / "params.yaml").read_text())["evaluate"]
    config = {"pretrained_model_name_or_path": "models/pocket-flux", "resolution": drawing["width"], "mixed_precision": "no"}
    config |= {name: drawing[name] for name in ("num_inference_steps", "guidance_scale")}
    (folder / "flat.yaml").write_text(yaml.safe_dump(config))
    (folder / "prompts.txt").write_text("a matbrk wall\n")
    options = {"config": folder / "flat.yaml", "lora_path": f"adapters/{checkpoint}", "prompts_file": folder / "prompts.txt"}
    options |= {"outdir": folder / "drawn", "num": 1, "seed": 7}
    clone.run("tlora", "infer", *(word for name, value in options.items() for word in (f"--{name}", str(value))))
    (picture,) = (folder / "drawn").glob("*.png")
    return Image.open(picture)


def serve_and_ask(team: Team, folder: Path) -> Image.Image:
    """Serve the champion as its users would, and ask it for a picture."""
    address = f"models:/{MODEL}@champion"
    python = make_bare_environment(folder / "venv", team.model / "requirements.txt")
    assert subprocess.run([python, "-c", "import tlora"], cwd=folder, capture_output=True, check=False).returncode == 1
    port, nowhere = free_port(), folder / "nowhere"
    nowhere.mkdir()
    command = [str(python), "-m", "mlflow", "models", "serve", "-m", address, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{python.parent}:{os.defpath}", "MLFLOW_TRACKING_URI": team.tracking.url, "OMP_NUM_THREADS": "1"}
    server = Server(command, folder / "serve.log", lambda: answers(f"http://127.0.0.1:{port}/ping"), environment, nowhere)
    server.start()
    try:
        question = {"inputs": "a matbrk wall", "params": {"seed": 7}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            picture = json.load(answer)["predictions"]
    finally:
        server.stop()
    return Image.open(BytesIO(base64.b64decode(picture)))


def test_a_person_finds_the_champion_its_grid_its_data_and_its_commit(team: Team, browser: Browser, tmp_path: Path) -> None:
    """From MLflow's start page, by clicking alone."""
    version = MlflowClient(team.tracking.url).get_model_version_by_alias(MODEL, "champion")
    visit = browser.visit(team.tracking.url, width=1400, height=1000)
    page = visit.page
    page.set_default_timeout(120_000)
    page.get_by_text("Model training", exact=True).first.click()
    page.get_by_role("link", name="Model registry").click()
    page.get_by_role("button", name="Try it now").click()  # MLflow introduces its registry to whoever comes first
    page.get_by_role("link", name=MODEL).click()
    page.get_by_text("T-LoRA adapters of brick").wait_for()
    page.get_by_role("link", name="Version 1").first.click()
    page.get_by_text("@ champion").first.wait_for()
    grid = page.locator("img[src*='preview.png']")
    grid.wait_for()
    assert grid.evaluate("picture => picture.complete && picture.naturalWidth") == 800
    take_picture(page, "mlflow-version")
    for fact in ("data_dvc", "git_commit"):
        shown = page.get_by_role("listitem").filter(has_text=f"{fact}: ").inner_text()
        assert shown == f"{fact}: {version.tags[fact]}"
    assert version.tags["git_commit"] == team.clone.run("git", "rev-parse", "HEAD~1").strip()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Runs evaluated in the same way").click()
    run_name = MlflowClient(team.tracking.url).get_run(version.run_id).info.run_name
    opened.value.get_by_role("link", name=run_name).wait_for()
    take_picture(opened.value, "mlflow-runs")
    assert [problem for problem in visit.problems if "users/current" not in problem and "404 (Not Found)" not in problem] == []
