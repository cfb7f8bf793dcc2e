"""The whole stage on a tiny FLUX: what it writes, and what is left of it when something cannot be measured.

The tests share one folder; each leaves it as it found it.
"""

import html
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tasks.evaluate.recommended import write_recommended
from tasks.evaluate.stage import evaluate
from tasks.running.cli import BAD_INPUT, run_stage
from tests.tasks.evaluable import make_evaluable, save_checkpoint
from tlora.metadata.adapter import WEIGHTS_FILE
from tlora.metadata.config import TLoRAConfig

pytestmark = pytest.mark.slow

OPTIONS = [
    *("--adapters", "adapters", "--prompts", "cache/prompts/evaluation", "--captions", "cache/prompts/captions"),
    *("--latents", "cache/latents/train", "--held-out-latents", "cache/latents/held_out", "--data", "data/images"),
    *("--manifest", "artifacts/manifest/train.json", "--held-out", "artifacts/manifest/held_out.json"),
    *("--concept", "concept.yaml", "--metrics", "metrics/evaluate.json", "--grids", "grids", "--pictures", "pictures"),
    *("--recommended", "recommended", "--report", "report"),
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluable")
    before = Path.cwd()
    os.chdir(folder)
    try:
        make_evaluable(folder)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(filled)
    return filled


def run(capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """Run the stage as DVC does, and return what it says on stderr, or on stdout if all is well."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_stage(evaluate, OPTIONS)
    said = capsys.readouterr()
    assert end.value.code == code, said.err
    assert "Traceback" not in said.err
    return said.err if code else said.out


def result() -> dict[str, Any]:
    return json.loads(Path("report/evaluate.json").read_text())


@contextmanager
def set_to(**changes: Any) -> Iterator[None]:
    """Change settings of section evaluate."""
    text = Path("params.yaml").read_text()
    params = yaml.safe_load(text)
    params["evaluate"] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(params))
    yield
    Path("params.yaml").write_text(text)


def test_a_second_opinion_is_written_shown_and_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with set_to(second_opinion=True):
        said = run(capsys)
    found = result()
    opinion = found["second_opinion"]["said"]
    assert opinion.startswith("EfficientNet-Lite0, the second opinion, ")
    assert f"evaluate: {opinion}\n" in said
    assert f"<br>{opinion}.</p>" in html.unescape(Path("report/report.html").read_text())
    assert found["setup"]["second_opinion"] == "EfficientNet-Lite0, 579344248a93"
    for name, entry in found["checkpoints"].items():
        assert 0 < entry["efficientnet_held_out"]["mean"] < 1
        assert (entry["efficientnet_gain"]["mean"] == 0) == (name == "base")
    assert "efficientnet_gain" in json.loads(Path("metrics/evaluate.json").read_text())
    assert Path("report/curves/efficientnet_gain.csv").is_file()


def test_everything_is_measured_with_intervals_and_said_where_the_time_went(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(capsys)
    found = result()
    assert list(found["checkpoints"]) == ["base", "checkpoint-000002", "checkpoint-000004", "checkpoint-000006"]
    metrics = {
        *("similarity_train", "similarity_held_out", "similarity_gain", "prompt_following", "nearest_training_picture"),
        *("training_distance", "copied", "diversity", "diversity_ratio", "loss_reduction_train", "loss_reduction_held_out"),
        *("loss_gap", "seam_ratio", "spectrum_distance", "period_error", "orientation_error"),
    }
    for entry in found["checkpoints"].values():
        assert entry.keys() - {"drift"} == metrics | {"step", "objections", "on_front"}
        assert all(entry[name].keys() == {"mean", "low", "high"} for name in metrics)
    assert found["setup"]["prompts"] == ["a matbrk wall"]
    assert found["setup"]["seeds"] == [1000, 1001]
    assert found["setup"]["evaluator"].startswith("clip@")
    assert found["scales"]["entries"][0]["scale"] == 0.5
    assert found["failures"] == {}
    with Image.open("grids/scales.png") as scales, Image.open("grids/grid.png") as grid:
        assert scales.height < grid.height  # base and one strength; base and three checkpoints
    assert_recommended(found["recommended"], found["reason"])
    assert found["checkpoints"]["base"]["drift"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    shown = found["scales"]["checkpoint"]
    assert [name for name, entry in found["checkpoints"].items() if "drift" in entry] == ["base", shown]
    with Image.open("grids/others.png") as others, Image.open("grids/scales.png") as scales:
        assert others.height == scales.height  # the base and the checkpoint that is shown
    assert 'alt="Prompts without the trigger word' in Path("report/report.html").read_text()
    assert "13 pictures (of 17 that a full evaluation draws) in " in said
    assert "% of the pipeline's " in said


def assert_recommended(name: str | None, reason: str) -> None:
    """The recommended checkpoint's bytes lie under the name that stays, or none do; which and why is said either way."""
    folder = Path("recommended")
    assert json.loads((folder / "why.json").read_text()) == {"recommended": name, "reason": reason}
    kept = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    assert kept == ({WEIGHTS_FILE: (Path("adapters") / name / WEIGHTS_FILE).read_bytes()} if name else {})


def test_a_recommendation_replaces_the_one_before(tmp_path: Path) -> None:
    for name in ("checkpoint-000002", "checkpoint-000004"):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS_FILE).write_text(name)
    found = {name: tmp_path / name for name in ("checkpoint-000002", "checkpoint-000004")}
    for name in ("checkpoint-000002", "checkpoint-000004"):
        write_recommended(tmp_path / "kept", found, {"recommended": name, "reason": "best"})
        assert (tmp_path / "kept" / WEIGHTS_FILE).read_text() == name
    write_recommended(tmp_path / "kept", found, {"recommended": None, "reason": "nothing beats the base"})
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["why.json"]


def test_again_is_the_same_numbers_and_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys)
    first = Path("metrics/evaluate.json").read_bytes(), Path("grids/grid.png").read_bytes()
    run(capsys)
    assert (Path("metrics/evaluate.json").read_bytes(), Path("grids/grid.png").read_bytes()) == first


def test_one_bad_checkpoint_costs_its_own_numbers_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys)
    whole = result()["checkpoints"]
    file = Path("adapters/checkpoint-000004") / WEIGHTS_FILE
    good = file.read_bytes()
    save_checkpoint(4, base="another-base")
    line = "adapters/checkpoint-000004: trained on another-base, not on base: train again, or set model.path back"
    errors = run(capsys, BAD_INPUT).splitlines()
    assert f"evaluate: going on without checkpoint-000004: {line}" in errors
    assert f"evaluate: error: incomplete, all else is in metrics/evaluate.json and report: {line}" in errors
    found = result()
    assert found["failures"] == {"checkpoint-000004": line}
    assert found["checkpoints"]["checkpoint-000006"]["similarity_gain"] == whole["checkpoint-000006"]["similarity_gain"]
    assert "checkpoint-000004" not in found["checkpoints"]
    assert line in Path("report/report.html").read_text()
    file.write_bytes(good)


def test_a_checkpoint_with_another_schedule_is_drawn_with_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tensors fit the layers of the one before, so only its metadata tells."""
    run(capsys)
    before = result()["checkpoints"]
    file = Path("adapters/checkpoint-000004") / WEIGHTS_FILE
    good = file.read_bytes()
    save_checkpoint(4, config=TLoRAConfig(rank=4, min_rank=4, enable_rank_masking=False))
    run(capsys)
    after = result()["checkpoints"]
    assert after["checkpoint-000004"]["loss_reduction_train"] != before["checkpoint-000004"]["loss_reduction_train"]
    assert after["checkpoint-000006"] == before["checkpoint-000006"]
    file.write_bytes(good)


def test_an_adapter_that_diverged_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("adapters/checkpoint-000004") / WEIGHTS_FILE
    good = file.read_bytes()
    save_checkpoint(4, size=1e30)
    errors = run(capsys, BAD_INPUT)
    assert "adapters/checkpoint-000004: its loss is not a finite number: lower learning_rate and train again" in errors
    assert list(result()["checkpoints"]) == ["base", "checkpoint-000002", "checkpoint-000006"]
    file.write_bytes(good)


def test_without_its_evaluator_pictures_and_what_needs_none_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with set_to(evaluator="./nowhere"):
        errors = run(capsys, BAD_INPUT)
    line = "./nowhere: no evaluator there: check evaluator and dinov2 in section evaluate of params.yaml"
    assert f"evaluate: going on without evaluator: {line}" in errors
    found = result()
    assert found["recommended"] is None
    entry = found["checkpoints"]["checkpoint-000006"]
    assert {"loss_gap", "spectrum_distance", "seam_ratio"} <= entry.keys()
    assert "similarity_gain" not in entry
    assert Path("grids/grid.png").exists()


def test_no_checkpoints_and_no_prompts_are_one_line_each_before_a_weight_is_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("adapters").rename("elsewhere")
    assert run(capsys, BAD_INPUT) == "evaluate: error: adapters: no checkpoints to evaluate: run train first\n"
    Path("elsewhere").rename("adapters")
    text = Path("concept.yaml").read_text()
    for prompts in ("[]", "['']"):
        Path("concept.yaml").write_text(text.replace("[a matbrk wall]", prompts))
        assert run(capsys, BAD_INPUT) == "evaluate: error: concept.yaml: prompts: give at least one, and none of them empty\n"
    Path("concept.yaml").write_text(text)
