"""A migrated MLflow store to copy (making one takes seconds), and a folder in which everything but `register` has run."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tasks.data_folder import lay_out as lay_out_data
from tests.tasks.data_folder import tokenizers_only
from tests.tasks.finished_run import FinishedRun, lay_out
from tests.tiny_flux import tiny_pipeline_folder
from tlora.flux.spec import ModelSpec


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Put signal handlers back that a stage, run in this process, has set."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file that MLflow has migrated and nobody has used."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved tiny pipeline."""
    return tiny_pipeline_folder(tmp_path_factory.mktemp("base") / "tiny-flux")


@pytest.fixture
def store_file(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store of this test's own; it is the configured one, and the working folder is its folder."""
    file = tmp_path / "mlflow.db"
    shutil.copy(empty_store, file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    return file


@pytest.fixture
def finished_run(store_file: Path, tiny_base: Path) -> FinishedRun:
    """Return a folder in which everything but `register` has run; the working folder is there."""
    return lay_out(store_file.parent, tiny_base)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """Return a base model with nothing but its tokenizers."""
    return tokenizers_only(tmp_path_factory.mktemp("base"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder in order, the working folder being two above it."""
    monkeypatch.chdir(tmp_path)
    return lay_out_data(tmp_path)
