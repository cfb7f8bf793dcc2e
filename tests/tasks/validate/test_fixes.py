import shutil
from pathlib import Path

import pytest

from tests.tasks.data_folder import findings, run, texture
from tlora.errors import PictureError
from tlora.flux.spec import ModelSpec
from tlora.pictures.manifest import read_split


def spoil(data: Path) -> None:
    """Make one of each thing that can be fixed, and some that cannot."""
    (data / "picture_1.txt").write_text("a wall of\nMATBRK", encoding="utf-16")
    (data / "picture_2.txt").write_text("a Matbrk wall")
    (data / "picture_3.png").write_bytes((data / "picture_3.png").read_bytes()[:900])
    shutil.copy(data / "picture_4.png", data / "twin.png")
    shutil.copy(data / "picture_4.txt", data / "twin.txt")
    shutil.copy(data / "picture_4.png", data / "told_otherwise.png")
    (data / "told_otherwise.txt").write_text("the same matbrk wall in other words")
    (data / "picture_5.txt").write_bytes("a matbrk wänd".encode("latin-1"))


def test_what_is_safe_is_fixed_and_every_original_is_kept(
    data: Path, base: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(data)
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    with pytest.raises(PictureError, match=r"^picture_5\.png: its caption is not UTF-8 text [^\n]*$"):
        run(base, fix=True)
    assert findings() == {
        ("error", "caption_encoding", "picture_5.png"),
        ("warning", "exact_copy", "told_otherwise.png"),
        ("warning", "trigger_missing", "picture_1.png"),
    }
    assert (data / "picture_1.txt").read_text(encoding="utf-8") == "a wall of\nMATBRK"
    assert (data / "picture_2.txt").read_text() == "a matbrk wall"
    gone = {"picture_3.png", "picture_3.txt", "twin.png", "twin.txt"}
    assert {path.name for path in data.iterdir()} == before.keys() - gone
    (kept,) = Path(".state/replaced").iterdir()
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        name: before[name] for name in gone | {"picture_1.txt", "picture_2.txt"}
    }
    assert "fixed    picture_3.png: set aside: it cannot be read\n" in capsys.readouterr().out

    (data / "picture_5.txt").write_text("a matbrk wall")
    run(base, fix=True)  # a caption that could be read only now is looked at again
    assert (data / "picture_1.txt").read_text() == "a wall of\nmatbrk"
    assert len(read_split(Path("artifacts/manifest")).train.items) == 5


def test_a_picture_that_is_held_out_by_name_stays(data: Path, base: ModelSpec) -> None:
    (data / "picture_0.png").write_bytes(b"")
    with pytest.raises(PictureError):
        run(base, fix=True)
    assert (data / "picture_0.png").exists()
    assert list(Path(".state/replaced").iterdir()) == []


def test_without_the_option_nothing_is_fixed(data: Path, base: ModelSpec) -> None:
    spoil(data)
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    with pytest.raises(PictureError):
        run(base)
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before


def test_a_caption_that_two_pictures_share_is_left_with_the_other(data: Path, base: ModelSpec) -> None:
    texture(8).save(data / "picture_1.webp")
    (data / "picture_1.png").write_bytes(b"")
    run(base, fix=True)
    assert (data / "picture_1.txt").read_text() == "a matbrk wall, number 1"
    assert not (data / "picture_1.png").exists()
