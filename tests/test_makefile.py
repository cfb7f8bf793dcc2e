"""When `make` installs what: the demonstration's packages, the tests', and all of it anew in a tree that was moved."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAN, FULL = "constraints.txt --editable .\n", "constraints.txt --editable '.[dev]'\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree as after `make demo`, but for the packages."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/pip").write_text(f"#!{tmp_path}/.venv/bin/python3.11\n")
    (tmp_path / ".venv/.installed").touch()
    return tmp_path


def would_run(tree: Path, target: str) -> str:
    """Return what `make` would do, were it not a dry run."""
    return subprocess.run(["make", "--dry-run", target], cwd=tree, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("made_in", "again"), [("here", False), ("/somewhere/else", True)])
def test_a_venv_that_was_made_elsewhere_is_made_again(made_in: str, again: bool, tree: Path) -> None:
    made = tree if made_in == "here" else Path(made_in)
    (tree / ".venv/bin/pip").write_text(f"#!{made}/.venv/bin/python3.11\n")
    assert ("venv --clear .venv" in would_run(tree, "setup")) == again


def test_tests_add_their_packages_to_the_demonstrations_and_it_takes_none_of_them_away(tree: Path) -> None:
    assert "install" not in would_run(tree, "demo")
    asked = would_run(tree, "test")
    assert FULL in asked
    assert LEAN not in asked
    (tree / ".venv/.installed-dev").touch()
    assert "install" not in would_run(tree, "demo") + would_run(tree, "test")


def test_both_are_installed_anew_once_a_version_changes(tree: Path) -> None:
    (tree / ".venv/.installed-dev").touch()
    later = (tree / ".venv/.installed-dev").stat().st_mtime + 1
    os.utime(tree / "constraints.txt", (later, later))
    demo, test = would_run(tree, "demo"), would_run(tree, "test")
    assert LEAN in demo
    assert FULL not in demo
    assert test.index(LEAN) < test.index(FULL)


def test_uv_installs_the_same_pins_where_it_is(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tree / "programs"
    programs.mkdir()
    (programs / "uv").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    asked = would_run(tree, "test")
    assert "uv pip install --python .venv/bin/python --quiet --constraint constraints.txt --editable '.[dev]'\n" in asked
