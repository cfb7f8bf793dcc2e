"""constraints.txt holds one exact version of everything, for each Python that pyproject.toml admits."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = {"3.11": "3.11.7", "3.12": "3.12.1", "3.13": "3.13.0"}


def pins(python: str) -> Iterator[Requirement]:
    """Yield what applies on Linux with that Python."""
    here = {str(name): str(value) for name, value in default_environment().items()}
    environment = here | {"python_version": python, "python_full_version": PYTHONS[python]}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(environment):
                yield pin


@pytest.mark.parametrize("python", PYTHONS)
def test_everything_is_pinned_once_within_its_range(python: str) -> None:
    assert SpecifierSet(PROJECT["requires-python"]).contains(PYTHONS[python])
    pinned = list(pins(python))
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pinned}
    assert len(versions) == len(pinned)
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    asked = [requirement for requirement in map(Requirement, lines) if requirement.name != PROJECT["name"]]
    wrong = [str(each) for each in asked if not each.specifier.contains(versions.get(canonicalize_name(each.name), "0"))]
    assert wrong == []


def test_no_package_has_another_version_for_another_python() -> None:
    versions = {(pin.name, str(pin.specifier)) for python in PYTHONS for pin in pins(python)}
    assert len(versions) == len({name for name, _ in versions})
