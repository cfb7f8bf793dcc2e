"""An SSH server on loopback for the current user: its own host key, its own port, its own list of who may come in."""

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.services.processes import Server, free_port, listens

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class Ssh:
    """The server, which can be stopped and started, and the key that opens it."""

    server: Server
    port: int
    key: Path

    def address(self, folder: Path) -> str:
        """Return the address of a folder."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{folder}"


@contextmanager
def open_ssh(folder: Path) -> Iterator[Ssh]:
    """Start a server in an empty folder, or skip the test with a line that names what is absent."""
    sshd = shutil.which("sshd", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")
    if sshd is None:
        pytest.skip("no sshd: apt-get install openssh-server")
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(CONFIG.format(port=port, folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd locks itself in before anybody is let in
    server = Server([sshd, "-D", "-e", "-f", str(config)], folder / "log", lambda: listens(port))
    server.start()
    try:
        yield Ssh(server, port, folder / "user_key")
    finally:
        server.stop()
