"""What `register` leaves for whoever tells of the run: where it is shown, and how it compares with the champion.

It depends on the state of a store, so it lies in `.state` and is no output of a stage.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.running.state_folder import state_folder
from tlora.runtime.atomic_file import write_json


@dataclass(frozen=True)
class Registration:
    """A version and what it is compared with.

    Args:
        model: Name of the registered model.
        version: Its number.
        aliases: What points at it.
        run: Name of its MLflow run.
        run_address: Where the run is shown; empty for a store that no server shows.
        champion: Number of the champion's version; empty where there is none.
        comparable: Whether the champion was evaluated with the same prompts, seeds, pictures and evaluator.
        scores: Its means, by metric.
        champion_scores: The champion's.
    """

    model: str
    version: str
    aliases: list[str]
    run: str
    run_address: str
    champion: str
    comparable: bool
    scores: Mapping[str, float]
    champion_scores: Mapping[str, float]


def leave_registration(registration: Registration) -> None:
    """Write it to `.state`."""
    write_json(_file(), asdict(registration))


def read_registration() -> Registration | None:
    """Return the last one that was left, or None."""
    return Registration(**json.loads(_file().read_text(encoding="utf-8"))) if _file().exists() else None


def _file() -> Path:
    return state_folder() / "registration.json"
