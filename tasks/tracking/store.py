"""Find, make and open the tracking store.

Several processes that meet a new SQLite store all migrate it at once and collide every time, so the first opening is under a
file lock.
"""

import fcntl
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.running.loopback import loopback_without_proxy
from tasks.running.state_folder import repository_root, state_folder
from tasks.running.telemetry import telemetry_off
from tasks.tracking.moved_store import ARTIFACTS, follow_the_store, missing_artifacts
from tlora.errors import TloraError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "tlora"
_SQLITE = "sqlite:///"
_REMEDIES = {"boto3": "for artifacts in S3 install flux-tlora[s3]"}  # missing package -> what to do
_TURNED_AWAY = {  # what a server that has accounts answers, and what that means
    401: "the name or password is wrong or missing: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    403: "this account may not do that: its administrator gives accounts the permission EDIT, see docs/logins.md",
}
_CHECKED = "checked"  # tag of the experiment: when the store was last asked to keep something, in ns


class TrackingError(TloraError):
    """The MLflow store cannot be reached, or does not do what it is asked."""


@dataclass(frozen=True)
class Store:
    """An open store.

    Args:
        uri: Its address, as `mlflow ui --backend-store-uri` takes it.
        experiment_id: The experiment that runs belong to.
        client: MLflow's own client of it.
    """

    uri: str
    experiment_id: str
    client: "MlflowClient"


def store_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or the SQLite file in the repository's root that all its worktrees share."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{repository_root() / 'mlflow.db'}"


def passing_store() -> str:
    """Return why what is registered now will not stay, in a sentence; empty if nothing is known to speak against it."""
    if os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get("CI", "").lower() in ("", "0", "false"):
        return ""
    return "CI is set, and a job's checkout goes with the job, and this store with it: set MLFLOW_TRACKING_URI to keep it"


def public_uri(uri: str) -> str:
    """Return an address without the user and password that it may hold."""
    return re.sub(r"://[^/@]*@", "://***@", uri)


def run_address(store: Store, run_id: str) -> str:
    """Return where a server shows a run, without user and password; empty where the store is no server."""
    return _page(store, f"experiments/{store.experiment_id}/runs/{run_id}")


def version_address(store: Store, model: str, number: str) -> str:
    """Return where a server shows a version of a registered model; empty where the store is no server."""
    return _page(store, f"models/{model}/versions/{number}")


def _page(store: Store, path: str) -> str:
    server = re.sub(r"://[^/@]*@", "://", store.uri).rstrip("/")
    return f"{server}/#/{path}" if server.startswith("http") else ""


def open_store() -> Store:
    """Open the configured store, made and migrated where it is new, and the experiment in it.

    Raises:
        TrackingError: If it cannot be opened.
    """
    with explained_failures():
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = store_uri()
        with _one_process_at_a_time():
            if uri.startswith(_SQLITE):
                _say(follow_the_store(Path(uri.removeprefix(_SQLITE)), _experiment_name()))
            _point_mlflow_at(uri)
            client = mlflow.MlflowClient()
            return Store(uri, _find_or_create_experiment(client, uri), client)


def _point_mlflow_at(uri: str) -> None:
    """Choose MLflow's store for this process; MLflow writes it into the environment too, where only a person's belongs."""
    import mlflow

    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if chosen is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def prove_store() -> None:
    """Write a tag to the configured store's experiment and read it back.

    Raises:
        TrackingError: If it cannot be opened, or gives back something else.
    """
    store = open_store()
    with explained_failures():
        written = str(time.time_ns())
        store.client.set_experiment_tag(store.experiment_id, _CHECKED, written)
        if (read := store.client.get_experiment(store.experiment_id).tags.get(_CHECKED)) != written:
            raise TrackingError(f"MLflow store {public_uri(store.uri)}: was given {written} to keep, and gave back {read}")


@contextmanager
def explained_failures() -> Iterator[None]:
    """Turn the failures of mlflow and of what it stands on into one line.

    Raises:
        TrackingError: Naming the store.
    """
    _prepare_environment()
    try:
        yield
    except ModuleNotFoundError as error:  # SQLAlchemy's, when it opens a database, or mlflow's, when it opens a bucket
        remedy = _REMEDIES.get(str(error.name), "for PostgreSQL install flux-tlora[postgres] and write postgresql+psycopg2://...")
        raise TrackingError(
            f"MLflow store {public_uri(store_uri())}: the Python package {error.name!r} is missing: {remedy}"
        ) from error
    except _failures() as error:
        first_line = public_uri(str(error).strip().split("\n")[0])[:300]
        reason = _TURNED_AWAY.get(_status(error)) or f"{first_line} (MLFLOW_TRACKING_URI chooses the store)"
        raise TrackingError(f"MLflow store {public_uri(store_uri())}: {reason}") from error


def _status(error: Exception) -> int:
    """Return what a server answered, as HTTP has it; 0 where none did."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code
    return int(error.get_http_status_code()) if isinstance(error, MlflowException) else 0


def _failures() -> tuple[type[Exception], ...]:
    """Return what mlflow raises, and what it lets through of the clients below it."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    failures = (MlflowException, RequestException, SQLAlchemyError)
    if "boto3" not in sys.modules:  # no client of S3 was used; it may not be installed
        return failures
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (*failures, Boto3Error, BotoCoreError, ClientError)


def _prepare_environment() -> None:
    """Set what mlflow reads, where nobody else has: no telemetry, little chatter, and seconds, not minutes, for a dead server."""
    telemetry_off()
    loopback_without_proxy()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")


@contextmanager
def _one_process_at_a_time() -> Iterator[None]:
    with (state_folder() / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find_or_create_experiment(client: "MlflowClient", uri: str) -> str:
    name = _experiment_name()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return client.create_experiment(name, artifact_location=_artifact_location(uri))
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow store {public_uri(uri)}: experiment {name!r} is deleted:"
            f" bring it back with 'mlflow experiments restore -x {experiment.experiment_id}'"
        )
    _say(missing_artifacts(experiment.artifact_location))
    return experiment.experiment_id


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def _say(line: str) -> None:
    if line:
        print(f"tracking: {line}", file=sys.stderr, flush=True)


def _artifact_location(uri: str) -> str | None:
    """Return a folder beside the database; left to MLflow, it would be whatever folder the process stands in."""
    if uri.startswith(_SQLITE):
        return (Path(uri.removeprefix(_SQLITE)).absolute().parent / ARTIFACTS).as_uri()
    if re.match(r"(postgresql|mysql|mssql)", uri):
        return (repository_root() / ARTIFACTS).as_uri()
    return None  # a server has its own
