"""Stage function -> command: its sections of params.yaml, and one option per path.

`def train(settings: TrainSettings, model: ModelSpec, *, prompts: Path, adapters: Path)` becomes
`python -m tasks.train --prompts ... --adapters ...`: `settings` comes from the section that bears the stage's name, other
arguments from the sections of their own names. Whatever is wrong with what was given is one line and a
non-zero exit.
"""

import argparse
import errno
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, get_type_hints

from tasks.running.all_settings import require_all_settings
from tasks.running.loopback import loopback_without_proxy
from tasks.running.state_folder import exit_file, remember_seconds, repository_root
from tasks.running.telemetry import telemetry_off
from tlora.errors import InjectionError, SettingsError, TloraError
from tlora.runtime.atomic_file import write_json
from tlora.runtime.preemption import PREEMPTED, Preempted
from tlora.runtime.remedies import PIPELINE, explain
from tlora.runtime.settings import parse_settings, read_mapping

SETTINGS = "settings"  # the argument that comes from the section of the stage's own name
BAD_INPUT = 2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_stage(stage: Callable[..., None], arguments: list[str] | None = None, *, check: bool = False) -> None:
    """Run a stage as a command and exit.

    Args:
        stage: The stage function; its name is the name of its section.
        arguments: Command line, by default the process's own.
        check: First refuse what any later stage would refuse by its settings.
    """
    name = stage.__name__
    telemetry_off()
    loopback_without_proxy()
    _on_signal(_stop)
    started = time.monotonic()
    try:
        params, options = _read_arguments(stage, arguments)
        if check:
            require_all_settings(params)
        stage(**options)
        code, reason = 0, ""
    except Preempted as stop:
        code, reason = PREEMPTED, str(stop)
    except TloraError as error:
        code, reason = BAD_INPUT, explain(error, PIPELINE)
    except OSError as error:
        code, reason = BAD_INPUT, _explain(error)
    except KeyboardInterrupt:
        code, reason = 128 + signal.SIGINT, "stopped by the keyboard or a signal"
    _on_signal(signal.SIG_DFL)  # nothing is left that could be half done
    if code:
        print(f"{name}: {'stopped' if code == PREEMPTED else 'error'}: {reason}", file=sys.stderr, flush=True)
    _leave_exit(name, code, reason, time.monotonic() - started)
    sys.exit(code)


def read_params(path: Path) -> dict[str, Any]:
    """Read params.yaml as plain YAML.

    Raises:
        SettingsError: If the file is missing or is not a mapping of sections.
    """
    return read_mapping(path, "a mapping of sections", " (params/pocket.yaml is a complete one to copy)")


def read_section(path: Path, section: str) -> Mapping[str, Any]:
    """Return one section of params.yaml.

    Raises:
        SettingsError: If it is missing or is not a mapping.
    """
    params = read_params(path)
    if not isinstance(params.get(section), Mapping):
        raise SettingsError(f"{path}: section {section!r} is missing or is not a mapping")
    return params[section]


@contextmanager
def named_section(section: str) -> Iterator[None]:
    """Name file and section where a setting turns out wrong only beside the base model.

    Raises:
        SettingsError: With both before what was said.
    """
    try:
        yield
    except (SettingsError, InjectionError) as error:
        raise SettingsError(f"params.yaml: {section}: {error}") from error


def _read_arguments(stage: Callable[..., None], arguments: list[str] | None) -> tuple[Path, dict[str, Any]]:
    parser = argparse.ArgumentParser(prog=f"python -m tasks.{stage.__name__}", description=inspect.getdoc(stage))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="hyperparameters, a section per stage")
    hints, parameters = get_type_hints(stage), inspect.signature(stage).parameters
    for parameter in parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            _add_option(parser, parameter, hints[parameter.name])
    options = vars(parser.parse_args(arguments))
    params = options.pop("params")
    for parameter in parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            section = stage.__name__ if parameter.name == SETTINGS else parameter.name
            given = read_section(params, section)
            options[parameter.name] = parse_settings(hints[parameter.name], given, f"{params}: {section}")
    return params, options


def _add_option(parser: argparse.ArgumentParser, parameter: inspect.Parameter, hint: type) -> None:
    option = f"--{parameter.name.replace('_', '-')}"
    if hint is bool:
        parser.add_argument(option, action="store_true")
        return
    required = parameter.default is parameter.empty
    parser.add_argument(option, type=Path, required=required, default=None if required else parameter.default)


def _on_signal(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in _SIGNALS:
        signal.signal(number, handler)


def _stop(signum: int, frame: FrameType | None) -> None:
    _on_signal(signal.SIG_DFL)  # a second one stops at once
    raise KeyboardInterrupt


def _explain(error: OSError) -> str:
    reason = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return reason
    return f"{reason}: free some below {repository_root()} and run it again, it goes on where it was"


def _leave_exit(stage: str, code: int, reason: str, seconds: float) -> None:
    """Leave word for a flow's retry; DVC itself turns every failure into 255."""
    with suppress(OSError):  # the same full disk, for one; the reason has been said
        write_json(exit_file(), {"stage": stage, "code": code, "reason": reason, "pid": os.getpid()})
        if not code:
            remember_seconds(stage, seconds)
