"""A preset is written into params.yaml, or refused with params.yaml as it was."""

import shutil
from pathlib import Path

import pytest

from flows.presets import AS_IT_IS, apply_preset, costs, preset_overrides
from tasks.running.cli import read_params
from tlora.errors import SettingsError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "models").symlink_to(ROOT / "models")


def test_a_preset_is_a_share_of_what_the_base_is_shipped_with() -> None:
    assert preset_overrides("quick look") == ["train.max_train_steps=38", "train.checkpointing_steps=4", "train.preview_every=9"]
    assert apply_preset("best")[0] == "train.max_train_steps=300"
    assert read_params(Path("params.yaml"))["train"]["max_train_steps"] == 300
    assert preset_overrides("good")[0] == "train.max_train_steps=150"  # of params/, not of what is set now
    assert apply_preset(AS_IT_IS) == []


def test_a_card_sets_what_it_needs() -> None:
    overrides = preset_overrides(AS_IT_IS, 24)
    assert "model.quantisation=none" in overrides
    assert "train.gradient_checkpointing=false" in overrides
    apply_preset(AS_IT_IS, 24)


def test_what_it_takes_is_said_before_and_changes_nothing() -> None:
    before = Path("params.yaml").read_text()
    memory, time, sets = costs("quick look")
    assert memory.startswith("memory: about ")
    assert time.startswith("time: 38 steps of ")
    assert sets.startswith("sets train.max_train_steps=38, ")
    assert Path("params.yaml").read_text() == before


@pytest.mark.parametrize(
    ("preset", "card", "message"),
    [
        ("fast", None, "no preset 'fast': as params.yaml has it, quick look, good, best"),
        ("good", -1, "must be positive and below a million GB, got -1"),
        ("good", 1e-6, "too few for this base model"),
    ],
)
def test_what_cannot_be_is_one_line_and_changes_nothing(preset: str, card: float | None, message: str) -> None:
    before = Path("params.yaml").read_text()
    with pytest.raises(SettingsError, match=message):
        apply_preset(preset, card)
    assert Path("params.yaml").read_text() == before


def test_a_base_of_ones_own_has_no_shipped_steps() -> None:
    text = Path("params.yaml").read_text().replace("path: models/pocket-flux", "path: models/mine")
    Path("params.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"no file in params/ is about models/mine: choose 'as params\.yaml has it'"):
        preset_overrides("good")
