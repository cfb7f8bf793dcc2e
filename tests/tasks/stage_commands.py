"""The stages' commands and outputs, as dvc.yaml has them."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def options_of(stage: str) -> list[str]:
    """Return what a stage's command is given, after `python -m tasks.<stage>`."""
    return str(_graph()[stage]["cmd"]).split()[3:]


def outputs_of(stage: str) -> list[str]:
    """Return the paths that a stage writes."""
    listed = [*_graph()[stage]["outs"], *_graph()[stage].get("metrics", [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in listed]


def _graph() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
