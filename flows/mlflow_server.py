"""The MLflow server of `make serve`, on the store that commands of this repository open without a server too."""

import sys

from flows.addresses import HOST
from tasks.running.state_folder import repository_root
from tasks.tracking.store import open_store


def mlflow_server(database: str, artifacts: str, port: int) -> tuple[str, ...]:
    """Return the command that starts it.

    Args:
        database: Address of its database.
        artifacts: Where it keeps files; empty for the folder beside the database, whose store is opened here first.
        port: Where it listens.

    Raises:
        TrackingError: If the store cannot be opened.
    """
    if not artifacts:
        open_store()  # migrated, and the experiment's files beside it, before anybody else meets it
        artifacts = str(repository_root() / "mlartifacts")
    place = ("--backend-store-uri", database, "--artifacts-destination", artifacts)
    return (sys.executable, "-m", "mlflow", "server", *place, "--host", HOST, "--port", str(port), "--workers", "1")
