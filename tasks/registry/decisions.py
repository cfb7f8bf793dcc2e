"""Decisions, a line of JSON each, in a file that git keeps: what was registered, promoted, refused, rolled back, by whom, why.

A registry can be lost, and a challenger that was refused must not become champion by that. The file lies in the main working
tree, whatever tree a run works in, so that nobody's branch holds it alone; whoever commits there commits it. Lines are added
and never changed, and git merges them by keeping both sides' (.gitattributes).
"""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tasks.git_history import read_history
from tasks.running.state_folder import repository_root, state_folder
from tlora.errors import SettingsError

FILE = "decisions.jsonl"

Event = Literal["registered", "promoted", "refused", "rolled back", "restored", "voted", "round closed"]


@dataclass(frozen=True)
class MadeOf:
    """From what a version can be registered again.

    Args:
        model: Section `model` of params.yaml.
        data: Digest that data.dvc named.
        outputs: Path -> digest of what the stages before wrote, as dvc.lock has it.
    """

    model: Mapping[str, Any]
    data: str
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Decision:
    """One line.

    Args:
        at: When, in UTC, so that the order of the texts is that of time.
        event: What happened.
        model: Name of the registered model.
        version: Its number then.
        adapter: Digest of the adapter's bytes, by which a version is known in any registry.
        told: Who decided (`by`), in which `run`, `why`, which `metrics`, on which `branch`; of a vote `prompt`, `seed`, what was
            `said`, and `against` which adapter; what there is of them.
        made_of: Of a registration.
    """

    at: str
    event: Event
    model: str
    version: str
    adapter: str
    told: Mapping[str, str] = field(default_factory=dict)
    made_of: MadeOf | None = None


def now() -> str:
    """Return the present moment as decisions are dated; MLflow takes no plus sign in the name of a tag."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def decisions_file() -> Path:
    """Return where decisions are written."""
    return repository_root() / FILE


def record(decision: Decision) -> None:
    """Add a line."""
    plain = {name: value for name, value in asdict(decision).items() if value not in ({}, None)}
    with (state_folder() / "decisions.lock").open("w") as lock, decisions_file().open("a+", encoding="utf-8") as file:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file.write(json.dumps(plain, ensure_ascii=False) + "\n")


def read_decisions() -> list[Decision]:
    """Return every decision that the file or any commit holds, in the order of time.

    Raises:
        SettingsError: If a line is not what `record` writes.
    """
    file = decisions_file()
    here = file.read_text(encoding="utf-8") if file.exists() else ""
    past = read_history([f":(top){FILE}"], file.parent) if (file.parent / ".git").exists() else ""
    lines = [*here.splitlines(), *past.splitlines()]
    distinct = {line for line in lines if line.startswith("{")}  # git says before each text which one it is
    return sorted((_read(line, file) for line in distinct), key=lambda decision: decision.at)


def _read(line: str, file: Path) -> Decision:
    try:
        plain = json.loads(line)
        made_of = plain.pop("made_of", None)
        return Decision(**plain, made_of=MadeOf(**made_of) if made_of else None)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{file}: {line[:60]!r} is no decision: put the line back as git has it") from error
