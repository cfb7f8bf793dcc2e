"""`register` believes no store: what it finds there must be loadable and be the bytes it should be, or it is written again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from tasks.tracking.store import open_store
from tests.tasks.finished_run import NAME, FinishedRun

ADAPTER = "artifacts/checkpoint-000002/tlora_weights.safetensors"


def files_of_version(number: str = "1") -> Path:
    uri = open_store().client.get_model_version_download_uri(NAME, number)
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "its files are not at file:///": shutil.rmtree,
    "its MLmodel cannot be read": lambda folder: (folder / "MLmodel").unlink(),
    "its copy of adapters/checkpoint-000002/tlora_weights.safetensors is missing or damaged": lambda f: cut_off(f / ADAPTER),
    "its copy of models/tiny-flux/model_index.json is missing or damaged": lambda f: (
        f / "artifacts/tiny-flux/model_index.json"
    ).unlink(),
    "its code is missing or damaged": lambda folder: cut_off(folder / "code/tlora/sampling.py"),
}


def test_a_version_that_cannot_be_loaded_or_has_other_bytes_is_repaired_from_the_files(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run.register()
    for damage, do in DAMAGE.items():
        do(files_of_version())
        capsys.readouterr()
        finished_run.register()
        assert f"already version 1 of {NAME}, repaired from adapters/checkpoint-000002, since {damage}" in capsys.readouterr().out
    finished_run.register()
    assert f"register: already version 1 of {NAME}\n" in capsys.readouterr().out
    assert mlflow.pyfunc.load_model(f"models:/{NAME}@champion").metadata.model_id


def test_pictures_and_reports_of_a_run_come_back_too(finished_run: FinishedRun) -> None:
    finished_run.register()
    store = open_store()
    run = store.client.get_model_version(NAME, "1").run_id
    kept = Path(mlflow.artifacts.download_artifacts(run_id=run))
    before = sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.name != "images")
    shutil.rmtree(kept)
    finished_run.register()
    again = sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.name != "images")
    assert [name for name in again if not name.startswith("images")] == [n for n in before if not n.startswith("images")]
    assert len(again) == len(before)


def test_an_adapter_whose_files_are_links_into_a_cache_is_registered_as_files(finished_run: FinishedRun) -> None:
    """DVC's cache.type symlink: MLflow follows no link that leads out of a folder."""
    for folder in ("adapters", "models", "reports", "artifacts"):
        for file in [path for path in (finished_run.root / folder).rglob("*") if path.is_file()]:
            kept = finished_run.root / "kept" / file.relative_to(finished_run.root)
            kept.parent.mkdir(parents=True, exist_ok=True)
            file.rename(kept)
            file.symlink_to(kept)
    finished_run.register()
    held = files_of_version() / ADAPTER
    assert held.read_bytes() == (finished_run.root / "adapters/checkpoint-000002/tlora_weights.safetensors").read_bytes()
    assert not any(path.is_symlink() for path in files_of_version().rglob("*"))


def move_to(finished_run: FinishedRun, place: Path, monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    return FinishedRun(place)


def test_a_tree_that_moved_finds_its_artifacts_and_one_that_was_copied_leaves_the_original_alone(
    finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path.parent / f"{tmp_path.name}-first"
    shutil.copytree(tmp_path, first)
    original = move_to(finished_run, first, monkeypatch)
    original.register()
    moved = first.rename(tmp_path.parent / f"{tmp_path.name} moved")
    capsys.readouterr()
    here = move_to(original, moved, monkeypatch)
    here.register()
    said = capsys.readouterr()
    assert f"the MLflow store has moved here from {first}" in said.err
    assert f"register: already version 1 of {NAME}\n" in said.out
    assert files_of_version().is_relative_to(moved)
    assert not first.exists()

    copy = Path(shutil.copytree(moved, tmp_path.parent / f"{tmp_path.name}-copy"))
    before = sorted(moved.rglob("*"))
    there = move_to(here, copy, monkeypatch)
    there.train(seed=2)
    there.register()
    said = capsys.readouterr()
    assert f"the MLflow store is a copy of the one in {moved}" in said.err
    assert f"registered version 2 of {NAME}" in said.out
    assert files_of_version("1").is_relative_to(copy)
    assert files_of_version("2").is_relative_to(copy)
    assert sorted(moved.rglob("*")) == before
