"""A run of its own: a git worktree on a branch of its own, so that overrides never touch the tree that a person works in.

The worktree shares DVC's cache, and `.state` and the MLflow store lie beside the common git directory: what was computed once
is restored, and what is registered is seen by all. The branch stays, with the parameters, the lock and the metrics.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

from flows.overrides import apply_overrides, check_overrides
from tasks.dvc_command import run_dvc
from tasks.git_history import BRANCHES
from tasks.running.cli import read_params
from tasks.running.git import ask_git, git
from tasks.running.state_folder import state_folder
from tlora.errors import SettingsError

PARAMS = Path("params.yaml")
OVERRIDE, RUN = "Override ", "Run "  # what the messages of a run's commits begin with
WRITTEN = ("dvc.lock", "data.dvc", "metrics/evaluate.json")  # what a run leaves for git


@contextmanager
def own_tree(run_id: str, overrides: Sequence[str]) -> Iterator[str]:
    """Work in a fresh worktree of HEAD with overridden parameters; yields the name of its branch.

    At the end what the run left (dvc.lock, metrics) is committed to the branch and the worktree removed. A run that is cut off
    leaves no branch; what it trained is in `.state`, where the next run finds it.

    Args:
        run_id: Unique; names branch and folder.
        overrides: Each `section.key=value`.

    Raises:
        SettingsError: If an override is wrong, or git or DVC refuse.
    """
    check_overrides(overrides, read_params(PARAMS))  # before anything is made
    branch, finished = f"{BRANCHES}/{run_id}", False
    try:
        with tree_of("HEAD", run_id, "-b", branch):
            apply_overrides(PARAMS, overrides)
            git("add", "--all")
            commit(f"{OVERRIDE}{', '.join(overrides)}")
            yield branch
            git("add", "--all")
            commit(f"{RUN}{run_id}")
            finished = True
    finally:
        if not finished and git("branch", "--list", branch):
            remove_branch(branch)


def is_unmerged(branch: str) -> bool:
    """Whether there is such a branch, and the working tree's does not hold all of it."""
    return bool(branch and git("branch", "--list", branch) and git("rev-list", "--max-count=1", f"HEAD..{branch}"))


def remove_branch(branch: str) -> None:
    """Remove the branch of a run that came to nothing."""
    git("branch", "--quiet", "-D", branch)


def files_added(tree: Path) -> list[str]:
    """Return the files in a worktree that neither a commit holds nor a run writes: somebody put them there.

    Raises:
        SettingsError: In git's words.
    """
    listed = git("-C", str(tree), "ls-files", "-z", "--others", "--exclude-standard")
    return [name for name in listed.split("\0") if name and name not in WRITTEN]


@contextmanager
def tree_of(revision: str, name: str, *options: str) -> Iterator[None]:
    """Work in a worktree of a commit, with the data that it names, for a while.

    Args:
        revision: The commit.
        name: Unique; of the folder.
        options: Of `git worktree add`.

    Raises:
        SettingsError: If git or DVC refuse.
    """
    here, cache, folder = Path.cwd(), run_dvc("cache", "dir"), state_folder("worktrees") / name
    git("worktree", "add", "--quiet", *options, str(folder), revision)
    try:
        with chdir(folder):
            _share_cache(here, cache)
            _check_out_data()
            yield
    finally:
        git("worktree", "remove", "--force", str(folder))


def commit(message: str, paths: Sequence[str] = ()) -> bool:
    """Commit what is staged, or these paths and nothing else, if there is anything; return whether there was.

    Somebody must sign, also on a machine where nobody has introduced himself to git.
    """
    if paths:
        git("add", *paths)
    only = ["--", *paths] if paths else []
    if not git("diff", "--cached", "--name-only", *only):
        return False
    git(*_signature(), "commit", "--quiet", "--no-verify", "--message", message, *only)
    return True


def _signature() -> list[str]:
    known = ask_git("config", "user.email")
    return [] if known else ["-c", "user.name=flux-tlora", "-c", "user.email=flux-tlora@localhost"]


def _share_cache(main: Path, cache: str) -> None:
    local = main / ".dvc" / "config.local"
    if local.exists():
        shutil.copy(local, ".dvc/config.local")
    run_dvc("config", "--local", "cache.dir", cache)


def _check_out_data() -> None:
    """Bring in what `.dvc` files track; outputs of stages come from DVC's cache when their stage is run."""
    tracked = git("ls-files", "*.dvc").splitlines()
    try:
        run_dvc("checkout", "--quiet", *tracked)
    except SettingsError as error:
        raise SettingsError(f"{error}: bring the data into DVC's cache first, with 'make pull' or 'dvc pull data.dvc'") from error
