"""What any commit ever said in certain files, and on which run's branch this is.

Any: of a branch, a tag, an experiment, a stash, or one that the reflog remembers.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tlora.errors import SettingsError

BRANCHES = "run"  # the branches of runs with overrides are run/<id>


def branch_of_run() -> str:
    """Return the branch that the working folder's tree is on, if it is a run's; empty for any other, and without git."""
    answer = subprocess.run(["git", "branch", "--show-current"], capture_output=True, text=True, check=False)
    branch = answer.stdout.strip()
    return branch if branch.startswith(f"{BRANCHES}/") else ""


def read_history(patterns: Sequence[str], folder: Path = Path()) -> str:
    """Return every text that files of these patterns have had, one after another.

    Args:
        patterns: Git's own, such as `:(top)decisions.jsonl`.
        folder: Anywhere in the repository.

    Raises:
        SettingsError: In git's words.
    """
    everything = ("log", "--all", "--reflog", "--full-history", "-m", "--raw", "--no-abbrev", "--format=", "--", *patterns)
    lines = _git(folder, "", *everything).splitlines()
    blobs = {line.split()[3] for line in lines if line.startswith(":")} - {"0" * 40}
    return _git(folder, "\n".join(sorted(blobs)), "cat-file", "--batch") if blobs else ""


def _git(folder: Path, given: str, *arguments: str) -> str:
    answer = subprocess.run(["git", "-C", str(folder), *arguments], input=given.encode(), capture_output=True, check=False)
    if answer.returncode:
        raise SettingsError(f"git {arguments[0]}: {answer.stderr.decode(errors='replace').strip()}")
    return answer.stdout.decode(errors="replace")
