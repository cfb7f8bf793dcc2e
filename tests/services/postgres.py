"""A throwaway PostgreSQL cluster: its own folder, its own port, gone with the test.

PostgreSQL refuses to run as root, so root hands the folder to the user `postgres`.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.services.processes import free_port

USER = "mason"
PASSWORD = "trowel-and-plumb"


@dataclass(frozen=True)
class Postgres:
    """A running cluster."""

    programs: Path
    port: int

    def make_database(self, name: str, driver: str) -> str:
        """Make a database and return its address; `driver` is the Python package that will open it."""
        self._run("createdb", name)
        return f"postgresql+{driver}://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def dump(self, name: str) -> str:
        """Return all that a database holds, as SQL."""
        return self._run("pg_dump", name)

    def _run(self, program: str, name: str) -> str:
        command = [str(self.programs / program), "--host=127.0.0.1", f"--port={self.port}", f"--username={USER}", name]
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@contextmanager
def open_postgres() -> Iterator[Postgres]:
    """Make and start a cluster, or skip the test with a line that names what is absent."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL below /usr/lib/postgresql: apt-get install postgresql")
    programs, port = found[-1].parent, free_port()
    with TemporaryDirectory(prefix="postgres-", dir="/tmp") as name:  # pytest closes its own folders to every other user
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "postgres", name], check=True)
        access = [f"--username={USER}", f"--pwfile={folder}/password", "--auth=scram-sha-256"]
        plain = ["--no-sync", "--encoding=UTF8", "--locale=C"]
        _run_as_postgres(str(programs / "initdb"), f"--pgdata={folder}/cluster", *access, *plain)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        control = [str(programs / "pg_ctl"), f"--pgdata={folder}/cluster", "--wait"]
        _run_as_postgres(*control, f"--log={folder}/log", f"--options={options} -c max_connections=200", "start")
        try:
            yield Postgres(programs, port)
        finally:
            _run_as_postgres(*control, "--mode=immediate", "stop")


def _run_as_postgres(*command: str) -> None:
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    result = subprocess.run(
        [*prefix, *command], cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    assert result.returncode == 0, result.stderr.decode()
