"""One tiny base for all verbs, and a fresh working folder for each test."""

from pathlib import Path

import pytest

from tests.tiny_flux import tiny_pipeline_folder
from tests.tlora.commands.workplace import fill_workplace


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline on disk."""
    return tiny_pipeline_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    fill_workplace(tmp_path, base)
    return tmp_path
