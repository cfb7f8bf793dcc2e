"""YAML as DVC means it: version 1.2, in which `no` is a word and `1e-4` a number. Everything of ours is read here.

DVC rewrites params.yaml (`dvc exp run --set-param`), and drops the quotes that only YAML 1.1 needs.
"""

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

_NEVER_WRAPPED = 1_000_000  # characters of a line


class NotYamlError(ValueError):
    """A text is not YAML; says where, in one line."""


def parse_yaml(text: str) -> Any:
    r"""Return what a text holds, as plain values; None for an empty one.

    Raises:
        NotYamlError: If it is not YAML 1.2, or gives a key twice.

    Example:
        >>> parse_yaml("precision: no\nrate: 1e-4")
        {'precision': 'no', 'rate': 0.0001}
    """
    return _load(YAML(typ="safe"), text)


def render_yaml(value: Any) -> str:
    """Return plain values as YAML, in the order that they have."""
    return _dump(YAML(), value)


def edit_yaml(text: str, changes: Mapping[tuple[str, str], Any]) -> str:
    """Return a text of sections with some values changed; comments, quotes and line breaks stay as they are.

    Args:
        text: A mapping of mappings.
        changes: (section, key) -> value, of keys that are there.

    Raises:
        NotYamlError: If the text is not YAML.
    """
    document = YAML()
    document.preserve_quotes = True
    sections = _load(document, text)
    for (section, key), value in changes.items():
        sections[section][key] = _in_a_row(value)
    return _dump(document, sections)


def _load(document: YAML, text: str) -> Any:
    try:
        return document.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise NotYamlError(f"{where}{error.problem or error.context}") from error
    except (YAMLError, ValueError) as error:  # a date such as 2026-13-45 is the latter
        raise NotYamlError(" ".join(str(error).split())) from error


def _dump(document: YAML, value: Any) -> str:
    document.width = _NEVER_WRAPPED
    out = io.StringIO()
    document.dump(value, out)
    return out.getvalue()


def _in_a_row(value: Any) -> Any:
    """Return a list so that it is written as `[a, b]`, as the shipped files have it."""
    if not isinstance(value, list):
        return value
    from ruamel.yaml.comments import CommentedSeq

    row = CommentedSeq(value)
    row.fa.set_flow_style()
    return row
