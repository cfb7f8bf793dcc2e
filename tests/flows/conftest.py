"""A DVC repository as small as can be: a tracked folder and three shell stages, each written to be read."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clone import new_clone
from tests.flows.brickyard import ANNOUNCE, DVC_YAML
from tests.flows.served import Served, serving


@pytest.fixture
def brickyard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a fresh repository with data.dvc and the stages weigh, double and announce; the working folder is there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".dvc" / "site"))
    subprocess.run(["git", "init", "--quiet"], check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "brick.txt").write_text("brick\n")
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "announce.sh").write_text(ANNOUNCE)
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data"], check=True)
    return tmp_path


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return the servers and workers that all tests of this folder share, in a copy of this tree in which nothing has run."""
    with serving(new_clone(tmp_path_factory.mktemp("served") / "clone")) as everything:
        yield everything
