"""What is dropped on the page and is no pictures, and names that are paths: refused in a line, and everything is as it was."""

import zipfile
from pathlib import Path

import pytest

from studio import start
from studio.uploads import uploads_folder
from studio.words import attempt
from tests.tasks.data_folder import texture
from tlora.metadata.concept import read_concept


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(uploads_folder() / "bricks.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"../wall_{number}.txt", "a matbrk wall")
    for number in range(2):
        texture(number).save(uploads_folder() / f"wall_{number}.png")
    return tmp_path


def taken(files: list[Path], trigger: str = "matbrk", name: str = "") -> str:
    return attempt(lambda: start._begin([str(file) for file in files], trigger, name, False))


def test_a_zip_of_texts_is_refused_in_a_line(tree: Path) -> None:
    said = taken([uploads_folder() / "bricks.zip"])
    assert said.startswith('<div role="status" class="wrong"><p>new: error: ')
    assert said.count("<p>") == 1
    assert [path.name for path in tree.iterdir()] == [".state"]
    assert list((tree / ".state/studio/incoming").iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/x"])
def test_a_path_is_no_name_of_a_concept(tree: Path, name: str) -> None:
    said = taken(sorted(uploads_folder().glob("*.png")), "matbrk", name)
    assert said.startswith('<div role="status" class="wrong"><p>new: error: ')
    assert "--name" in said
    assert not (tree / "data").exists()


@pytest.mark.parametrize(("trigger", "name"), [("../x", "x"), ("--replace", "replace")])
def test_a_trigger_is_a_word_and_neither_path_nor_option(tree: Path, trigger: str, name: str) -> None:
    taken(sorted(uploads_folder().glob("*.png")), trigger)
    concept = read_concept(tree / "concept.yaml")
    assert (concept.trigger, concept.name) == (trigger, name)
    assert "holds pictures already" in taken(sorted(uploads_folder().glob("*.png")), trigger)
