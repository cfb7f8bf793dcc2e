"""Runs the project's own commands, as a person at a terminal would, and tells what they said. There is no shell in between."""

import os
import subprocess
import sys
from collections.abc import Sequence

from flows.runs import client_environment
from tlora.errors import TloraError

MINUTES = 30.0


class CommandError(TloraError):
    """A command refused, in its own words."""


def run_command(module: str, *arguments: str) -> list[str]:
    """Run `python -m module` and return the lines that it printed.

    Raises:
        CommandError: With its last line, if it fails or does not end.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        answer = subprocess.run(
            command,
            env=os.environ | client_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=60 * MINUTES,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{module} has not ended in {MINUTES:.0f} minutes, and was ended") from error
    if answer.returncode:
        raise CommandError(_last(answer.stderr) or _last(answer.stdout) or f"{module} ended with {answer.returncode}")
    return [line for line in answer.stdout.splitlines() if line.strip()]


def option(name: str, value: str) -> Sequence[str]:
    """Return an option with its value as one word, so that a value which begins with a dash is none; nothing for no value."""
    return [f"--{name}={value}"] if value else []


def _last(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
