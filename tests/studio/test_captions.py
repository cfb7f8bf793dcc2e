"""Captions and pictures when two people change them at once, or a run works on them."""

import threading
from pathlib import Path

import pytest

from studio import captions
from tests.tasks.data_folder import lay_out
from tlora.errors import PictureError


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return lay_out(tmp_path, 2)


def test_only_one_changes_the_pictures_at_a_time_and_the_other_is_told(images: Path) -> None:
    begun, over = threading.Event(), threading.Event()

    def change() -> None:
        with captions.changing_pictures():
            begun.set()
            over.wait(60)

    other = threading.Thread(target=change)
    other.start()
    assert begun.wait(60)
    for act in (lambda: captions.check("--fix"), lambda: captions._save(["picture_0.png"], [""], ["mine"])):
        with pytest.raises(PictureError, match=r"^somebody else is changing the pictures just now"):
            act()
    over.set()
    other.join()
    with captions.changing_pictures():
        pass


def test_a_caption_that_somebody_changed_meanwhile_is_kept_and_no_other_is_written(images: Path) -> None:
    names, shown = ["picture_0.png", "picture_1.png"], ["a matbrk wall, number 0", "a matbrk wall, number 1"]
    (images / "picture_1.txt").write_text("a matbrk wall, theirs")
    with pytest.raises(PictureError, match=r"^picture_1\.png: somebody has changed it meanwhile"):
        captions._save(names, shown, ["a matbrk wall, mine", "a matbrk wall, mine too"])
    texts = [(images / f"picture_{number}.txt").read_text() for number in range(2)]
    assert texts == ["a matbrk wall, number 0", "a matbrk wall, theirs"]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "picture_9.png"])
def test_a_caption_is_written_beside_no_other_picture_than_those_of_the_folder(images: Path, name: str) -> None:
    with pytest.raises(PictureError, match="somebody has changed it meanwhile"):
        captions._save([name], [""], ["mine"])
    assert not (images.parent / "secret.txt").exists()


@pytest.mark.parametrize("folder", ["/etc", "models/../data", "models/elsewhere"])
def test_a_model_from_outside_of_models_is_refused(images: Path, folder: str) -> None:
    Path("models").mkdir()
    Path("models/elsewhere").symlink_to("/etc")
    with pytest.raises(PictureError, match=r": is not in models/: a model of this machine must lie there$"):
        captions.propose(folder, "")
