"""Where on this machine the servers of `make serve` listen."""

import socket
from contextlib import ExitStack
from dataclasses import dataclass

from tlora.errors import SettingsError

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Addresses:
    """Where the two servers listen."""

    prefect: str
    mlflow: str

    @property
    def prefect_api(self) -> str:
        """What clients are told."""
        return f"{self.prefect}/api"


def require_port(port: int, name: str, command: str = "serve") -> int:
    """Return a port that nobody listens on.

    Args:
        port: Which; 0 for any.
        name: What chooses another one on make's command line.
        command: What is made.

    Raises:
        SettingsError: If it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingsError(f"port {port} is taken: choose another with 'make {command} {name}=...'") from error
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Return so many different ports that nobody listens on."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
