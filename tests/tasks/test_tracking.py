import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from tasks.tracking.live import LiveRun
from tasks.tracking.runs import (
    PREVIEW_SERIES,
    Point,
    evaluation_points,
    find_or_create_run,
    find_run,
    known_points,
    log_points,
    run_fingerprint,
    training_points,
)
from tasks.tracking.store import (
    Store,
    TrackingError,
    explained_failures,
    open_store,
    passing_store,
    public_uri,
    run_address,
    store_uri,
)
from tests.tasks.finished_run import FinishedRun, metadata_of
from tlora.runtime.preemption import Preempted

REPOSITORY = Path(__file__).parents[2]
DEAD_SERVER = "http://127.0.0.1:9"


def points_of(key: str) -> list[tuple[int, float]]:
    store = open_store()
    run = find_run(store, run_fingerprint(metadata_of(0)))
    assert run is not None
    return sorted((point.step, point.value) for point in store.client.get_metric_history(run.info.run_id, key))


def status() -> str:
    run = find_run(open_store(), run_fingerprint(metadata_of(0)))
    assert run is not None
    return str(run.info.status)


def test_the_default_store_lies_in_the_repository_root_wherever_a_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "down")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri() == f"sqlite:///{tmp_path}/mlflow.db"


def test_artifacts_lie_beside_the_database(store_file: Path) -> None:
    store = open_store()
    assert store.client.get_experiment(store.experiment_id).artifact_location == (store_file.parent / "mlartifacts").as_uri()


def test_opening_a_store_twice_finds_the_same_experiment(store_file: Path) -> None:
    assert open_store().experiment_id == open_store().experiment_id


def test_a_deleted_experiment_is_said_with_the_command_that_restores_it(store_file: Path) -> None:
    store = open_store()
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(
        TrackingError, match="experiment 'tlora' is deleted: bring it back with 'mlflow experiments restore -x 1'"
    ):
        open_store()


def test_a_server_that_is_away_is_one_line_without_its_password(store_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mason:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"MLflow store http://\*\*\*@127.0.0.1:9: ") as raised, explained_failures():
        open_store()
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_database_without_its_driver_is_one_line_that_names_both(store_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+pg8000://mason:secret@127.0.0.1:9/tlora")
    with pytest.raises(TrackingError) as raised:
        open_store()
    assert str(raised.value) == (
        "MLflow store postgresql+pg8000://***@127.0.0.1:9/tlora: the Python package 'pg8000' is missing: for PostgreSQL install"
        " flux-tlora[postgres] and write postgresql+psycopg2://..."
    )


def test_the_address_of_a_run_is_a_servers_and_has_no_password() -> None:
    client = MlflowClient("http://127.0.0.1:9")
    assert run_address(Store("http://mason:secret@team:5000/", "7", client), "9f") == "http://team:5000/#/experiments/7/runs/9f"
    assert run_address(Store("sqlite:////srv/mlflow.db", "7", client), "9f") == ""


def test_a_public_address_has_no_password() -> None:
    assert public_uri("postgresql://mason:secret@db/tlora") == "postgresql://***@db/tlora"
    assert public_uri("sqlite:////srv/@home/mlflow.db") == "sqlite:////srv/@home/mlflow.db"


@pytest.mark.slow
def test_processes_that_meet_a_new_store_at_once_all_open_it(tmp_path: Path) -> None:
    code = "from tasks.tracking.store import open_store; print(open_store().experiment_id)"
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert [out for out, _ in answers] == ["1\n", "1\n", "1\n"]


def test_the_fingerprint_is_the_same_at_every_step_and_another_for_other_code() -> None:
    assert run_fingerprint(metadata_of(2)) == run_fingerprint(metadata_of(4))
    assert run_fingerprint(metadata_of(2, "code-1")) != run_fingerprint(metadata_of(2, "code-2"))


def test_a_log_line_becomes_its_numbers_at_its_step() -> None:
    assert training_points({"step": 3, "loss": 0.5, "picture": "brick_0.png", "grad_norm": float("nan")}) == [
        Point("train/loss", 3, 0.5)
    ]


def test_scores_become_means_and_intervals_at_their_step() -> None:
    scores: dict[str, Any] = {"step": 50, "gain": {"mean": 0.2, "low": 0.1, "high": 0.3}, "diversity": 0.4, "objection": None}
    assert evaluation_points(scores) == [
        Point("evaluate/gain", 50, 0.2),
        Point("uncertainty/gain_low", 50, 0.1),
        Point("uncertainty/gain_high", 50, 0.3),
        Point("evaluate/diversity", 50, 0.4),
    ]


def test_of_several_evaluations_the_newest_is_what_a_run_shows_even_where_it_says_again_what_an_older_one_said(
    store_file: Path,
) -> None:
    store = open_store()
    run_id = find_or_create_run(store, metadata_of(0)).info.run_id
    for value in (0.2, 0.3, 0.2):
        point = Point("evaluate/gain", 50, value)
        assert point not in known_points(store, run_id, [point.key])
        log_points(store, run_id, [point])
        time.sleep(0.01)  # MLflow tells points apart by the millisecond
        assert known_points(store, run_id, [point.key]) == {point}


def test_a_live_run_shows_points_while_it_goes_on_and_says_how_it_ended(store_file: Path) -> None:
    with LiveRun(metadata_of(0)) as live:
        live.log(training_points({"step": 1, "loss": 0.5}))
        assert points_of("train/loss") == [(1, 0.5)]
        assert status() == "RUNNING"
        live.log(training_points({"step": 2, "loss": 0.25}))
    assert points_of("train/loss") == [(1, 0.5), (2, 0.25)]
    assert status() == "FINISHED"


@pytest.mark.parametrize(("failure", "expected"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (Preempted, "KILLED")])
def test_a_live_run_that_fails_is_shown_as_such_and_the_failure_goes_on_its_way(
    store_file: Path, failure: type[BaseException], expected: str
) -> None:
    def train() -> None:
        with LiveRun(metadata_of(0)) as live:
            live.log(training_points({"step": 1, "loss": 0.5}))
            raise failure

    with pytest.raises(failure):
        train()
    assert status() == expected


def test_a_run_that_is_taken_up_again_shows_every_step_once(store_file: Path) -> None:
    for steps in ((1, 2), (2, 3)):
        with LiveRun(metadata_of(0)) as live:
            for step in steps:
                live.log(training_points({"step": step, "loss": 1 / step}))
    assert points_of("train/loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


def test_register_completes_a_live_run_without_doubling_it(finished_run: FinishedRun) -> None:
    with LiveRun(metadata_of(0)) as live:
        live.log(training_points({"step": 1, "loss": 1.0, "learning_rate": 1e-3}))
    finished_run.register()
    assert points_of("train/loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    assert len(open_store().client.search_runs([open_store().experiment_id])) == 1


def shown_pictures() -> list[str]:
    store = open_store()
    run = find_run(store, run_fingerprint(metadata_of(0)))
    assert run is not None
    names = [Path(file.path).name for file in store.client.list_artifacts(run.info.run_id, "images")]
    return sorted("+".join(name.split("+")[:3]) for name in names if name.endswith(".png") and name.startswith("preview"))


def test_a_live_run_shows_pictures_and_register_completes_them(finished_run: FinishedRun) -> None:
    previews = finished_run.root / "reports/train/previews"
    previews.mkdir()
    for step in (2, 4):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(previews / f"step-{step:06d}.png")
    for _ in range(2):
        with LiveRun(metadata_of(0)) as live:
            live.show(PREVIEW_SERIES, 2, previews / "step-000002.png")
            live.log(training_points({"step": 2, "loss": 0.5}))
            assert shown_pictures() == ["preview+step+2"]
    finished_run.register()
    assert shown_pictures() == ["preview+step+2", "preview+step+4"]


def test_pictures_that_cannot_be_stored_cost_training_one_line_and_no_points(store_file: Path) -> None:
    Path("mlartifacts").write_text("no folder can be made here")
    Image.new("RGB", (8, 8)).save("preview.png")
    said: list[str] = []
    with LiveRun(metadata_of(0), said.append) as live:
        live.show(PREVIEW_SERIES, 1, Path("preview.png"))
        live.log(training_points({"step": 1, "loss": 0.5}))
    assert len(said) == 1
    assert said[0].startswith(f"pictures for MLflow store sqlite:///{store_file}: ")
    assert said[0].endswith("going on without it, register will complete the run")
    assert points_of("train/loss") == [(1, 0.5)]
    assert status() == "FINISHED"


def test_a_store_that_is_away_costs_training_one_line_and_no_time(store_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD_SERVER)
    said: list[str] = []
    started = time.monotonic()
    with LiveRun(metadata_of(0), said.append) as live:
        for step in range(1, 1000):
            live.log(training_points({"step": step, "loss": 0.5}))
    assert time.monotonic() - started < 5
    assert len(said) == 1
    assert said[0].startswith(f"MLflow store {DEAD_SERVER}: ")
    assert said[0].endswith("going on without it, register will complete the run")
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Return the address of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.slow
def test_a_store_that_never_answers_costs_training_seconds(
    store_file: Path, monkeypatch: pytest.MonkeyPatch, silent_server: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    said: list[str] = []
    started = time.monotonic()
    with LiveRun(metadata_of(0), said.append) as live:
        live.log(training_points({"step": 1, "loss": 0.5}))
    assert time.monotonic() - started < 20
    assert len(said) == 1


@pytest.mark.parametrize(
    ("ci", "uri", "said"), [("true", None, True), ("false", None, False), (None, None, False), ("1", "sqlite:///x", False)]
)
def test_that_the_store_of_a_jobs_checkout_will_not_stay_is_said_once_it_is_open_too(
    ci: str, uri: str, said: bool, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name, value in (("CI", ci), ("MLFLOW_TRACKING_URI", uri)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    assert bool(passing_store()) == said
    if uri is None:
        open_store()
        assert bool(passing_store()) == said
