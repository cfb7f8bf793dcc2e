"""Captions by a model are proposed, read and then written. The model is a tiny random Florence-2: what it says is noise."""

import os
import subprocess
from pathlib import Path

import pytest

from tasks.caption import fill_template, main, proposals_file, read_proposals
from tests.tasks.data_folder import lay_out
from tests.tasks.tiny_florence import save_tiny_florence
from tlora.errors import SettingsError


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_florence(tmp_path_factory.mktemp("florence"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".dvc" / "site"))
    return lay_out(tmp_path, 2)


def test_what_is_proposed_is_written_only_after_it_could_be_read(
    florence: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(florence), "--template", "a photo of {trigger}: {caption}"]) == 0
    assert f"proposals are in {proposals_file()}: read and correct them" in capsys.readouterr().out
    proposed = read_proposals()
    assert list(proposed) == ["picture_0.png", "picture_1.png"]
    assert all(text.startswith("a photo of matbrk: ") and len(text) > 25 for text in proposed.values())
    assert (folder / "picture_0.txt").read_text() == "a matbrk wall, number 0"
    proposals_file().write_text("picture_0.png: matbrk, read by ann\n")
    assert main(["--write"]) == 0
    assert (folder / "picture_0.txt").read_text() == "matbrk, read by ann\n"
    assert (folder / "picture_1.txt").read_text() == "a matbrk wall, number 1"
    (kept,) = Path(".state/replaced").rglob("picture_0.txt")
    assert kept.read_text() == "a matbrk wall, number 0"
    assert Path("data.dvc").exists()
    assert main(["--write"]) == 2
    assert capsys.readouterr().err == "caption: error: nothing is proposed: 'make caption' lets a model do it first\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model", "florence-community/Florence-2-base"], "name its commit on the hub too, all 40 digits"),
        (["--model", "data"], "data: cannot be loaded as Florence-2: "),
        (["--template", "{trigger}"], "must hold {trigger} and {caption}, once each"),
    ],
)
def test_what_cannot_be_is_one_line(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("caption: error: ")
    assert message in said
    assert read_proposals() == {}


def test_a_proposal_of_a_picture_that_is_gone_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proposals_file().write_text("picture_0.png: x\npicture_9.png: y\n")
    assert main(["--write"]) == 2
    assert "there is no picture picture_9.png any more" in capsys.readouterr().err
    assert (folder / "picture_0.txt").read_text() == "a matbrk wall, number 0"


def test_a_picture_that_came_later_has_no_proposal(folder: Path) -> None:
    proposals_file().write_text("picture_0.png: x\npicture_1.png: y\n")
    later = proposals_file().stat().st_mtime + 5
    os.utime(folder / "picture_0.png", (later, later))
    assert read_proposals() == {"picture_1.png": "y"}


def test_a_templates_other_braces_are_refused() -> None:
    with pytest.raises(SettingsError, match="once each"):
        fill_template("{trigger.__class__} {caption}", "matbrk", "a wall")
