"""`make serve`: a Prefect server, its work pools and workers, the deployments, and an MLflow server, on this machine alone.

All of it lives as long as this process: Ctrl-C takes everything down, running stages after they have saved. What was asked for
and not yet begun is in the database (`.state/prefect`) and goes on when it is served again.
"""

import argparse
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from flows import processes
from tasks.running.state_folder import repository_root, state_folder
from tasks.tracking.store import open_store, store_uri
from tlora.errors import SettingsError, TloraError
from tlora.runtime.atomic_file import write_text

HOST = "127.0.0.1"
POOLS = {"gpu": 1, "cpu": 4}  # work pool -> runs at once: one card takes one run, and what waits for a person takes no card
STARTUP_SECONDS = 180.0  # a loaded machine takes a minute
RUNS_SECONDS = 35.0  # a stage may take 25 to save
SERVERS_SECONDS = 15.0
DEPLOYED = "deployed"
NOTIFY = "TLORA_NOTIFY_URL"  # told of runs that failed, were refused or wait; it may hold a token, so it is no option


@dataclass(frozen=True)
class Addresses:
    """Where the two servers listen."""

    prefect: str
    mlflow: str

    @property
    def prefect_api(self) -> str:
        """What clients are told."""
        return f"{self.prefect}/api"


def serve(prefect_port: int, mlflow_port: int) -> None:
    """Bring everything up, say where it is, and stay until told to stop.

    Args:
        prefect_port: Where the Prefect server listens; 0 for any free port.
        mlflow_port: Where the MLflow server listens; 0 for any free port. Unused where MLFLOW_TRACKING_URI names a server.

    Raises:
        SettingsError: If another one serves this repository, a port is taken, or something does not start.
    """
    logs = state_folder("serve")
    with _only_one(logs):
        uri = store_uri()
        mlflow = uri if uri.startswith("http") else f"http://{HOST}:{_require_port(mlflow_port, 'MLFLOW_PORT')}"
        addresses = Addresses(f"http://{HOST}:{_require_port(prefect_port, 'PREFECT_PORT')}", mlflow)
        environment = _environment(addresses)
        processes.adopt_orphans()
        try:
            _bring_up(addresses, environment, None if mlflow == uri else uri, logs)
            write_text(logs / "addresses", f"{addresses.prefect} {addresses.mlflow}\n")
            _announce(addresses, logs)
            _stay(logs)
        finally:
            _take_down()


def _bring_up(addresses: Addresses, environment: dict[str, str], backend: str | None, logs: Path) -> None:
    prefect = [sys.executable, "-m", "prefect"]
    host_and_port = ["--host", HOST, "--port", addresses.prefect.rpartition(":")[2]]
    server = processes.start([*prefect, "server", "start", *host_and_port], logs / "prefect.log", environment)
    if backend is not None:
        open_store()  # migrated, and the experiment's files beside it, before anybody else meets it
        port = addresses.mlflow.rpartition(":")[2]
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend, "--host", HOST, "--port", port]
        command += ["--artifacts-destination", str(repository_root() / "mlartifacts"), "--workers", "1"]
        mlflow = processes.start(command, logs / "mlflow.log", environment)
        _wait_until_up(f"{addresses.mlflow}/health", mlflow, logs / "mlflow.log")
    _wait_until_up(f"{addresses.prefect_api}/health", server, logs / "prefect.log")
    os.environ["PREFECT_API_URL"] = addresses.prefect_api  # prefect reads it when it is imported
    from flows.server_setup import prepare

    prepare(POOLS, os.environ.get(NOTIFY, ""))
    _deploy(environment, logs)
    for pool, limit in POOLS.items():
        name = ["--name", f"{pool}-{socket.gethostname()}", "--limit", str(limit)]
        processes.start([*prefect, "worker", "start", "--pool", pool, *name], logs / f"worker-{pool}.log", environment)


def _deploy(environment: dict[str, str], logs: Path) -> None:
    """Deploy prefect.yaml where it has changed; otherwise a schedule that somebody switched on stays on."""
    file, marker = Path("prefect.yaml"), Path(environment["PREFECT_HOME"]) / DEPLOYED
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if marker.exists() and marker.read_text(encoding="utf-8") == digest:
        return
    with (logs / "deploy.log").open("wb") as log:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        deployed = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    if deployed.returncode:
        raise SettingsError(f"{file}: prefect deploy failed, see {logs / 'deploy.log'}")
    write_text(marker, digest)


def _environment(addresses: Addresses) -> dict[str, str]:
    """Return what every process is told: where the servers are, where the repository is, and where Prefect keeps its things."""
    home = os.environ.get("PREFECT_HOME") or str(state_folder("prefect"))
    patience = {"PREFECT_SERVER_DATABASE_TIMEOUT": "60"}  # seconds; SQLite on a loaded machine takes more than the usual 10
    return {**patience, **os.environ} | {
        "PREFECT_HOME": home,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, for jobs that nobody here has
        "PREFECT_API_URL": addresses.prefect_api,
        "MLFLOW_TRACKING_URI": addresses.mlflow,
        "TLORA_REPOSITORY": str(Path.cwd()),
    }


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of this repository's server; the kernel drops it when the holder dies, however it dies."""
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip()
            where = (folder / "addresses").read_text(encoding="utf-8").split() if (folder / "addresses").exists() else []
            shown = f": Prefect {where[0]}, MLflow {where[1]}" if len(where) == 2 else " and still starting"
            raise SettingsError(f"one is running already (process {holder}){shown}; end it with 'kill {holder}'") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        (folder / "addresses").unlink(missing_ok=True)
        yield


def _require_port(port: int, name: str) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingsError(f"port {port} is taken: choose another with 'make serve {name}=...'") from error
        return int(probe.getsockname()[1])


def _wait_until_up(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.5)
    raise SettingsError(f"{url} does not answer, see {log}")


def _announce(addresses: Addresses, logs: Path) -> None:
    print(f"Prefect:  {addresses.prefect}")
    print(f"MLflow:   {addresses.mlflow}")
    print(f"logs:     {logs}")
    print("In another terminal:")
    print(f"  export PREFECT_API_URL={addresses.prefect_api} MLFLOW_TRACKING_URI={addresses.mlflow}")
    print("  prefect deployment run pipeline/on-demand")
    print("Ctrl-C ends all of it.", flush=True)


def _stay(logs: Path) -> None:
    """Stay until a signal comes, or somebody who should stay has gone."""
    started = processes.children_of(os.getpid())
    while processes.wait_for_end(started, 1.0) == started:
        pass
    raise SettingsError(f"a server or a worker has ended by itself, see {logs}")


def _take_down() -> None:
    """Let what runs save and end, then end everything.

    The workers are held still meanwhile: they would begin the next run, and, told to stop, would hurry the ones that save.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    me = os.getpid()
    workers = [child for child in processes.children_of(me) if _is_worker(child)]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    runs = [run for worker in workers for run in processes.children_of(worker)]
    if runs:
        print(f"serve: {len(runs)} running, being asked to save", flush=True)
    processes.stop_all(runs, RUNS_SECONDS)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    processes.stop_all(processes.children_of(me), SERVERS_SECONDS)
    processes.kill_all_below(me)
    print("serve: all down", flush=True)


def _is_worker(process: int) -> bool:
    return b"\0worker\0start\0" in Path(f"/proc/{process}/cmdline").read_bytes()


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description="Prefect, workers and MLflow on this machine.")
    parser.add_argument("--prefect-port", type=int, default=4200, help="0 for any free one")
    parser.add_argument("--mlflow-port", type=int, default=5000, help="0 for any free one")
    options = parser.parse_args()
    for signum in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: what a script starts in the background comes deaf to it
        signal.signal(signum, _interrupt)
    try:
        serve(options.prefect_port, options.mlflow_port)
    except KeyboardInterrupt:
        return 0
    except (TloraError, OSError) as error:
        print(f"serve: error: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
