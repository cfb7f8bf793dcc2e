"""Where the pipeline keeps what is not an output: `.state`, shared by all trees that are made of one repository.

Others make trees too: git its worktrees, DVC a copy below `.dvc/tmp/exps` for every experiment that runs beside the
workspace, and deletes it afterwards with all that lies in it.
"""

import json
import time
from pathlib import Path

from tasks.running.git import GitError, git
from tlora.errors import SettingsError
from tlora.runtime.atomic_file import write_json

_EXPERIMENTS = (".dvc", "tmp", "exps")  # below it DVC makes its trees


def repository_root() -> Path:
    """Return the folder of the tree that a person works in, so that runs in trees made of it share its state and its store.

    Of worktrees of a bare repository, which have no main one, it is the bare repository.

    Raises:
        SettingsError: If there is a repository, and git refuses to read it.
    """
    tree = _main_tree(Path.cwd())
    maker = _maker_of(tree)
    return _main_tree(maker) if maker else tree


def _main_tree(folder: Path) -> Path:
    asked = ["--git-dir", "--git-common-dir"]
    answer = _git(folder, "rev-parse", "--path-format=absolute", *asked)
    if answer is None:
        return folder
    own, common = map(Path, answer.splitlines())
    if (
        own == common
    ):  # no linked worktree; of a submodule, and of `git init --separate-git-dir`, this lies elsewhere than the tree
        return Path(_git(folder, "rev-parse", "--show-toplevel") or folder)
    named = _git(common, "config", "--file", str(common / "config"), "core.worktree")  # a submodule's
    if named:
        return (common / named).resolve()
    return common.parent if common.name == ".git" else common


def _maker_of(tree: Path) -> Path | None:
    """Return the tree whose experiment DVC runs in this one, or None."""
    parts = tree.parts
    for end in range(len(parts) - len(_EXPERIMENTS)):
        if parts[end : end + len(_EXPERIMENTS)] == _EXPERIMENTS:
            return Path(*parts[:end])
    return None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says; None where it has nothing to say, such as outside any repository.

    Raises:
        SettingsError: If it refuses a repository that is there: another folder would be a guess.
    """
    try:
        return git(*arguments, folder=folder)
    except GitError as error:
        if error.said and "not a git repository (or any" not in error.said:
            raise SettingsError(
                f"{folder}: git does not read this repository, so it is not known where .state and the store are: {error.said}"
            ) from error
        return None


def state_folder(*parts: str) -> Path:
    """Return a folder below `.state`, made if it is missing."""
    folder = repository_root().joinpath(".state", *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def replaced_folder() -> Path:
    """Return a fresh folder below `.state/replaced`, named by the time, for what makes way; no two share one."""
    name, number = time.strftime("%Y%m%d-%H%M%S"), 1
    while True:
        folder = state_folder("replaced") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def exit_file() -> Path:
    """Return where a stage leaves how it ended: in its own worktree, so that stages which end at once swap no reasons."""
    return Path.cwd() / ".state" / "last_exit.json"


def remember_seconds(stage: str, seconds: float) -> None:
    """Keep how long a stage's last run took."""
    write_json(state_folder() / "seconds.json", remembered_seconds() | {stage: round(seconds, 1)})


def remembered_seconds() -> dict[str, float]:
    """Return how long the last run of each stage took; of stages that ran here."""
    file = state_folder() / "seconds.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # it is a convenience: the next runs write it anew
        return {}
