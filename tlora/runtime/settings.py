"""Turn a mapping read from YAML into frozen settings, or say in one line what is wrong with it.

One dataclass per concern holds names, types and defaults; params.yaml sections and the flat config both parse into those, so
a default lives once.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tlora.errors import SettingsError
from tlora.runtime.ranges import require_finite
from tlora.runtime.yaml_text import NotYamlError, parse_yaml

T = TypeVar("T")


def parse_settings(cls: type[T], given: Mapping[str, Any], where: str, *, complete: bool = True) -> T:
    """Build a frozen settings dataclass from a mapping.

    Args:
        cls: The dataclass. A field that is itself a dataclass takes its own fields from the same flat mapping.
        given: Names and values, flat.
        where: File and section, for the message, such as `params.yaml: train`.
        complete: Whether every field must be given; otherwise the dataclass's default stands in.

    Raises:
        SettingsError: Naming the place, the key and, for an unknown key, the nearest known one.
    """
    known = field_names(cls)
    for name in given:
        if name not in known:
            raise SettingsError(f"{where}: unknown key {name!r}{nearest(str(name), known)}")
    missing = [name for name in known if name not in given]
    if complete and missing:
        raise SettingsError(f"{where}: missing key {missing[0]!r}")
    return _build(cls, given, where)


def read_mapping(path: Path, what: str, if_missing: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, as plain values.

    Args:
        path: The file.
        what: What it must be, such as `a mapping of sections`.
        if_missing: What to do where there is no such file.

    Raises:
        SettingsError: If it is missing, cannot be read, is not YAML, or holds anything else.
    """
    try:
        given = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file{if_missing}") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (NotYamlError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(given, Mapping):
        raise SettingsError(f"{path}: must be {what}")
    return dict(given)


def field_names(cls: type) -> list[str]:
    """Return the flat names of a settings dataclass, those of nested dataclasses included."""
    names = []
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        names += field_names(hint) if isinstance(hint, type) and dataclasses.is_dataclass(hint) else [field.name]
    return names


def require_choices(settings: object) -> None:
    """Check the fields of a settings dataclass that take one of a few words, also where no mapping was parsed.

    Raises:
        ValueError: Naming the field and its words.
    """
    for name, hint in get_type_hints(type(settings)).items():
        if get_origin(hint) is Literal and (value := getattr(settings, name)) not in get_args(hint):
            raise ValueError(f"{name} must be one of {', '.join(map(str, get_args(hint)))}, got {value!r}")


def nearest(name: str, known: list[str]) -> str:
    """Return `, did you mean 'x'?` for the nearest known name, or the list of them all."""
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]!r}?" if close else f" (known: {', '.join(known)})"


def _build(cls: type[T], given: Mapping[str, Any], where: str) -> T:
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            values[field.name] = _build(hint, given, where)
        elif field.name in given:
            values[field.name] = _convert(given[field.name], hint, f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{where}: missing key {field.name!r}")
    try:
        built = cls(**values)
        for name, value in values.items():
            require_finite(name, value)
        return built
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in options or isinstance(value, bool) != isinstance(options[0], bool):
            raise SettingsError(f"{where}: must be one of {', '.join(map(str, options))}, got {value!r}")
        return value
    if origin is Union or type(hint).__name__ == "UnionType":
        plain = [option for option in options if option is not type(None)]
        if value is None and len(plain) < len(options):
            return None
        if bool in plain and not isinstance(value, (bool, int)):
            raise SettingsError(f"{where}: must be true, false or a whole number, got {value!r}")
        return _convert(value, bool if bool in plain and isinstance(value, bool) else plain[-1], where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise SettingsError(f"{where}: must be a list, got {value!r}")
        return tuple(_convert(v, options[0], f"{where}[{i}]") for i, v in enumerate(value))
    return _convert_plain(value, hint, where)


def _convert_plain(value: Any, hint: Any, where: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and (number or isinstance(value, str)):  # text: a quoted number
        with suppress(ValueError, OverflowError):  # the latter: a whole number beyond what a float holds
            if not math.isnan(float(value)):  # which no range check would stop
                return float(value)
    if hint is int and number and (isinstance(value, int) or value.is_integer()):
        return int(value)
    if hint is bool and isinstance(value, str) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise SettingsError(f"{where}: must be {_KINDS.get(hint, hint)}, got {value!r}")


_SWITCHES = {"yes": True, "on": True, "no": False, "off": False}  # words in YAML 1.2, and what they were in 1.1
_KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
