"""Digests of what a result is a function of, and the record of what it is not a function of."""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FIRST_PARTY = ("tasks", "tlora")
CANNOT_CHANGE_RESULTS = "tasks.tracking"


def digest_of(value: Any) -> str:
    """Return the hash of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def code_digest() -> str:
    """Return the hash of the first-party modules loaded by now and of the versions of torch and diffusers.

    Tracking is left out: what is shown of a run cannot change what it learns.
    """
    files = {}
    for name, module in sys.modules.items():
        spec = getattr(module, "__spec__", None)
        own_name = spec.name if spec else name  # `python -m` runs a stage under the name of __main__
        first_party = own_name.split(".")[0] in FIRST_PARTY and not own_name.startswith(CANNOT_CHANGE_RESULTS)
        if first_party and module.__file__:
            files[own_name] = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
    return digest_of({"files": files, "torch": version("torch"), "diffusers": version("diffusers")})


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


def first_difference(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> str | None:
    """Return the first field that two nested mappings disagree about, with both values, or None."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            deeper = first_difference(old, new, f"{prefix}{name}.")
            if deeper:
                return deeper
        elif old != new:
            return f"{prefix}{name} was {_short(old)}, is {_short(new)}"
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""
