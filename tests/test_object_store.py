"""A team's files in S3: DVC's remote and MLflow's artifacts, on a real server that refuses, goes away, and comes back."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

from flows.check import Check, check_remote
from tasks.dvc_command import run_dvc
from tasks.tracking.store import TrackingError, explained_failures
from tests.clone import RESULTS, SHIPPED, Clone, ran
from tests.flows.kiln import dvc, make_repository
from tests.services.s3 import BUCKET, S3, SECRET, open_s3
from tests.services.tracking import PASSWORDS, Tracking, account, make_accounts, open_tracking
from tlora.errors import SettingsError

pytestmark = pytest.mark.slow

MODEL = "tlora-pocket-flux-brick"
FILES, SIZE = 12, 2 << 20  # so many take a push a while


@dataclass(frozen=True)
class Team:
    """What a team has, and the clone of somebody who has not trained anything."""

    s3: S3
    tracking: Tracking
    folder: Path
    clone: Clone


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with open_s3(tmp_path_factory.mktemp("s3")) as opened:
        yield opened


@pytest.fixture(scope="module")
def team(s3: S3, finished_clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Push what somebody has trained, and clone it elsewhere."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "mlflow").mkdir()
    trained = Clone(folder / "trained")
    subprocess.run(["cp", "--recursive", "--reflink=auto", str(finished_clone.folder), str(trained.folder)], check=True)
    trained.environment |= s3.environment
    trained.run("dvc", "remote", "add", "--default", "team", f"s3://{BUCKET}/pipeline")
    trained.commit("share")
    trained.run("dvc", "push")
    clone = Clone(folder / "clone")
    subprocess.run(["git", "clone", "--quiet", str(trained.folder), str(clone.folder)], check=True)
    database = f"sqlite:///{folder / 'mlflow.db'}"
    server = s3.environment | {"AWS_MAX_ATTEMPTS": "1"}
    with open_tracking(folder / "mlflow", database, f"s3://{BUCKET}/mlflow", server, login=True) as tracking:
        make_accounts(tracking, MODEL)
        clone.environment |= {**s3.environment, **account(tracking, "trainer", "none of theirs")}
        yield Team(s3, tracking, folder, clone)


@pytest.fixture
def quarry(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with data that nobody has pushed yet; the working folder is there, and the keys in the environment."""
    make_repository(tmp_path)
    for number in range(FILES):
        (tmp_path / f"data/{number}.bin").write_bytes(os.urandom(SIZE))
    dvc(tmp_path, "add", "--quiet", "data")
    dvc(tmp_path, "remote", "add", "--default", "team", f"s3://{BUCKET}/{tmp_path.name}")
    monkeypatch.chdir(tmp_path)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # of each file, of which a push gives up none without having tried
    return tmp_path


def test_a_wrong_key_a_missing_bucket_and_a_server_away_are_a_line_each(
    s3: S3, quarry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, prefix = (quarry / "data.dvc").read_bytes(), f"{quarry.name}/"
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        assert "403" in refusal()
    with monkeypatch.context() as patch:
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        patch.setenv("HOME", str(quarry))
        assert "credentials" in refusal()
    run_dvc("remote", "modify", "--local", "team", "url", f"s3://no-such-bucket/{quarry.name}")
    assert "The specified bucket does not exist" in refusal()
    run_dvc("remote", "modify", "--local", "team", "url", f"s3://{BUCKET}/{quarry.name}")
    s3.server.stop()
    try:
        assert "Could not connect to the endpoint URL" in refusal()
    finally:
        s3.server.start()
    assert s3.objects(prefix) == {}
    assert (quarry / "data.dvc").read_bytes() == before


def refusal() -> str:
    """Return what a push is refused with."""
    with pytest.raises(SettingsError) as refused:
        run_dvc("push")
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)
    return str(refused.value)


def test_a_push_that_loses_its_server_is_completed_by_the_next(s3: S3, quarry: Path) -> None:
    prefix = f"{quarry.name}/"
    command = [sys.executable, "-m", "dvc", "push", "--jobs", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as push:
        while push.poll() is None and len(s3.objects(prefix)) < 3:
            time.sleep(0.02)
        s3.server.stop(signal.SIGKILL)
        _, said = push.communicate()
    s3.server.start()
    assert push.returncode != 0
    assert "ERROR: " in said
    assert "Traceback" not in said
    assert 3 <= len(s3.objects(prefix)) < FILES
    run_dvc("push")
    assert "in sync" in run_dvc("status", "--cloud")
    assert check_remote() == Check("DVC remote", "ok", f"team: s3://{BUCKET}/{quarry.name} answers")
    kept = {key: s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in s3.objects(prefix)}
    assert len(kept) == FILES + 2  # brick.txt, and the list of the folder
    for key, content in kept.items():
        assert "".join(key.removesuffix(".dir").split("/")[-2:]) == hashlib.md5(content).hexdigest()


def test_another_machine_restores_everything_and_trains_nothing(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """And fills MLflow, which asks for a password, and whose server alone holds keys of the bucket that its files go to."""
    team.clone.run("dvc", "pull", *SHIPPED)
    team.clone.run("dvc", "pull", *RESULTS)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        team.clone.environment.pop(name)
    refused = f"register: error: MLflow store {team.tracking.url}: "
    said = team.clone.run("dvc", "repro", "--single-item", "register", fails=True)
    assert f"{refused}the name or password is wrong or missing: " in said, said
    team.clone.environment |= account(team.tracking, "trainer")
    team.s3.server.stop()
    team.clone.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"  # by default MLflow asks for four minutes, twice
    away = team.clone.run("dvc", "repro", "--single-item", "register", fails=True)
    del team.clone.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    assert refused in away, away
    assert "Traceback" not in said + away
    team.s3.server.start()
    assert ran(output := team.clone.repro("--allow-missing")) == ["register"], output
    assert f"version 1 of {MODEL}" in output
    assert not (team.clone.folder / "cache").exists()
    for name, value in account(team.tracking, "reader").items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(team.tracking.url)
    version = client.get_model_version(MODEL, "1")
    model = team.folder / "model"
    team.clone.run("mlflow", "artifacts", "download", "-u", f"models:/{MODEL}/1", "-d", str(model))
    for file in (team.clone.folder / "adapters" / version.tags["checkpoint"]).iterdir():
        (kept,) = model.rglob(file.name)
        assert kept.read_bytes() == file.read_bytes()
        sizes = [size for key, size in team.s3.objects("mlflow/").items() if key.endswith(f"/{file.name}")]
        assert file.stat().st_size in sizes
    assert not list(team.tracking.vault.rglob("*.safetensors"))


def test_a_bucket_without_a_server_before_it_fails_in_one_line_too(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clients of `mlflow server --no-serve-artifacts` meet it, who need keys of their own."""
    database, file = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "brick.txt"
    file.write_text("brick")
    for name, value in {**s3.environment, "MLFLOW_TRACKING_URI": database}.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(database)
    run = client.create_run(client.create_experiment("bare", f"s3://{BUCKET}/bare")).info.run_id
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        with pytest.raises(TrackingError, match=r"^MLflow store sqlite:[^\n]+SignatureDoesNotMatch[^\n]+$"), explained_failures():
            client.log_artifact(run, str(file))
    boto3.setup_default_session()  # it keeps the keys that it has read, as does MLflow's client of it
    _cached_get_s3_client.cache_clear()
    with explained_failures():
        client.log_artifact(run, str(file))
    assert Path(client.download_artifacts(run, "brick.txt", str(tmp_path / "down"))).read_text() == "brick"
    assert list(s3.objects("bare/").values()) == [5]


def test_the_keys_are_nowhere(team: Team, s3: S3) -> None:
    files = [path for path in (*team.folder.rglob("*"), *s3.server.log.parent.rglob("*")) if path.is_file()]
    assert {"dvc.lock", "mlflow.db", "s3.log", "log", "config"} <= {path.name for path in files}
    for secret in (SECRET, *PASSWORDS.values()):
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
