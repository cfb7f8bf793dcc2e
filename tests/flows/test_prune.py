"""What is pruned and what stays, on a real repository and a real store."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from flows import prune
from flows.worktree import tree_of
from tasks.tracking.store import open_store
from tests.flows.kiln import dvc, fill_kiln, git, make_repository, own_by_others, register_present, run_everything
from tlora.metadata.digests import FINGERPRINT, params_digest

pytestmark = pytest.mark.slow
LONG_AGO = time.time() - 100 * 86400
MADE_FROM = {"params": {}, "views": "v", "captions": "c"}


@pytest.fixture
def kiln(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    folder = tmp_path / "kiln"
    make_repository(folder)
    fill_kiln(folder)
    monkeypatch.chdir(folder)
    return folder


def leave(folder: Path, code: str, touched: float) -> Path:
    """Leave a training state that some code made."""
    folder.mkdir(parents=True)
    (folder / FINGERPRINT).write_text(json.dumps({**MADE_FROM, "data": "data-1", "code": code, "base_revision": "base-1"}))
    (folder / "state.safetensors").write_bytes(bytes(1_000_000))
    for path in (*folder.iterdir(), folder):
        os.utime(path, (touched, touched))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prune", *arguments])
    return prune.main()


def test_old_and_unreferenced_goes_when_told_to_and_what_an_alias_points_at_stays(
    kiln: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    states = kiln / ".state" / "train"
    old, pinned = leave(states / "old", "code-1", LONG_AGO), leave(states / "pinned", "code-2", LONG_AGO)
    recent, last = leave(states / "recent", "code-3", time.time() - 86400), leave(states / "last", "code-4", time.time())
    made_from = {"data_digest": "data-1", "code_digest": "code-2", "params_digest": params_digest(MADE_FROM)}
    register_present(open_store(), "champion", {**made_from, "base_revision": "base-1"})
    item = kiln / ".state/cache/latents/ab/abc.safetensors"
    item.parent.mkdir(parents=True)
    item.write_bytes(b"x")
    os.utime(item, (LONG_AGO, LONG_AGO))
    (kiln / "data" / "stone.txt").write_text("a stone that is taken out again\n")
    dvc(kiln, "commit", "--force", "--quiet", "data.dvc")
    run_everything()
    git(kiln, "checkout", "--quiet", "data.dvc")
    dvc(kiln, "checkout", "--force", "--quiet", "data.dvc")
    run_everything()
    kept = sorted(cached(kiln))

    assert run(monkeypatch) == 0
    said = capsys.readouterr().out
    assert f"would remove training state {old} (1.0 MB)" in said
    assert "prune: 2 older than 30 days, 1.0 MB" in said
    assert "nothing was removed; make prune YES=1 does it" in said
    assert all(path.exists() for path in (old, pinned, recent, last, item))
    assert sorted(cached(kiln)) == kept

    assert run(monkeypatch, "--yes") == 0
    assert [path.exists() for path in (old, pinned, recent, last, item)] == [False, True, True, True, False]
    gone = set(kept) - set(cached(kiln))
    assert any(text == "a stone that is taken out again\n" for text in gone)
    assert "brick\n" in cached(kiln)


def test_a_champions_data_stays_also_where_no_commit_names_it(kiln: Path, monkeypatch: pytest.MonkeyPatch):
    (kiln / "data" / "stone.txt").write_text("the champion's stone\n")
    dvc(kiln, "commit", "--force", "--quiet", "data.dvc")
    register_present(open_store(), "champion")
    git(kiln, "checkout", "--quiet", "data.dvc")
    dvc(kiln, "checkout", "--force", "--quiet", "data.dvc")
    assert run(monkeypatch, "--yes") == 0
    assert "the champion's stone\n" in cached(kiln)


def test_what_stashes_experiments_other_trees_and_unreadable_commits_name_stays(
    kiln: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """One old commit with two owners for data stops `dvc gc --all-commits`; what it names stays like all else."""
    for name in ("stash", "experiment", "tree", "unreadable", "reset"):
        (kiln / "data" / "stone.txt").write_text(f"{name}\n")
        dvc(kiln, "commit", "--force", "--quiet", "data.dvc")
        if name == "stash":
            git(kiln, "stash", "--quiet")
        elif name == "tree":
            git(kiln, "worktree", "add", "--quiet", "--detach", str(kiln.parent / "tree"))
            (kiln.parent / "tree" / "data.dvc").write_bytes((kiln / "data.dvc").read_bytes())
        else:
            graph = (kiln / "dvc.yaml").read_text()
            if name == "unreadable":
                (kiln / "dvc.yaml").write_text(
                    graph.replace("deps: [data, train.py, flows/clay]", "deps: [data.dvc, train.py, flows/clay]")
                )
            git(kiln, "commit", "--quiet", "--all", "--message", name)
            if name == "experiment":
                git(kiln, "update-ref", "refs/exps/ab/cdef/tidy-rook", "HEAD")
            if name == "unreadable":
                (kiln / "dvc.yaml").write_text(graph)
                git(kiln, "commit", "--quiet", "--all", "--message", "readable again")
            else:
                git(kiln, "reset", "--quiet", "--hard", "HEAD~1")
        git(kiln, "checkout", "--quiet", "data.dvc")
        dvc(kiln, "checkout", "--force", "--quiet", "data.dvc")
    assert run(monkeypatch, "--yes") == 0, capsys.readouterr().err
    assert {"stash\n", "experiment\n", "tree\n", "unreadable\n", "reset\n", "brick\n"} <= set(cached(kiln))


def test_imported_data_stays_and_runs_in_trees_of_their_own_still_find_it(
    kiln: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own_by_others(kiln, tmp_path / "source")
    (tmp_path / "source").rename(tmp_path / "away")
    assert run(monkeypatch, "--yes") == 0
    with tree_of("HEAD", "one", "--detach"):
        assert Path("data/brick.txt").read_text() == "brick\n"


def test_a_cache_outside_the_repository_is_left_as_it_is(
    kiln: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    dvc(kiln, "config", "--local", "cache.dir", str(tmp_path / "shared"))
    assert run(monkeypatch, "--yes") == 2
    assert f"DVC's cache is {tmp_path}/shared, outside this repository, where others may use it" in capsys.readouterr().err


def test_what_killed_runs_left_goes_but_no_file_that_somebody_put_there_and_no_branch_that_a_version_names(
    kiln: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name in ("killed", "visited"):
        git(kiln, "worktree", "add", "--quiet", "-b", f"run/{name}", f".state/worktrees/{name}")
        (kiln / ".state/worktrees" / name / "dvc.lock").write_text("half a run")
    (kiln / ".state/worktrees/visited/notes.txt").write_text("mine")
    for name in ("registered", "nothing", "continued"):
        git(kiln, "checkout", "--quiet", "-b", f"run/{name}")
        git(kiln, "commit", "--quiet", "--allow-empty", "--message", f"Run {name}")
        if name == "continued":
            git(kiln, "commit", "--quiet", "--allow-empty", "--message", "mine")
        git(kiln, "checkout", "--quiet", "main")
    register_present(open_store(), "champion", {"branch": "run/registered"})
    assert run(monkeypatch, "--yes", "--days", "-1") == 0
    said = capsys.readouterr().out
    assert "removing branch of a run run/nothing" in said
    assert ".state/worktrees/visited: holds files that no commit does (notes.txt): it is left as it is" in said
    assert [(kiln / ".state/worktrees" / name).exists() for name in ("killed", "visited")] == [False, True]
    left = git(kiln, "for-each-ref", "--format=%(refname:short)", "refs/heads/run/").splitlines()
    assert left == ["run/continued", "run/killed", "run/registered", "run/visited"]


def cached(folder: Path) -> list[str]:
    """Return the contents of what DVC's cache holds."""
    return [path.read_text() for path in sorted((folder / ".dvc/cache/files").rglob("*")) if path.is_file()]
