"""Where the pipeline keeps what is not an output: `.state`, shared by all worktrees of one repository."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any


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


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, keys sorted, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
