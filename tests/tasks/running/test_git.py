import hashlib
import subprocess
from pathlib import Path

import pytest

from tasks.running.git import GitError, ask_git, git, text_at


@pytest.fixture(autouse=True)
def _repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)


def test_what_git_prints_comes_back_without_the_lines_end(tmp_path: Path):
    assert git("branch", "--show-current") == ask_git("branch", "--show-current") == "main"
    (tmp_path / "deep").mkdir()
    assert git("rev-parse", "--show-prefix", folder=tmp_path / "deep") == "deep/"
    assert git("hash-object", "--stdin", given="brick\n") == hashlib.sha1(b"blob 6\0brick\n").hexdigest()


@pytest.mark.parametrize("language", ["de_DE.UTF-8", "C"])
def test_a_refusal_is_the_line_that_says_why_in_english(language: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LC_ALL", language)
    Path("wall.txt").touch()
    with pytest.raises(GitError) as raised:
        git("checkout", "wall")
    assert str(raised.value) == "git checkout: pathspec 'wall' did not match any file(s) known to git"
    assert ask_git("checkout", "wall") == ""


def test_outside_any_repository_there_is_nothing_to_say(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert ask_git("rev-parse", "HEAD") == ""


def test_a_committed_text_comes_back_with_its_spaces(tmp_path: Path):
    (tmp_path / "wall.txt").write_bytes(b"\n brick\n\n")
    git("add", "wall.txt")
    git("-c", "user.name=ann", "-c", "user.email=ann@localhost", "commit", "--quiet", "--message", "wall")
    assert text_at("HEAD", Path("wall.txt")).encode() == b"\n brick\n\n"
    assert text_at("HEAD", Path("floor.txt")) == ""
