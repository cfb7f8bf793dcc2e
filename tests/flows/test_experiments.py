"""DVC's experiments: what it writes into params.yaml still runs, and what runs in its own trees is shown where a person looks."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.plan import read_status, settings_in
from tasks.check_settings.check import parse_sections
from tasks.running.cli import read_params
from tasks.tracking.store import open_store
from tests.flows.kiln import fill_kiln, git, make_repository
from tests.tasks.filled_registry import NAME

ROOT = Path(__file__).parents[2]


@pytest.fixture
def kiln(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a pipeline of seconds with the shipped settings, run once; the working folder is there."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in (("NAME", "test"), ("EMAIL", "test@localhost")):
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    make_repository(tmp_path)
    fill_kiln(tmp_path)
    shutil.copy(ROOT / "params/pocket.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    dvc("repro")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "made")
    return tmp_path


def dvc(*arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert answer.returncode == 0, answer.stdout
    return answer.stdout


def queued(*changes: str) -> str:
    dvc("exp", "run", "--queue", *changes)
    return dvc("exp", "run", "--run-all")


WAYS: dict[str, Callable[..., str]] = {
    "in the workspace": lambda *changes: dvc("exp", "run", *changes),
    "beside it": lambda *changes: dvc("exp", "run", "--temp", *changes),
    "queued": queued,
}


@pytest.mark.slow
def test_experiments_run_in_every_way_are_registered_in_the_workspaces_store_and_can_be_applied(kiln: Path) -> None:
    before = (kiln / "params.yaml").read_text()
    for number, (way, run) in enumerate(WAYS.items(), 2):
        run("-S", f"train.rank={16 + number}", "-S", "train.adam_epsilon=1e-8", "--name", f"try-{number}")
        found = open_store().client.search_model_versions(f"name = '{NAME}'")
        assert sorted(int(version.version) for version in found) == list(range(1, number + 1)), way
        dvc("exp", "apply", f"try-{number}")
        parse_sections(read_params(Path("params.yaml")), "params.yaml")
        assert settings_in(read_status()) == []
        shutil.copyfile(ROOT / "params/pocket.yaml", "params.yaml")
        assert settings_in(read_status()) == [f"params.yaml: train.rank {16 + number} -> 16"]
        git(kiln, "checkout", "--quiet", "--", ".")
    assert (kiln / "params.yaml").read_text() == before
    shown = dvc("exp", "show", "--csv", "--no-pager")
    assert all(f"try-{number}" in shown for number in (2, 3, 4))
    assert [path.name for path in (kiln / ".dvc/tmp/exps").rglob("mlflow.db")] == []
