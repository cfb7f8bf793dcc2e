"""Runs in a tree of their own, on the smallest DVC repository."""

import subprocess
from pathlib import Path

import pytest

from flows.stages import run_stage, stage_order
from flows.worktree import own_tree
from tlora.errors import SettingsError

pytestmark = pytest.mark.slow


@pytest.fixture
def committed(brickyard: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the repository with a parameter that `double` depends on, and everything committed."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@localhost")
    text = (brickyard / "dvc.yaml").read_text()
    (brickyard / "dvc.yaml").write_text(
        text.replace("    deps: [weight.txt]\n", "    deps: [weight.txt]\n    params: [kiln.heat]\n")
    )
    (brickyard / "params.yaml").write_text("kiln:\n  heat: 900 # degrees\n")
    (brickyard / ".gitignore").write_text("/data\n/.state\n/.dvc/site\n*.txt\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", "start")
    return brickyard


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def run_all() -> dict[str, str]:
    return {stage: run_stage(stage, print).outcome for stage in stage_order()}


def test_it_shares_the_cache_and_is_committed_to_its_branch(committed: Path):
    here = run_all()
    assert here["double"] == "Completed"
    git("add", "--all")
    git("commit", "--quiet", "--message", "run")
    (committed / "announce.sh").write_text("echo an edit that nobody has committed\n")
    with own_tree("abc", ["kiln.heat=1100"]) as branch:
        assert Path.cwd() == committed / ".state/worktrees/abc"
        there = run_all()
    assert there == {"data.dvc": "Skipped", "weigh": "Restored", "double": "Completed", "announce": "Restored"}
    assert Path.cwd() == committed
    assert not (committed / ".state/worktrees/abc").exists()
    assert git("log", "--format=%s", f"HEAD..{branch}").splitlines() == ["Run abc", "Override kiln.heat=1100"]
    assert git("show", f"{branch}:params.yaml") == "kiln:\n  heat: 1100 # degrees\n"
    assert "kiln.heat: 1100" in git("show", f"{branch}:dvc.lock")
    assert git("status", "--porcelain") == " M announce.sh\n"


def test_a_run_that_is_cut_off_leaves_neither_tree_nor_branch(committed: Path):
    def run_halfway() -> None:
        with own_tree("abc", ["kiln.heat=1100"]):
            run_stage("data.dvc", print)
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        run_halfway()
    assert git("branch", "--list", "run/*") == ""
    assert len(git("worktree", "list").splitlines()) == 1


def test_data_that_is_not_in_the_cache_is_said_and_nothing_is_left(committed: Path):
    (digest,) = (line.split()[-1] for line in (committed / "data.dvc").read_text().splitlines() if "md5:" in line)
    (committed / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink()
    with (
        pytest.raises(SettingsError, match="bring the data into DVC's cache first, with 'make pull'"),
        own_tree("abc", ["kiln.heat=1"]),
    ):
        pass
    assert not (committed / ".state/worktrees/abc").exists()
