from dataclasses import replace
from pathlib import Path

import pytest

from flows.run_page import data_report, metrics_report, registration_report, run_report
from flows.stages import StageRun
from tasks.register.registration import Registration

ORDER = ["data.dvc", "train", "evaluate", "register"]
METRICS = """{"recommended": "checkpoint-000050", "reason": "the highest gain", "checkpoints": {
    "base": {"similarity_train": {"mean": 0.5, "low": 0.25, "high": 0.75}, "diversity_ratio": 1.0},
    "checkpoint-000025": {"objections": ["no gain", "copies"], "similarity_gain": {"mean": 0.0, "low": 0.0, "high": 0.0}},
    "checkpoint-000050": {"step": 50, "similarity_gain": {"mean": 0.25, "low": 0.125, "high": 0.375}, "diversity_ratio": 0.5,
        "similarity_train": {"mean": 0.75, "low": 0.5, "high": 1.0}, "objections": [],
        "worst_prompt": {"mean": -0.5, "low": -0.75, "high": -0.25, "prompt": "a ball | a cube"}}}}"""
PARAMS = "model: {path: models/pocket-flux}\ntrain: {rank: 8}\nevaluate: {seeds: 4}\n"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports" / "evaluate").mkdir(parents=True)
    (tmp_path / "reports" / "evaluate" / "evaluate.json").write_text(METRICS)
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
    assert "| checkpoint | similarity_gain | diversity_ratio | objections |" in report
    assert "| checkpoint-000025 | 0.000 |  | no gain; copies |\n| checkpoint-000050 | 0.250 | 0.500 |  |" in report
    assert "| metric | base | checkpoint-000050 |" in report
    assert "| similarity_train | 0.500 (0.250 to 0.750) | 0.750 (0.500 to 1.000) |" in report
    assert r"| worst_prompt |  | -0.500 (-0.750 to -0.250), a ball \| a cube |" in report
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


def test_scores_stand_beside_the_champions_and_the_run_is_a_link(results: Path):
    told = Registration(
        model="tlora-pocket-flux-brick",
        version="4",
        aliases=["challenger"],
        run="brick-0123abcd",
        run_address="http://127.0.0.1:5000/#/experiments/1/runs/9f",
        champion="3",
        comparable=True,
        scores={"similarity_gain": 0.25, "diversity_ratio": 0.75, "only_here": 1.0},
        champion_scores={"similarity_gain": 0.3, "diversity_ratio": 0.5},
    )
    page = "\n".join(registration_report(told))
    run = "[brick-0123abcd](http://127.0.0.1:5000/#/experiments/1/runs/9f)"
    assert f"tlora-pocket-flux-brick, version 4 (challenger), MLflow run {run}." in page
    assert "| metric | this run | champion, version 3 | difference |" in page
    assert "| similarity_gain | 0.250 | 0.300 | -0.050 |\n| diversity_ratio | 0.750 | 0.500 | +0.250 |" in page
    assert "only_here" not in page
    otherwise = registration_report(replace(told, comparable=False, run_address=""))
    assert otherwise[1:] == [
        "tlora-pocket-flux-brick, version 4 (challenger), MLflow run brick-0123abcd.",
        "The champion, version 3, was evaluated otherwise: the two cannot be compared.",
    ]
    assert registration_report(replace(told, champion="4"))[-1] == "It is the champion."
    assert registration_report(replace(told, champion=""))[-1] == "There is no champion to compare it with."


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
