"""One lock for all users of a machine, tried as two of them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HOLD = """\
import os, pwd, sys
from tlora.runtime.device_lock import hold_device
user = pwd.getpwnam(sys.argv[1])
os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid), os.umask(0o077)
with hold_device("cpu", "train"):
    print("held", flush=True)
    input()
"""
ROOT = Path(__file__).parents[3]
FIRST, SECOND = "nobody", "daemon"


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a folder like /tmp that two users can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        yield folder


def hold(folder: Path, user: str) -> "subprocess.Popen[str]":
    """Hold the device as a user, until a line is written; the code is read before, since this tree may be closed to others."""
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, "-c", HOLD, user], cwd=folder, env=environment, text=True, **pipes)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_second_user_waits_for_the_first_and_then_has_the_device(shared: Path) -> None:
    with hold(shared, FIRST) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        assert (shared / "tlora-cpu.lock").stat().st_mode & 0o777 == 0o666
        with hold(shared, SECOND) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == f"waiting for cpu, held by process {first.pid} (train in {shared})\n"
            first.communicate("\n")
            assert second.stdout.readline() == "held\n"
            second.communicate("\n")
    assert (first.returncode, second.returncode) == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize(("mode", "said"), [(0o644, "held"), (0o600, "is another user's and closed to you")])
def test_a_file_made_with_one_users_umask_is_used_or_named(shared: Path, mode: int, said: str) -> None:
    lock = shared / "tlora-cpu.lock"
    lock.touch()
    shutil.chown(lock, FIRST)
    lock.chmod(mode)
    with hold(shared, SECOND) as second:
        assert said in second.communicate("\n")[0]
