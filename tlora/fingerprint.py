"""Digests of what a result is a function of, and the first thing in which two of them differ."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def digest_of(value: Any) -> str:
    """Return the hash of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def code_digest(packages: Sequence[str], apart_from: Sequence[str] = ()) -> str:
    """Return the hash of the modules of some packages that are loaded by now, and of the versions of torch and diffusers.

    Args:
        packages: Top-level packages.
        apart_from: Beginnings of module names whose code cannot change a result.
    """
    files = {}
    for name, module in sys.modules.items():
        spec = getattr(module, "__spec__", None)
        own_name = spec.name if spec else name  # `python -m` runs a module under the name of __main__
        counts = own_name.split(".")[0] in packages and not own_name.startswith(tuple(apart_from))
        if counts and module.__file__:
            files[own_name] = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
    return digest_of({"files": files, "torch": version("torch"), "diffusers": version("diffusers")})


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
