from pathlib import Path

import pytest

from flows.report import data_report, metrics_report, run_report
from flows.stages import StageRun

ORDER = ["data.dvc", "train", "evaluate", "register"]
METRICS = """{"recommended": "checkpoint-000050", "reason": "the highest gain", "checkpoints": {
    "base": {"diversity_ratio": 1.0},
    "checkpoint-000050": {"step": 50, "similarity_gain": {"mean": 0.25, "low": 0.125, "high": 0.375}, "diversity_ratio": 0.5}}}"""
PARAMS = "model: {path: models/pocket-flux}\ntrain: {rank: 8}\nevaluate: {seeds: 4}\n"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "evaluate.json").write_text(METRICS)
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def test_stages_metrics_and_settings_are_tables(results: Path):
    runs = [
        StageRun("data.dvc", "Skipped", "", 1.0),
        StageRun("train", "Completed", "", 65.25),
        StageRun("evaluate", "Completed", "", 7.0),
        StageRun("register", "Completed", "", 4.0),
    ]
    report = run_report(runs, ORDER)
    assert "| data.dvc | Skipped | 1.0 |  |" in report
    assert "| train | Completed | 65.2 |  |" in report
    assert "Recommended: **checkpoint-000050**. the highest gain" in report
    assert "| checkpoint | diversity_ratio | step | similarity_gain |" in report
    assert "| checkpoint-000050 | 0.500 | 50 | 0.250 (0.125 to 0.375) |" in report
    assert "| model.path | models/pocket-flux |" in report
    assert "| train.rank | 8 |" in report
    assert "evaluate.seeds" not in report


def test_a_failed_run_names_reason_and_what_was_not_reached_and_shows_no_old_metrics(results: Path):
    runs = [StageRun("data.dvc", "Skipped", "", 1.0), StageRun("train", "Failed", "loss is not finite | step 3", 2.0)]
    report = run_report(runs, ORDER)
    assert "| train | Failed | 2.0 | loss is not finite \\| step 3 |" in report
    assert "| register | not reached |  |  |" in report
    assert "## Metrics" not in report


def test_no_recommendation_is_said(results: Path):
    lines = metrics_report({"recommended": None, "reason": "nothing is above the base", "checkpoints": {"base": {"step": 0}}})
    assert lines[1] == "Recommended: **none**. nothing is above the base"


def test_a_missing_params_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "params.yaml: no such file" in run_report([], ORDER)


def test_what_changed_in_the_data_is_shown_only_where_register_wrote_it_now(results: Path):
    registered = [StageRun("register", "Completed", "", 4.0)]
    assert data_report(registered) is None
    (results / "reports" / "register").mkdir(parents=True)
    (results / "reports" / "register" / "data_changes.md").write_text("# Data\n\nNothing changed.\n")
    assert data_report(registered) == "# Data\n\nNothing changed.\n"
    assert data_report([StageRun("register", "Failed", "the store is away", 4.0)]) is None
    assert data_report([StageRun("train", "Failed", "loss is not finite", 4.0)]) is None
