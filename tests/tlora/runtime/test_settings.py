"""A wrong setting is one clear line that names the place, never a traceback or a guess."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tlora.errors import SettingsError
from tlora.flux.noise import NoiseSettings
from tlora.metadata.config import TLoRAConfig
from tlora.runtime.settings import field_names, nearest, parse_settings
from tlora.runtime.yaml_text import parse_yaml


@dataclass(frozen=True)
class Shape:
    width: int
    names: tuple[str, ...] = ("to_q",)


@dataclass(frozen=True)
class Settings:
    shape: Shape
    rate: float
    mode: Literal["plain", "fast"]
    flip: bool
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be positive, got {self.rate}")


@dataclass(frozen=True)
class Dial:
    """A switch with steps between off and on."""

    every: bool | int


GIVEN = {"width": 8, "names": ["a", "b"], "rate": 0.5, "mode": "fast", "flip": True, "limit": 3}
EXPECTED = Settings(Shape(8, ("a", "b")), 0.5, "fast", True, 3)


def parse(text: str = "", **changes: Any) -> Settings:
    """Parse GIVEN with some values changed, or with lines of YAML put over it."""
    return parse_settings(Settings, GIVEN | changes | (parse_yaml(text) or {}), "params.yaml: train")


def test_a_flat_mapping_becomes_nested_settings() -> None:
    assert parse() == EXPECTED
    assert field_names(Settings) == ["width", "names", "rate", "mode", "flip", "limit"]


def test_what_is_not_given_takes_the_default_only_where_that_is_allowed() -> None:
    given = {"width": 8, "rate": 0.5, "mode": "fast", "flip": False}
    assert parse_settings(Settings, given, "x", complete=False) == Settings(Shape(8), 0.5, "fast", False)
    with pytest.raises(SettingsError, match=r"^params\.yaml: train: missing key 'names'$"):
        parse_settings(Settings, given, "params.yaml: train")


def test_a_key_that_has_no_default_is_missed_even_where_defaults_are_allowed() -> None:
    with pytest.raises(SettingsError, match=r"^x: missing key 'rate'$"):
        parse_settings(Settings, {"width": 8, "mode": "fast", "flip": False}, "x", complete=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [("rate: 1e-4", 1e-4), ("rate: 5.0e-5", 5e-5), ("rate: '1e-4'", 1e-4), ("rate: 2", 2.0), ("rate: 0.5", 0.5)],
)
def test_a_number_is_read_however_yaml_sees_it(text: str, value: float) -> None:
    rate = parse(text).rate
    assert (rate, type(rate)) == (value, float)


def test_a_whole_number_may_be_written_with_a_point_zero() -> None:
    width = parse(width=8.0).shape.width
    assert (width, type(width)) == (8, int)


@pytest.mark.parametrize(("word", "value"), [("true", True), ("yes", True), ("On", True), ("no", False), ("off", False)])
def test_a_switch_is_read_in_the_words_of_either_yaml(word: str, value: bool) -> None:
    assert parse(f"flip: {word}").flip is value


def test_a_whole_number_of_any_size_is_read_exactly_and_too_large_a_number_is_refused() -> None:
    assert parse(width=2**63 - 1).shape.width == 2**63 - 1
    with pytest.raises(SettingsError, match=r"train: width must be in -2\*\*63\.\.2\*\*63 - 1, got 1000"):
        parse(width=10**400)
    with pytest.raises(SettingsError, match="rate: must be a number, got 1000"):
        parse(rate=10**400)


def test_null_is_taken_only_where_nothing_is_a_value() -> None:
    assert parse("limit: null").limit is None
    with pytest.raises(SettingsError, match="width: must be a whole number, got None"):
        parse("width: null")


def test_a_switch_with_steps_takes_true_false_and_numbers_and_says_what_it_cannot_take() -> None:
    taken = [parse_settings(Dial, {"every": value}, "x").every for value in (True, False, 2)]
    assert [(value, type(value)) for value in taken] == [(True, bool), (False, bool), (2, int)]
    with pytest.raises(SettingsError, match=r"^x\.every: must be true, false or a whole number, got 'all'$"):
        parse_settings(Dial, {"every": "all"}, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widht: 8", "unknown key 'widht', did you mean 'width'?"),
        ("zzz: 8", "unknown key 'zzz' (known: width, names, rate, mode, flip, limit)"),
        ("5: 8", "unknown key 5 (known: width, names, rate, mode, flip, limit)"),
        ("width: true", "must be a whole number, got True"),
        ("width: 8.5", "must be a whole number, got 8.5"),
        ("width: '8'", "must be a whole number, got '8'"),
        ("width: .inf", "must be a whole number, got inf"),
        ("rate: false", "must be a number, got False"),
        ("rate: fast", "must be a number, got 'fast'"),
        ("rate: .nan", "must be a number, got nan"),
        ("rate: 'nan'", "must be a number, got 'nan'"),
        ("rate: [1]", "must be a number, got [1]"),
        ("flip: 1", "must be true or false, got 1"),
        ("flip: maybe", "must be true or false, got 'maybe'"),
        ("mode: slow", "must be one of plain, fast, got 'slow'"),
        ("mode: [fast]", "must be one of plain, fast, got ['fast']"),
        ("names: to_q", "must be a list, got 'to_q'"),
        ("names: [to_q, 3]", "must be text, got 3"),
        ("limit: many", "must be a whole number, got 'many'"),
        ("rate: 0", "rate must be positive, got 0.0"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_file_section_and_key(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        parse(text)
    line = str(refusal.value)
    assert line.startswith("params.yaml: train")
    assert line.endswith(message)
    assert "\n" not in line
    if message.startswith("must"):
        assert re.match(r"params\.yaml: train\.\w+(\[1\])?: ", line)


def test_the_range_checks_of_nested_settings_are_one_line_too() -> None:
    given = vars(TLoRAConfig()) | {"min_rank": 17}
    with pytest.raises(SettingsError, match=r"^params\.yaml: train: need 1 <= min_rank <= rank, got 17 and 16$"):
        parse_settings(TLoRAConfig, given, "params.yaml: train")


def test_the_words_of_params_are_those_of_the_dataclass() -> None:
    given = {"timestep_sampling": "shifted", "logit_mean": 0, "logit_std": 1}
    assert parse_settings(NoiseSettings, given, "x") == NoiseSettings("shifted", 0.0, 1.0)


def test_the_nearest_name_is_offered_and_otherwise_all_of_them() -> None:
    assert nearest("rnak", ["rank", "alpha"]) == ", did you mean 'rank'?"
    assert nearest("xyz", ["rank", "alpha"]) == " (known: rank, alpha)"
