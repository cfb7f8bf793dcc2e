"""The record of what a result is not a function of."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any


def circumstances() -> dict[str, Any]:
    """Return what a run record holds beside its inputs: commit, host, versions, time."""
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "host": platform.node(),
        "platform": platform.platform(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "accelerate", "safetensors")},
    }


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""
