"""Overrides of params.yaml, such as `train.rank=32`: checked before anything is made, written where the value stands.

Comments stay, so that a branch that is merged later shows the changed values alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.running.cli import read_params
from tlora.errors import SettingsError
from tlora.runtime.atomic_file import write_text
from tlora.runtime.settings import nearest, parse_settings
from tlora.runtime.yaml_text import NotYamlError, edit_yaml, parse_yaml


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
    from tasks.check_settings.check import section_types  # it knows every stage: only runs with overrides wait for that

    for section, kind in section_types().items():
        if any(override.strip().startswith(f"{section}.") for override in overrides):
            parse_settings(kind, changed[section], f"overrides: {section}")


def apply_overrides(file: Path, overrides: Sequence[str]) -> None:
    """Write the values into a parameter file.

    Raises:
        SettingsError: As `parse_overrides` does.
    """
    wanted = parse_overrides(overrides, read_params(file))
    write_text(file, edit_yaml(file.read_text(encoding="utf-8"), wanted))


def _parse_value(override: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except NotYamlError as error:
        raise SettingsError(f"override {override!r}: {text!r} is not valid YAML") from error
