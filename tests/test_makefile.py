"""The commands of a .venv name the folder that it was made in: `make` in a tree that was moved makes it again."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("made_in", "again"), [("here", False), ("/somewhere/else", True)])
def test_a_venv_that_was_made_elsewhere_is_made_again(made_in: str, again: bool, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    made = tmp_path if made_in == "here" else Path(made_in)
    (tmp_path / ".venv/bin/pip").write_text(f"#!{made}/.venv/bin/python3.11\n")
    (tmp_path / ".venv/.installed").touch()
    command = ["make", "--dry-run", "setup"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert ("venv --clear .venv" in said) == again
