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


def would_run(tree: Path, *arguments: str) -> str:
    """Return what `make` would do, were it not a dry run."""
    return subprocess.run(["make", "--dry-run", *arguments], cwd=tree, capture_output=True, text=True, check=True).stdout


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


def python_at(folder: Path, name: str, works: bool) -> None:
    """Put a Python there that can make a virtual environment, or a name that leads nowhere, as pyenv's of one not chosen."""
    (folder / name).write_text(f"#!/bin/sh\nexit {0 if works else 127}\n")
    (folder / name).chmod(0o755)


def test_the_newest_python_that_can_make_a_venv_is_taken(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(tree / ".venv")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "sh", "make", "grep"):
        (programs / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(programs))
    for name in ("PYTHON", "MAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)
    none = subprocess.run(["make", "setup"], cwd=tree, capture_output=True, text=True, check=False)
    assert none.returncode != 0
    assert "looked for python3.13 python3.12 python3.11; install one" in none.stderr
    for name, works in (("python3.13", False), ("python3.12", True), ("python3.11", True)):
        python_at(programs, name, works)
    assert 'found="python3.12"; ' in would_run(tree, "setup")
    assert 'found="python3.11"; ' in would_run(tree, "PYTHON=python3.11", "setup")
