"""DVC by its command line, and what its .dvc files say."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tlora.errors import PictureError, SettingsError
from tlora.runtime.settings import read_mapping
from tlora.runtime.yaml_text import NotYamlError, parse_yaml


def run_dvc(*arguments: str) -> str:
    """Run a command of DVC's that is over in seconds, and return what it prints.

    Raises:
        SettingsError: In DVC's words.
    """
    answer = subprocess.run(dvc_command(*arguments), capture_output=True, text=True, check=False)
    if answer.returncode:
        opening = " ".join([line for line in answer.stderr.splitlines() if line][:2])  # what is wrong, and where
        reason = last_error(answer.stderr) or opening or "no reason given"
        raise SettingsError(f"'dvc {' '.join(arguments)}' in {Path.cwd()}: {reason}")
    return answer.stdout.strip()


def dvc_command(*arguments: str) -> list[str]:
    """Return how DVC is called: the one that this Python has, whatever the PATH says."""
    return [sys.executable, "-m", "dvc", *arguments]


def last_error(output: str) -> str:
    """Return the last error that DVC printed, without its mark; empty where it printed none."""
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else ""


def read_dvc_file(file: Path) -> tuple[str, str]:
    """Return path and digest of the folder that a .dvc file stands for.

    Raises:
        PictureError: If it is missing, or not what `dvc add` writes.
    """
    if not file.exists():
        raise PictureError(f"{file}: no such file: version the pictures with 'dvc add {file.stem}'")
    try:
        return parse_dvc_file(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PictureError(f"{file}: not what 'dvc add' writes: {error}") from error


def is_import(file: Path) -> bool:
    """Whether a .dvc file stands for what others own (`dvc import`), and not for what was added here.

    Raises:
        SettingsError: If it cannot be read.
    """
    return file.exists() and bool(read_mapping(file, "a mapping, as DVC writes it", "").get("deps"))


def local_changes(folder: str, kinds: Iterable[str] = ("added", "modified", "deleted", "renamed", "unknown")) -> list[str]:
    """Return what below a tracked folder is not as DVC recorded it. DVC's cache is asked alone, not where an import is from.

    Args:
        folder: As its .dvc file names it, from the working folder.
        kinds: Of DVC's words for what happened to a file.

    Raises:
        SettingsError: In DVC's words.
    """
    found: dict[str, Any] = json.loads(run_dvc("--wait-for-lock", "data", "status", "--json", "--granular") or "{}").get(
        "uncommitted", {}
    )
    entries = [entry for kind in kinds for entry in found.get(kind, [])]
    paths = [entry["new"] if isinstance(entry, dict) else str(entry) for entry in entries]
    below = [path for path in paths if path.startswith(f"{folder}/") and path != f"{folder}/"]
    return sorted(below) or [path for path in paths if path.rstrip("/") == folder]


def parse_dvc_file(text: str) -> tuple[str, str]:
    """Return path and digest that a .dvc file's text names.

    Raises:
        ValueError: If it is not what `dvc add` writes.
    """
    try:
        tracked = parse_yaml(text)["outs"][0]
        return str(tracked["path"]), str(tracked["md5"])
    except (NotYamlError, KeyError, IndexError, TypeError) as error:
        raise ValueError(str(error)) from error
