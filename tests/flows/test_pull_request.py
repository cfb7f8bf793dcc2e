import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from flows.pull_request import write_report
from tests.clone import Clone
from tlora.errors import SettingsError


@pytest.mark.slow
def test_a_pull_request_is_told_scores_changes_and_pictures(finished_clone: Clone, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "flows.pull_request", "--against", "HEAD", "--out", str(tmp_path / "told"))
    assert finished_clone.run(*command) == f"pull_request: {tmp_path}/told/report.md\n"
    report = (tmp_path / "told/report.md").read_text()
    metrics = json.loads((finished_clone.folder / "metrics/evaluate.json").read_text())
    assert f"Recommended: **{metrics['recommended']}**." in report
    assert "\n| checkpoint-000004 | " in report
    assert "## Changed against `HEAD`\n\n| Path                  | Metric " in report
    assert re.search(r"\| metrics/evaluate.json \| checkpoint +\| \S+ +\| checkpoint-0", report), report
    assert report.endswith("![grid](grid.png)\n")
    with Image.open(tmp_path / "told/grid.png") as grid:
        assert grid.width > grid.height > 64
    unknown = finished_clone.run(*command[:4], "no-such-branch", fails=True)
    assert unknown.startswith("pull_request: error: 'dvc metrics diff --md no-such-branch'")
    assert unknown.count("\n") == 1


def test_without_an_evaluation_there_is_nothing_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="nothing was evaluated, run 'dvc repro evaluate'"):
        write_report("HEAD", tmp_path / "told")
    assert not (tmp_path / "told").exists()
