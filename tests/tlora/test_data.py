from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlora.data
from tests.tasks.picture_corpus import encode, sample
from tlora.data import CaptionDataset
from tlora.errors import PictureError
from tlora.pictures.decode import decode_picture
from tlora.pictures.views import View, ViewSettings

SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(encode(sample(), "PNG"))
    (tmp_path / "a.txt").write_text("a wall")
    (tmp_path / "b.jpg").write_bytes(encode(sample().resize((96, 48)), "JPEG", exif=SIDEWAYS))
    (tmp_path / "c.tif").write_bytes(encode(sample().resize((96, 48)), "TIFF", exif=SIDEWAYS))
    return tmp_path


def test_each_view_has_its_pixels_its_caption_and_its_mask(folder: Path) -> None:
    mask = Image.new("L", (64, 48), 255)
    mask.paste(0, (0, 0, 32, 48))
    mask.save(folder / "a-masklabel.png")
    views = CaptionDataset(folder, ViewSettings(48, center_crop=False, random_flip=True), 16)
    assert [(v.name, v.caption, v.view) for v in views] == [
        ("a.png", "a wall", View(48, 48, False)),
        ("a.png", "a wall", View(48, 48, True)),
        ("b.jpg", "", View(32, 64, False)),
        ("b.jpg", "", View(32, 64, True)),
        ("c.tif", "", View(32, 64, False)),
        ("c.tif", "", View(32, 64, True)),
    ]
    plain, mirrored = views[0], views[1]
    assert np.array_equal(plain.pixels.numpy(), mirrored.pixels.numpy()[..., ::-1])
    assert plain.loss_mask is not None
    assert plain.loss_mask[:, :20].max() == 0
    assert plain.loss_mask[:, 28:].min() == 1
    assert views[2].loss_mask is None
    assert views[2].pixels.shape == (3, 64, 32)


def test_pictures_can_be_chosen_by_name(folder: Path) -> None:
    assert [v.name for v in CaptionDataset(folder, ViewSettings(32), 16, names=["b.jpg"])] == ["b.jpg"]


def test_a_picture_is_decoded_once_for_all_of_its_views(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def count(path: Path) -> Image.Image:
        decoded.append(path.name)
        return decode_picture(path)

    monkeypatch.setattr(tlora.data, "decode_picture", count)
    views = CaptionDataset(folder, ViewSettings(32, center_crop=False, random_flip=True), 16)
    assert decoded == []
    assert len(list(views)) == 6
    assert decoded == ["a.png", "b.jpg", "c.tif"]


def test_crops_of_a_picture_are_views_of_it(folder: Path) -> None:
    sample().resize((400, 300)).save(folder / "d.png")
    views = list(CaptionDataset(folder, ViewSettings(32, views_per_picture=4), 16, names=["d.png"]))
    assert len(views) == 4
    assert len({view.pixels.numpy().tobytes() for view in views}) == 4


def test_a_picture_without_a_readable_head_is_refused_by_name(folder: Path) -> None:
    (folder / "d.png").write_bytes(b"this is text")
    with pytest.raises(PictureError, match=r"d\.png: it is text, not a picture"):
        CaptionDataset(folder, ViewSettings(32), 16)
