"""Where the pipeline keeps what is not an output: `.state`, shared by all worktrees of one repository."""

import json
import subprocess
from pathlib import Path

from tlora.runtime.atomic_file import write_json


def repository_root() -> Path:
    """Return the folder of the main worktree, so that runs in linked worktrees share its state and its store."""
    command = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return Path(answer.stdout.strip()).parent if answer.returncode == 0 else Path.cwd()


def state_folder(*parts: str) -> Path:
    """Return a folder below `.state`, made if it is missing."""
    folder = repository_root().joinpath(".state", *parts)
    folder.mkdir(parents=True, exist_ok=True)
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
