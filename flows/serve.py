"""`make serve`: a Prefect server, its work pools and workers, the deployments, and an MLflow server, on this machine alone.

All of it lives as long as this process: Ctrl-C takes everything down, running stages after they have saved. What dies by itself
is started again. What was asked for and not yet begun is in the database (`.state/prefect`) and goes on when it is served again.
"""

import argparse
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from flows import processes
from flows.addresses import HOST, Addresses, require_port
from flows.check import Check, as_table, check_all
from flows.crew import POOLS, Crew, Member
from flows.login import CLIENT, shared_login
from flows.mlflow_server import mlflow_server
from flows.s3_server import BUCKET, ENDPOINT, S3Server, require_keys, s3_server
from tasks.running.state_folder import repository_root, state_folder
from tasks.tracking.store import store_uri
from tlora.errors import SettingsError, TloraError
from tlora.runtime.atomic_file import write_text

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # HUP: the terminal was closed
DEPLOYED = "deployed"
NOTIFY = "TLORA_NOTIFY_URL"  # told of runs that failed, were refused or wait; it may hold a token, so it is no option


def serve(prefect_port: int, mlflow_port: int, s3_port: int | None = None) -> None:
    """Bring everything up, say what is up, and keep it up until told to stop.

    Args:
        prefect_port: Where the Prefect server listens; 0 for any free port.
        mlflow_port: Where the MLflow server listens; 0 for any free port. Unused where MLFLOW_TRACKING_URI names a server.
        s3_port: Where an S3 server listens, 0 for any free port; None for no such server.

    Raises:
        SettingsError: If another one serves this repository, a port is taken, or something does not start or stay up.
    """
    logs = state_folder("serve")
    os.environ |= shared_login()
    with _only_one(logs):
        cut_off = _end_what_was_left()
        s3 = None if s3_port is None else _prepare_s3(s3_port)
        uri = store_uri()
        mlflow = uri if uri.startswith("http") else f"http://{HOST}:{require_port(mlflow_port, 'MLFLOW_PORT')}"
        addresses = Addresses(f"http://{HOST}:{require_port(prefect_port, 'PREFECT_PORT')}", mlflow)
        crew = Crew(_environment(addresses), _say, _let_go_on)
        processes.adopt_orphans()
        try:
            if s3 is not None:
                _start_s3(crew, s3, logs)
            own = None if mlflow == uri else (uri, s3.artifacts if s3 else "")
            _bring_up(crew, addresses, own, logs, cut_off)
            write_text(logs / "addresses", f"{addresses.prefect} {addresses.mlflow}\n")
            _announce(addresses, s3, logs)
            while True:
                crew.look_after()
        finally:
            _take_down()


def _end_what_was_left() -> list[str]:
    """End what an earlier one started here and, killed itself, could not end; return the ids of the runs among it."""
    left = processes.marked(_mark())
    if not left:
        return []
    _say(
        f"an earlier one was killed and has left {len(left)} processes ({', '.join(str(each.pid) for each in left)}): ending them"
    )
    return processes.take_down(lambda: processes.marked(_mark()), _say)


def _prepare_s3(port: int) -> S3Server:
    """Name an S3 server to everything that is started here, and a database of its own to MLflow: nothing of before is touched."""
    require_keys()
    folder = state_folder("s3")
    server = s3_server(folder / "bucket", require_port(port, "S3_PORT"))
    os.environ[ENDPOINT] = server.endpoint
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    return server


def _start_s3(crew: Crew, server: S3Server, logs: Path) -> None:
    member = Member("S3", server.command, logs / "s3.log", server.ready)
    crew.start(member)
    crew.wait_until_up(member)


def _bring_up(crew: Crew, addresses: Addresses, own: tuple[str, str] | None, logs: Path, cut_off: list[str]) -> None:
    """Start everything in order; `own` is where an MLflow server of ours keeps its database and its files."""
    python, port = (sys.executable, "-m"), addresses.prefect.rpartition(":")[2]
    start_server = (*python, "prefect", "server", "start", "--host", HOST, "--port", port)
    prefect = Member("Prefect", start_server, logs / "prefect.log", f"{addresses.prefect_api}/health")
    crew.start(prefect)
    if own is not None:
        start_mlflow = mlflow_server(*own, int(addresses.mlflow.rpartition(":")[2]))
        mlflow = Member("MLflow", start_mlflow, logs / "mlflow.log", f"{addresses.mlflow}/health")
        crew.start(mlflow)
        crew.wait_until_up(mlflow)
    crew.wait_until_up(prefect)
    os.environ |= {"PREFECT_API_URL": addresses.prefect_api, "MLFLOW_TRACKING_URI": addresses.mlflow}  # read on import
    from flows.server_setup import prepare

    prepare(POOLS, os.environ.get(NOTIFY, ""), cut_off)
    _deploy(crew.environment, logs)
    for pool, limit in POOLS.items():
        name = ("--name", f"{pool}-{socket.gethostname()}", "--limit", str(limit))
        start_worker = (*python, "prefect", "worker", "start", "--pool", pool, *name)
        crew.start(Member(f"worker {pool}", start_worker, logs / f"worker-{pool}.log", pool=pool))


def _let_go_on(pool: str, runs: list[str]) -> bool:
    from httpx import TransportError  # of prefect's client, where nobody answers

    from flows.server_setup import let_go_on

    try:
        let_go_on([pool], runs)
    except TransportError:
        return False
    return True


def _deploy(environment: Mapping[str, str], logs: Path) -> None:
    """Deploy prefect.yaml where it has changed; otherwise a schedule that somebody switched on stays on."""
    from flows.schedules import require_real_times

    file, marker = Path("prefect.yaml"), Path(environment["PREFECT_HOME"]) / DEPLOYED
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if marker.exists() and marker.read_text(encoding="utf-8") == digest:
        return
    require_real_times(file)
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
        processes.MARK: _mark(),
    }


def _mark() -> str:
    return str(repository_root().resolve())


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


def _announce(addresses: Addresses, s3: S3Server | None, logs: Path) -> None:
    started = datetime.now(UTC)
    bucket = [Check("S3", "ok", f"{s3.endpoint}, bucket {BUCKET}")] if s3 else []
    print(as_table([*bucket, *check_all(since=started), Check("logs", "ok", str(logs))]))
    print("In another terminal:")
    proxies = any(name.lower().endswith("_proxy") and name.lower() != "no_proxy" for name in os.environ)
    direct = "".join(f" {name}={os.environ['NO_PROXY']}" for name in ("NO_PROXY", "no_proxy")) if proxies else ""
    print(f"  export PREFECT_API_URL={addresses.prefect_api} MLFLOW_TRACKING_URI={addresses.mlflow}{direct}")
    if CLIENT in os.environ:
        print(f"  export {CLIENT}=...   # as here")
    if s3:
        print(f"  export {ENDPOINT}={s3.endpoint}   # and the two keys, as here")
        print(f"  dvc remote add --default --local trial s3://{BUCKET}/dvc")
    print("  prefect deployment run pipeline/on-demand")
    print("Ctrl-C ends all of it.", flush=True)


def _take_down() -> None:
    for signum in STOPS:
        signal.signal(signum, signal.SIG_IGN)
    processes.take_down(processes.below_this, _say)
    _say("all down")


def _say(line: str) -> None:
    """Print it; a terminal that was closed hears nothing more, and what is done about that goes on."""
    with suppress(OSError):
        print(f"serve: {line}", flush=True)


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description="Prefect, workers and MLflow on this machine.")
    parser.add_argument("--prefect-port", type=int, default=4200, help="0 for any free one")
    parser.add_argument("--mlflow-port", type=int, default=5000, help="0 for any free one")
    parser.add_argument("--store", choices=("s3",), help="serve an S3 store too, for DVC and for MLflow's files")
    parser.add_argument("--s3-port", type=int, default=8333, help="0 for any free one; with --store s3")
    options = parser.parse_args()
    for signum in STOPS:  # SIGINT too: what a script starts in the background comes deaf to it
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # under nohup it stays deaf to that
            signal.signal(signum, _interrupt)
    try:
        serve(options.prefect_port, options.mlflow_port, options.s3_port if options.store else None)
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
