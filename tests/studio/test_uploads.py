"""What is taken from the page is what was uploaded to it, under nothing but its own name."""

from pathlib import Path

import pytest

from studio.uploads import collect, uploads_folder
from tlora.errors import PictureError


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("secret: 1")
    for name in ("a/wall.png", "b/wall.png", "a/wall.txt"):
        file = uploads_folder() / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(name)
    (uploads_folder() / "a/link.png").symlink_to(tmp_path / "params.yaml")
    return uploads_folder()


def test_files_come_together_in_a_fresh_folder(uploads: Path) -> None:
    folder = collect([str(uploads / "a/wall.png"), str(uploads / "a/wall.txt")])
    assert sorted(path.name for path in folder.iterdir()) == ["wall.png", "wall.txt"]
    assert collect([str(uploads / "a/wall.png")]) != folder


@pytest.mark.parametrize(
    "name", ["params.yaml", ".state/studio/uploads/../../../params.yaml", ".state/studio/uploads/a/link.png", "/etc/passwd"]
)
def test_a_file_from_elsewhere_is_refused_by_its_name_alone(uploads: Path, name: str) -> None:
    with pytest.raises(PictureError, match=r"^(params\.yaml|link\.png|passwd): was not uploaded here: drop it again$"):
        collect([name])


def test_two_of_one_name_and_none_are_refused(uploads: Path) -> None:
    with pytest.raises(PictureError, match=r"wall\.png: dropped twice, or two pictures have one name"):
        collect([str(uploads / "a/wall.png"), str(uploads / "b/wall.png")])
    with pytest.raises(PictureError, match="drop your pictures first"):
        collect([])
