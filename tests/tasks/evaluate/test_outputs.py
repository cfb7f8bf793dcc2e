"""What `dvc plots` draws."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluate.outputs import summary_table, write_curves
from tests.tasks.finished_evaluation import numbers

ROOT = Path(__file__).parents[3]
ENTRIES = {"base": numbers(0, 0), "checkpoint-000025": numbers(25, 0.5), "checkpoint-000050": numbers(50, 1)}


def test_every_metric_has_a_curve_with_its_interval(tmp_path: Path) -> None:
    middle = {"step": 25, "moss_cover": {"mean": 1.1, "low": 1.04, "high": 1.16}, "share": 0.5, "on_front": True}
    write_curves(tmp_path, {**ENTRIES, "checkpoint-000025": middle})
    assert sorted(file.stem for file in (tmp_path / "curves").iterdir()) == [
        *("diversity_ratio", "moss_cover", "prompt_following", "share", "similarity_gain")
    ]
    lines = (tmp_path / "curves/moss_cover.csv").read_text().splitlines()
    assert lines == ["step,mean,low,high", "0,1.2,1.2,1.2", "25,1.1,1.04,1.16", "50,1.0,0.94,1.06"]
    assert (tmp_path / "curves/share.csv").read_text().splitlines() == ["step,mean,low,high", "25,0.5,0.5,0.5"]


@pytest.mark.slow
def test_dvc_plots_show_and_diff_draw_bands_of_the_curves(tmp_path: Path) -> None:
    plots = [plot for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"] if isinstance(plot, dict)]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"plots": plots}))
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, sys.executable, "-m", "dvc", "init", "--quiet")
    (tmp_path / ".dvc/plots").mkdir()
    (tmp_path / ".dvc/plots/interval.json").write_text((ROOT / ".dvc/plots/interval.json").read_text())
    everything = {next(iter(next(iter(plot.values()))["y"])): numbers(0, 0)["moss_cover"] for plot in plots}
    entries = {name: {Path(file).stem: numbers(25, 0.5)["moss_cover"] for file in everything} | {"step": 25} for name in ENTRIES}
    write_curves(tmp_path / "reports/evaluate", entries)
    run(tmp_path, "git", "add", "--all")
    run(tmp_path, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "one")
    write_curves(tmp_path / "reports/evaluate", entries | {"later": {**entries["base"], "step": 50}})
    shown = json.loads(run(tmp_path, sys.executable, "-m", "dvc", "plots", "diff", "HEAD", "--json"))["data"]
    assert sorted(shown) == sorted(next(iter(plot)) for plot in plots)
    for plot in shown.values():
        drawing = drawn(plot)
        values = drawing["data"]["values"]
        assert {(row["rev"], row["step"]) for row in values} == {("HEAD", "25"), ("workspace", "25"), ("workspace", "50")}
        assert all(float(row["low"]) < float(row["mean"]) < float(row["high"]) for row in values)
        assert [layer["mark"]["type"] for layer in drawing["layer"]] == ["area", "line"]
    run(tmp_path, sys.executable, "-m", "dvc", "plots", "show")
    page = (tmp_path / "dvc_plots/index.html").read_text()
    assert page.count("vegaEmbed(") == len(plots)


def drawn(plot: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the drawing, filled in."""
    content = plot[0]["content"]
    return json.loads(content) if isinstance(content, str) else content


def run(folder: Path, *command: str) -> str:
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_table_for_dvc_holds_what_decides_about_the_recommended_or_the_last_checkpoint() -> None:
    gain = {"mean": 0.42001, "low": 0.25, "high": 0.56}
    entries = {"base": {"step": 0}, "b": {"step": 2, "similarity_gain": gain, "copied": 0.0}, "c": {"step": 4}}
    assert summary_table({"recommended": "b", "checkpoints": entries}) == {
        "recommended": "b",
        "checkpoint": "b",
        "step": 2,
        "similarity_gain": {"mean": 0.42, "low": 0.25, "high": 0.56},
        "copied": {"mean": 0.0, "low": 0.0, "high": 0.0},
    }
    assert summary_table({"recommended": None, "checkpoints": entries}) == {"recommended": "none", "checkpoint": "c", "step": 4}
