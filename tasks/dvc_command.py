"""DVC by its command line, for what is done to data by hand; and what its .dvc files say."""

import subprocess
import sys
from pathlib import Path

import yaml

from tlora.errors import PictureError


def run_dvc(*arguments: str) -> str:
    """Run a dvc command and return what it printed.

    Raises:
        PictureError: With DVC's own words, if it fails.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        words = [line.removeprefix("ERROR: ") for line in (answer.stderr.strip() or answer.stdout.strip()).splitlines()]
        raise PictureError(f"'dvc {' '.join(arguments)}' failed: {' '.join(words[:2]) or 'no reason given'}")
    return answer.stdout


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


def parse_dvc_file(text: str) -> tuple[str, str]:
    """Return path and digest that a .dvc file's text names.

    Raises:
        ValueError: If it is not what `dvc add` writes.
    """
    try:
        tracked = yaml.safe_load(text)["outs"][0]
        return str(tracked["path"]), str(tracked["md5"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise ValueError(str(error)) from error
