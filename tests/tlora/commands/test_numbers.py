"""A number means the same at every door: what params.yaml refuses, the flat file and the command line refuse, in a line."""

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import pytest

from tasks.check_settings.check import section_types
from tests.tlora.commands.test_flat_config import PLACES, THEIRS, table
from tlora.cli import main
from tlora.commands.flat_config import read_flat_config
from tlora.errors import SettingsError
from tlora.runtime.settings import parse_settings
from tlora.runtime.yaml_text import parse_yaml, render_yaml

ROOT = Path(__file__).parents[3]
PROBES: dict[str, Any] = {
    "0": 0,
    "-1": -1,
    "nan": math.nan,
    "inf": math.inf,
    "1e400": "1e400",
    "huge": 10**30,
    "text": "many",
}
NEVER = ("nan", "inf", "1e400", "huge", "text")  # whatever the number is of
POCKET = parse_yaml((ROOT / "params/pocket.yaml").read_text())
BIG = parse_yaml((ROOT / "params/flux1-dev.yaml").read_text())


def _is_number(params: dict[str, Any], section: str, key: str) -> bool:
    return isinstance(params[section][key], (int, float)) and not isinstance(params[section][key], bool)


NUMBERS = [(section, key) for section, values in POCKET.items() for key in values if _is_number(POCKET, section, key)]


def refusal(section: str, key: str, value: Any, params: dict[str, Any] = POCKET) -> str:
    """Return what params.yaml's reader says of a value; empty where it takes it."""
    try:
        parse_settings(section_types()[section], {**params[section], key: value}, f"params.yaml: {section}")
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("section", "key"), NUMBERS, ids=lambda name: name)
def test_every_number_of_params_yaml_is_taken_or_refused_in_a_line_that_names_it(section: str, key: str) -> None:
    for name, value in PROBES.items():
        said = refusal(section, key, value)
        assert "\n" not in said
        if said:
            assert said.startswith(f"params.yaml: {section}")
            assert key in said, said
        assert said or name not in NEVER, f"{key} takes {name}"


def flat_refusal(folder: Path, key: str, value: Any) -> str:
    (folder / "flat.yaml").write_text(render_yaml({**parse_yaml(THEIRS.read_text()), key: value}))
    try:
        read_flat_config(folder / "flat.yaml")
    except SettingsError as error:
        return str(error)
    return ""


NUMERIC_KEYS = sorted(key for key, place in table().items() if key not in PLACES and _is_number(BIG, *place.split(".")))


@pytest.mark.parametrize("key", NUMERIC_KEYS)
def test_the_flat_file_takes_and_refuses_what_params_yaml_does(key: str, tmp_path: Path) -> None:
    section, name = table()[key].split(".")
    for probe, value in PROBES.items():
        flat, there = flat_refusal(tmp_path, key, value), refusal(section, name, value, BIG)
        assert bool(flat) == bool(there), f"{key}: {probe}: {flat!r}, {there!r}"
        assert "\n" not in flat


OPTIONS = {
    "infer": ["--num", "--batch", "--seed", "--steps", "--guidance", "--lora_scale", "--ab_scales"],
    "export": ["--steps", "--width", "--height", "--max-bands"],
    "doctor": ["--card"],
}
ARGUMENTS = {
    "infer": ["--config", str(THEIRS), "--lora_path", "nowhere", "--outdir", "drawn", "--prompt", "a wall"],
    "export": ["nowhere", "--format", "bands", "--out", "bands", "--steps", "8", "--width", "64", "--height", "64"],
    "doctor": ["--config", "nowhere.yaml"],
}


@pytest.mark.parametrize(("verb", "option"), [(verb, option) for verb, options in OPTIONS.items() for option in options])
def test_every_number_of_the_command_line_is_taken_or_refused_in_a_line_that_names_it(
    verb: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for probe, value in PROBES.items():
        said = io.StringIO()
        with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
            main([verb, *ARGUMENTS[verb], f"{option}={value}"])
        line = said.getvalue() + (end.value.code if isinstance(end.value.code, str) else "")
        assert line.startswith(f"tlora {verb}: error: ")
        assert line.strip().count("\n") == 0
        assert option in line or "nowhere" in line
        if probe in NEVER:
            assert option in line, f"{option}={value}: {line}"
