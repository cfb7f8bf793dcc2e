"""MLflow's own server, which hands artifacts through: its clients see neither the database nor the files."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.crew import answers
from tests.documented import blocks
from tests.services.processes import Server, free_port

_NOTHING_MORE: Mapping[str, str] = {}
ADMIN = "foreman"
PASSWORDS = {name: f"{name}s-" + "mortar-" * 3 for name in (ADMIN, "trainer", "promoter", "reader")}  # no file holds one


@dataclass(frozen=True)
class Tracking:
    """The server, its address, and the folder behind its artifact proxy, where they are kept in one."""

    server: Server
    url: str
    vault: Path


@contextmanager
def open_tracking(
    folder: Path, database: str, artifacts: str = "", more: Mapping[str, str] = _NOTHING_MORE, *, login: bool = False
) -> Iterator[Tracking]:
    """Start `mlflow server` on a database, with its artifacts in a folder of its own or at an address.

    Args:
        folder: An empty one.
        database: Its address.
        artifacts: Where files are kept; by default in a folder.
        more: What the server finds in its environment, beside what is there.
        login: Whether it asks for a name and a password; `make_accounts` makes all but the administrator's.
    """
    port, vault = free_port(), folder / "vault"
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", artifacts or str(vault)]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"} | more
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # as `make serve` has it
    environment.pop("MLFLOW_TRACKING_URI", None)
    if login:
        command += ["--app-name", "basic-auth"]
        environment |= _accounts(folder)
    server = Server(command, folder / "log", lambda: answers(f"{url}/health"), environment, folder)
    server.start()
    try:
        yield Tracking(server, url, vault)
    finally:
        server.stop(signal.SIGKILL)


def account(tracking: Tracking, name: str, password: str = "") -> dict[str, str]:
    """Return what somebody with an account has in the environment."""
    secret = password or PASSWORDS[name]
    return {"MLFLOW_TRACKING_URI": tracking.url, "MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": secret}


def make_accounts(tracking: Tracking, model: str) -> None:
    """Make the accounts as docs/logins.md prints it, for a model."""
    (snippet,) = [block.text for block in blocks() if block.document == "docs/logins.md" and block.language == "python"]
    given = {f"PASSWORD_OF_{name.upper()}": password for name, password in PASSWORDS.items()}
    command = [sys.executable, "-c", snippet.replace('model = "tlora-pocket-flux-brick"', f'model = "{model}"')]
    made = subprocess.run(command, env=os.environ | given | account(tracking, ADMIN), capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def _accounts(folder: Path) -> dict[str, str]:
    settings = ["[mlflow]", "default_permission = READ", "auth_cache_ttl_seconds = 60"]  # as docs/logins.md has them
    (folder / "accounts.ini").write_text("\n".join([*settings, f"database_uri = sqlite:///{folder / 'accounts.db'}\n"]))
    admin = {"MLFLOW_AUTH_ADMIN_USERNAME": ADMIN, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS[ADMIN]}
    return {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "accounts.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "brick" * 5, **admin}
