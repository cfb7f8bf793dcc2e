"""git, by its command line: what it prints, or its refusal in its own words."""

import os
import subprocess
from pathlib import Path

from tlora.errors import SettingsError


class GitError(SettingsError):
    """What git refused.

    Args:
        command: Such as `checkout`.
        said: Its reason; empty where it gave none.
    """

    def __init__(self, command: str, said: str) -> None:
        super().__init__(f"git {command}: {said or 'no reason given'}")
        self.said = said


def git(*arguments: str, folder: Path = Path(), given: str = "") -> str:
    """Run git and return what it prints, without the spaces around it.

    Args:
        arguments: Its own.
        folder: Where it runs.
        given: What it reads.

    Raises:
        GitError: In git's words, in English.
    """
    return _run(*arguments, folder=folder, given=given).strip()


def ask_git(*arguments: str) -> str:
    """Return what git says in the working folder; empty where it has nothing to say, such as outside any repository."""
    try:
        return git(*arguments)
    except GitError:
        return ""


def text_at(commit: str, file: Path) -> str:
    """Return a file's text as a commit has it, with its spaces; empty if it has none.

    Args:
        commit: Any name of one.
        file: Relative to the working folder.
    """
    try:
        return _run("show", f"{commit}:./{file}")
    except GitError:
        return ""


def _run(*arguments: str, folder: Path = Path(), given: str = "") -> str:
    words, english = ["git", "-C", str(folder), *arguments], os.environ | {"LC_ALL": "C.UTF-8"}
    answer = subprocess.run(words, input=given, capture_output=True, text=True, errors="replace", check=False, env=english)
    if answer.returncode:
        lines = [line for line in answer.stderr.splitlines() if line.strip() and not line.startswith("hint: ")]
        said = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1] if lines else "")
        raise GitError(arguments[0], said.removeprefix("fatal: ").removeprefix("error: "))
    return answer.stdout
