"""A store, a scheduler or a run that is away: a line in the page, and the rest of it goes on."""

import html
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from studio import decide, draw, models, start, watch
from studio.words import attempt
from tests.clone import ROOT

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name in ("params.yaml", "concept.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "adapters/final").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_store_that_is_away_is_named_in_a_line_and_what_needs_none_is_still_offered(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = [decide._versions(), attempt(decide._stand), attempt(decide._judge), decide._show()[1]]
    for each in said:
        assert str(each).startswith(f'<div role="status" class="wrong"><p>MLflow store {NOWHERE}: '), each
        assert str(each).count("<p>") == 1
    assert models.names() == ["base", "final"]
    (shown,) = draw._draw(["champion"], "a wall", 0, 1, 2, 64, 64, False)
    assert f"MLflow store {NOWHERE}: " in shown


def test_a_scheduler_that_is_away_is_named_in_a_line_and_training_is_still_shown(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{NOWHERE}/api")
    shown = watch.show()
    assert f"Prefect at {NOWHERE}/api does not answer (ConnectError): make serve" in shown
    assert "<h2>Training</h2><p>Nothing has trained here yet.</p>" in shown
    assert f"Prefect at {NOWHERE}/api does not answer" in attempt(lambda: start._train("as params.yaml has it", 0))


def test_a_run_that_was_killed_is_said_to_have_ended(tree: Path) -> None:
    (tree / ".state/runs").mkdir(parents=True)
    gone = {"pid": os.getpid(), "created": time.time() - 1e6, "asked_at": "2026-11-29T10:00:00"}  # the number is another's now
    (tree / ".state/runs/run.json").write_text(json.dumps(gone))
    (tree / ".state/runs/log").write_text("train: step 3 of 40\n")
    shown = watch.show()
    assert "<td>cancelled</td>" in shown
    assert "it ended without a word: killed, or cancelled; what it had saved it goes on from" in shown
    assert "train: step 3 of 40" in shown


def test_nothing_is_drawn_with_by_a_path(tree: Path) -> None:
    (tree.parent / "x").mkdir(exist_ok=True)
    for name in ("../x", "checkpoint-1/../../x", "/etc", "version 1; rm", "final/"):
        (shown,) = draw._draw([name], "a wall", 0, 1, 2, 64, 64, False)
        assert f"there is no {name!r}: choose one of the list" in html.unescape(shown)


@pytest.mark.parametrize("name", ["../params.yaml", "/etc/hostname", ""])
def test_no_other_file_is_shown_as_a_report(tree: Path, name: str) -> None:
    assert f"there is no report of {name} yet" in attempt(lambda: watch._report(name))
