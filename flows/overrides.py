"""Overrides of params.yaml, such as `train.rank=32`: checked before anything is made, written where the value stands.

The file is edited line by line, so that comments stay and a branch that is merged later shows the changed values alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from tasks.running.cli import SETTINGS, read_params
from tlora.errors import SettingsError
from tlora.runtime.atomic_file import write_text
from tlora.runtime.settings import nearest, parse_settings


def parse_overrides(overrides: Sequence[str], params: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return (section, key) -> value.

    Args:
        overrides: Each `section.key=value`, the value as YAML has it.
        params: What they override.

    Raises:
        SettingsError: If one is spelt otherwise, or names no setting that there is.

    Example:
        >>> parse_overrides(["train.rank=32"], {"train": {"rank": 16}})
        {('train', 'rank'): 32}
    """
    parsed = {}
    for override in overrides:
        name, given, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (given and dot):
            raise SettingsError(f"override {override!r}: must be section.key=value, such as train.rank=32")
        if not isinstance(params.get(section), Mapping):
            raise SettingsError(f"override {override!r}: no section {section!r}{nearest(section, sorted(params))}")
        if key not in params[section]:
            raise SettingsError(f"override {override!r}: unknown key {key!r}{nearest(key, sorted(params[section]))}")
        parsed[section, key] = _parse_value(override, text)
    return parsed


def check_overrides(overrides: Sequence[str], params: Mapping[str, Any]) -> None:
    """Refuse what a stage would refuse, before anything is made or run.

    Args:
        overrides: Each `section.key=value`.
        params: What they override.

    Raises:
        SettingsError: As `parse_overrides` does, or if a section does not hold with them.
    """
    changed = {section: dict(values) for section, values in params.items() if isinstance(values, Mapping)}
    for (section, key), value in parse_overrides(overrides, params).items():
        changed[section][key] = value
    for section, kind in _section_types().items():
        if any(override.strip().startswith(f"{section}.") for override in overrides):
            parse_settings(kind, changed[section], f"overrides: {section}")


def _section_types() -> dict[str, type]:
    """Return what sections are read as. They are imported here: only runs with overrides wait for that."""
    from tasks.cache_latents import cache_latents
    from tasks.cache_prompts import cache_prompts
    from tasks.evaluate.stage import evaluate
    from tasks.registry.verdict import PromoteSettings
    from tasks.train.stage import train
    from tasks.validate.stage import validate

    found: dict[str, type] = {"promote": PromoteSettings}
    for stage in (validate, cache_prompts, cache_latents, train, evaluate):
        kinds = {name: kind for name, kind in get_type_hints(stage).items() if isinstance(kind, type) and is_dataclass(kind)}
        found |= {stage.__name__ if name == SETTINGS else name: kind for name, kind in kinds.items()}
    return found


def apply_overrides(file: Path, overrides: Sequence[str]) -> None:
    """Write the values into a parameter file.

    Raises:
        SettingsError: As `parse_overrides` does, or if the file is laid out so that a value cannot be found.
    """
    params = read_params(file)
    wanted = parse_overrides(overrides, params)
    text = file.read_text(encoding="utf-8")
    for (section, key), value in wanted.items():
        params[section] = {**params[section], key: value}
        text = _set_value(text, section, key, value)
    if yaml.safe_load(text) != params:
        names = ", ".join(f"{section}.{key}" for section, key in wanted)
        raise SettingsError(f"{file}: {names}: write each section's keys below it, a line each, so that they can be overridden")
    write_text(file, text)


def _parse_value(override: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"override {override!r}: {text!r} is not valid YAML") from error


def _set_value(text: str, section: str, key: str, value: Any) -> str:
    """Replace the value in its line; the comment behind it stays."""
    shown = yaml.safe_dump([value], default_flow_style=True, width=10_000).strip()[1:-1]
    above = rf"^{re.escape(section)}:[^\n]*\n(?:(?:[ \t][^\n]*|#[^\n]*)?\n)*?"
    line = re.compile(rf"(?P<head>{above}[ \t]+{re.escape(key)}:)[^\n]*?(?P<comment>[ \t]+#[^\n]*)?$", re.MULTILINE)
    return line.sub(lambda match: f"{match['head']} {shown}{match['comment'] or ''}", text, count=1)
