"""State and store lie where a person's are, whoever made the tree that a stage runs in."""

import subprocess
from pathlib import Path

import pytest

from tasks.running.state_folder import replaced_folder, repository_root
from tlora.errors import SettingsError


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def repository(folder: Path, *options: str) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch", "main", *options)
    (folder / "file").write_text("x")
    git(folder, "add", "file")
    git(folder, "commit", "--quiet", "--message", "start")
    return folder


def root_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "deep").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "deep")
    return repository_root()


def test_a_linked_worktree_shares_the_main_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    main = repository(tmp_path / "main")
    git(main, "worktree", "add", "--quiet", str(tmp_path / "linked"))
    assert root_from(main, monkeypatch) == root_from(tmp_path / "linked", monkeypatch) == main


@pytest.mark.parametrize("place", ["standalone/tmp1", "tmp2"])
def test_an_experiment_that_dvc_runs_beside_the_workspace_shares_the_workspace(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    main = repository(tmp_path / "main")
    git(main, "worktree", "add", "--quiet", str(tmp_path / "linked"))
    for tree in (main, tmp_path / "linked"):
        assert root_from(repository(tree / ".dvc/tmp/exps" / place), monkeypatch) == main


def test_a_submodule_and_a_worktree_of_it_have_the_submodules_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inner, outer = repository(tmp_path / "inner"), repository(tmp_path / "outer")
    git(outer, "submodule", "--quiet", "add", str(inner), "parts/inner")
    git(outer / "parts/inner", "worktree", "add", "--quiet", str(tmp_path / "linked"))
    assert root_from(outer / "parts/inner", monkeypatch) == outer / "parts/inner"
    assert root_from(tmp_path / "linked", monkeypatch) == outer / "parts/inner"


def test_worktrees_of_a_bare_repository_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    git(tmp_path, "clone", "--quiet", "--bare", str(repository(tmp_path / "origin")), "project.git")
    for name in ("one", "two"):
        git(tmp_path / "project.git", "worktree", "add", "--quiet", "-b", name, str(tmp_path / name))
        assert root_from(tmp_path / name, monkeypatch) == tmp_path / "project.git"


def test_a_shallow_clone_and_a_tree_whose_git_folder_lies_elsewhere_have_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    main = repository(tmp_path / "main", "--separate-git-dir", str(tmp_path / "elsewhere"))
    git(tmp_path, "clone", "--quiet", "--depth", "1", main.as_uri(), "shallow")
    assert root_from(main, monkeypatch) == main
    assert root_from(tmp_path / "shallow", monkeypatch) == tmp_path / "shallow"


def test_without_a_repository_it_is_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert repository_root() == tmp_path


def test_a_repository_that_git_refuses_is_said_and_no_other_folder_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    main = repository(tmp_path / "main")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(SettingsError, match=r"main/deep: git does not read this repository.*dubious ownership"):
        root_from(main, monkeypatch)


def test_a_worktree_whose_main_one_has_moved_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    main = repository(tmp_path / "main")
    git(main, "worktree", "add", "--quiet", str(tmp_path / "linked"))
    main.rename(tmp_path / "moved")
    with pytest.raises(SettingsError, match="git does not read this repository"):
        root_from(tmp_path / "linked", monkeypatch)


def test_what_makes_way_twice_in_a_second_is_kept_in_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folders = [replaced_folder() for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.parent == tmp_path / ".state/replaced" for folder in folders)
