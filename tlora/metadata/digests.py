"""Digests of what a result is a function of, and the first thing in which two of them differ."""

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FINGERPRINT = "fingerprint.json"  # below a run's state: everything that its result is a function of


def digest_of(value: Any) -> str:
    """Return the hash of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def code_digest(module: str, packages: Sequence[str], apart_from: Sequence[str] = ()) -> str:
    """Return the hash of a module, of all that it imports, whatever else is loaded, and of torch's and diffusers' versions.

    Args:
        module: Full name of the module that makes the result.
        packages: Top-level packages whose code counts.
        apart_from: Beginnings of module names whose code cannot change a result; what they import is not followed.
    """
    files = {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in code_files(module, packages, apart_from).items()
    }
    return digest_of({"files": files, "torch": version("torch"), "diffusers": version("diffusers")})


def code_files(module: str, packages: Sequence[str], apart_from: Sequence[str] = ()) -> dict[str, Path]:
    """Return the files that `code_digest` hashes, by the names of their modules."""
    files: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in files or name.split(".")[0] not in packages or name.startswith(tuple(apart_from)):
            continue
        if file := _file_of(name):
            files[name] = file
            waiting += _imported_names(file.read_bytes())
    return files


def _file_of(module: str) -> Path | None:
    """Return where a module lies, without importing it, or None for a name that is not a module, such as a class of one."""
    package, *inner = module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], *inner)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imported_names(source: bytes) -> Iterator[str]:
    """Yield what a module may import: in `from a import b`, b may be a module or not. Relative imports are not used here."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def params_digest(fingerprint: Mapping[str, Any]) -> str:
    """Return the digest of what a run was asked for: of its fingerprint, the settings and how its inputs were encoded."""
    return digest_of([fingerprint["params"], fingerprint["views"], fingerprint["captions"]])


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
