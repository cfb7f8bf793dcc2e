"""What runs this elsewhere: the image, compose.yaml, the workflows. Linted here, and held against the commands that they call."""

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
OURS = ["mlflow", "prefect", "worker-cpu", "worker-gpu"]


@pytest.mark.parametrize("command", [["hadolint", "Dockerfile"], ["zizmor", "--offline", "--no-progress", ".github"]])
def test_the_linters_of_images_and_workflows_find_nothing(command: list[str]) -> None:
    linted = subprocess.run([PROGRAMS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_image_holds_extras_that_there_are() -> None:
    (named,) = re.findall(r"--editable '\.\[(.*)\]'", (ROOT / "Dockerfile").read_text())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(named.split(",")) < set(extras)


def services() -> dict[str, dict[str, Any]]:
    """Return the services of compose.yaml, with what YAML merges into them."""
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])


def test_nothing_is_published_but_on_the_loopback_and_no_password_is_written_down() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)
    text = (ROOT / "compose.yaml").read_text()
    passwords = re.findall(r"(?:PASSWORD|SECRET_ACCESS_KEY|secretKey|TOKEN)\"?: (.*)", text)
    assert len(passwords) == 6
    assert all(re.match(r'"?\$\{\w+', password) for password in passwords), passwords


def test_what_compose_runs_of_this_image_is_not_root_writes_nowhere_else_and_is_looked_at() -> None:
    from_image = {name: service for name, service in services().items() if "build" in service}
    assert sorted(from_image) == OURS
    for service in from_image.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["healthcheck"]["test"][:2] == ["CMD", "python"]
    assert re.findall(r"^USER (.*)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE) == ["1000:1000"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OURS if name != "worker-cpu"])
def test_the_commands_of_compose_are_ones_that_the_packages_know(name: str) -> None:
    command: list[str] = services()[name]["command"]
    verb = list(itertools.takewhile(lambda word: not word.startswith("-"), command))
    environment = {"PATH": "/bin", "COLUMNS": "200"}
    asked = [PROGRAMS / verb[0], *verb[1:], "--help"]
    helped = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
    for option in command:
        if option.startswith("--"):
            assert option.partition("=")[0] in helped, option
