"""What any commit ever said in certain files, and on which run's branch this is.

Any: of a branch, a tag, an experiment, a stash, or one that the reflog remembers.
"""

from collections.abc import Sequence
from pathlib import Path

from tasks.running.git import ask_git, git

BRANCHES = "run"  # the branches of runs with overrides are run/<id>


def branch_of_run() -> str:
    """Return the branch that the working folder's tree is on, if it is a run's; empty for any other, and without git."""
    branch = ask_git("branch", "--show-current")
    return branch if branch.startswith(f"{BRANCHES}/") else ""


def read_history(patterns: Sequence[str], folder: Path = Path()) -> str:
    """Return every text that files of these patterns have had, one after another.

    Args:
        patterns: Git's own, such as `:(top)decisions.jsonl`.
        folder: Anywhere in the repository.

    Raises:
        GitError: In git's words.
    """
    everything = ("log", "--all", "--reflog", "--full-history", "-m", "--raw", "--no-abbrev", "--format=", "--", *patterns)
    lines = git(*everything, folder=folder).splitlines()
    blobs = {line.split()[3] for line in lines if line.startswith(":")} - {"0" * 40}
    return git("cat-file", "--batch", folder=folder, given="\n".join(sorted(blobs))) if blobs else ""
