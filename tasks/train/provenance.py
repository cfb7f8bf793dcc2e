"""The record of what a result is not a function of."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from tasks.running.git import ask_git


def circumstances() -> dict[str, Any]:
    """Return what a run record holds beside its inputs: commit, host, versions, time."""
    return {
        "git_commit": ask_git("rev-parse", "HEAD"),
        "git_dirty": bool(ask_git("status", "--porcelain", "--untracked-files=no")),
        "host": platform.node(),
        "platform": platform.platform(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "accelerate", "safetensors")},
    }
