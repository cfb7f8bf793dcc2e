"""What is pruned and what stays, on a real repository and a real store."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from flows import prune
from tasks.tracking.store import open_store
from tests.flows.kiln import dvc, fill_kiln, git, make_repository, register_present, run_everything

pytestmark = pytest.mark.slow
LONG_AGO = time.time() - 100 * 86400


@pytest.fixture
def kiln(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    folder = tmp_path / "kiln"
    make_repository(folder)
    fill_kiln(folder)
    monkeypatch.chdir(folder)
    return folder


def leave(folder: Path, code: str, touched: float) -> Path:
    """Leave a training state that some code made."""
    folder.mkdir(parents=True)
    fields = {"data": "data-1", "code": code, "base_revision": "base-1", "params": {}, "views": "v", "captions": "c"}
    (folder / "fingerprint.json").write_text(json.dumps(fields))
    (folder / "state.safetensors").write_bytes(bytes(1_000_000))
    for path in (*folder.iterdir(), folder):
        os.utime(path, (touched, touched))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prune", *arguments])
    return prune.main()


def test_old_and_unreferenced_goes_when_told_to_and_what_an_alias_points_at_stays(
    kiln: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    states = kiln / ".state" / "train"
    old, pinned = leave(states / "old", "code-1", LONG_AGO), leave(states / "pinned", "code-2", LONG_AGO)
    recent, last = leave(states / "recent", "code-3", time.time() - 86400), leave(states / "last", "code-4", time.time())
    made_from = {"data_digest": "data-1", "code_digest": "code-2", "params_digest": prune.digest_of([{}, "v", "c"])}
    register_present(open_store(), "champion", {**made_from, "base_revision": "base-1"})
    item = kiln / ".state/cache/latents/ab/abc.safetensors"
    item.parent.mkdir(parents=True)
    item.write_bytes(b"x")
    os.utime(item, (LONG_AGO, LONG_AGO))
    (kiln / "data" / "stone.txt").write_text("a stone that is taken out again\n")
    dvc(kiln, "commit", "--force", "--quiet", "data.dvc")
    run_everything()
    git(kiln, "checkout", "--quiet", "data.dvc")
    dvc(kiln, "checkout", "--force", "--quiet", "data.dvc")
    run_everything()
    kept = sorted(cached(kiln))

    assert run(monkeypatch) == 0
    said = capsys.readouterr().out
    assert f"would remove training state {old} (1.0 MB)" in said
    assert "prune: 2 older than 30 days, 1.0 MB" in said
    assert "nothing was removed; make prune YES=1 does it" in said
    assert all(path.exists() for path in (old, pinned, recent, last, item))
    assert sorted(cached(kiln)) == kept

    assert run(monkeypatch, "--yes") == 0
    assert [path.exists() for path in (old, pinned, recent, last, item)] == [False, True, True, True, False]
    gone = set(kept) - set(cached(kiln))
    assert any(text == "a stone that is taken out again\n" for text in gone)
    assert "brick\n" in cached(kiln)


def test_the_cache_is_left_alone_while_no_commit_names_a_champions_data(
    kiln: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    register_present(open_store(), "champion", {"data_dvc": "f00.dir"})
    assert run(monkeypatch, "--yes") == 2
    assert capsys.readouterr().err == (
        "prune: error: tlora-kiln-brick, version 1 (champion), was trained on data that no commit names (f00.dir): commit its"
        " data.dvc, or move the alias; DVC's cache is left as it is\n"
    )


def cached(folder: Path) -> list[str]:
    """Return the contents of what DVC's cache holds."""
    return [path.read_text() for path in sorted((folder / ".dvc/cache/files").rglob("*")) if path.is_file()]
