import json
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from tests.tasks.data_folder import CONCEPT, findings, reason, run, texture
from tlora.errors import PictureError
from tlora.flux.spec import ModelSpec


def test_pictures_that_ruin_adapters_are_warned_of(data: Path, base: ModelSpec) -> None:
    texture(10, (48, 48)).save(data / "small.png")
    texture(11, (400, 90)).save(data / "long.png")
    texture(12).filter(ImageFilter.GaussianBlur(5)).save(data / "soft.png")
    Image.new("RGB", (96, 96), "grey").save(data / "blank.png")
    shutil.copy(data / "picture_1.png", data / "twin.png")
    texture(2).resize((80, 80)).save(data / "scaled.png")
    for name in ("small", "long", "soft", "blank", "twin", "scaled"):
        (data / f"{name}.txt").write_text(f"a {name} matbrk wall")
    run(base)
    assert findings() == {
        ("warning", "small", "small.png"),
        ("warning", "long", "long.png"),
        ("warning", "blurred", "soft.png"),
        ("warning", "blank", "blank.png"),
        ("warning", "exact_copy", "twin.png"),
        ("warning", "near_copy", "scaled.png"),
    }


def test_a_tiny_picture_stops(data: Path, base: ModelSpec) -> None:
    texture(1, (40, 31)).save(data / "picture_1.png")
    with pytest.raises(
        PictureError, match=r"^picture_1\.png: it is 40 x 31 pixels, at least 32 a side are needed: find a larger one$"
    ):
        run(base)


def test_a_copy_across_the_split_stops_and_a_likeness_is_warned_of(data: Path, base: ModelSpec) -> None:
    texture(0).resize((88, 88)).save(data / "picture_3.png")
    run(base)
    assert findings() == {("warning", "near_copy_across_split", "picture_0.png")}
    assert reason("near_copy_across_split") == (
        "it is held out, and looks like picture_3.png, which is trained on (4 of 64 bits differ)"
    )
    shutil.copy(data / "picture_0.png", data / "picture_3.png")
    with pytest.raises(
        PictureError, match=r"same file is trained on as picture_3\.png: memorising would pass for learning: remove one"
    ):
        run(base)


def test_captions_are_checked_for_presence_trigger_and_encoding(data: Path, base: ModelSpec) -> None:
    (data / "picture_1.txt").unlink()
    (data / "picture_2.txt").write_text(" \n")
    (data / "picture_3.txt").write_text("a Matbrk wall")
    (data / "picture_4.txt").write_text("matbrks and other walls")
    run(base)
    assert findings() == {
        ("warning", "caption_missing", "picture_1.png"),
        ("warning", "caption_empty", "picture_2.png"),
        ("warning", "trigger_missing", "picture_3.png"),
        ("warning", "trigger_missing", "picture_4.png"),
    }
    assert "'Matbrk' for the trigger word 'matbrk'" in reason("trigger_missing")
    (data / "picture_5.txt").write_bytes("a matbrk wänd".encode("latin-1"))
    with pytest.raises(PictureError, match=r"picture_5.png: its caption is not UTF-8 text .*: save it as UTF-8"):
        run(base)


def test_a_trigger_that_no_caption_has_stops(data: Path, base: ModelSpec) -> None:
    Path("concept.yaml").write_text(CONCEPT.replace("matbrk", "zwx"))
    with pytest.raises(PictureError, match="no caption holds the trigger word 'zwx'"):
        run(base)


def test_a_trigger_that_may_be_in_a_caption_that_cannot_be_read_is_not_missed(data: Path, base: ModelSpec) -> None:
    for path in data.glob("*.txt"):
        path.write_text("a wall")
    (data / "picture_3.txt").write_bytes("a matbrk wall".encode("utf-16"))
    with pytest.raises(PictureError, match=r"^picture_3\.png: its caption is not UTF-8 text"):
        run(base)
    assert "trigger_nowhere" not in {kind for _, kind, _ in findings()}


def test_equal_captions_and_prompts_without_the_trigger_are_warned_of(data: Path, base: ModelSpec) -> None:
    for caption in data.glob("*.txt"):
        caption.write_text("a photo of matbrk")
    Path("concept.yaml").write_text(CONCEPT.replace("[a matbrk wall]", "[a matbrk wall, a brick wall]"))
    run(base)
    assert findings() == {
        ("warning", "captions_equal", "concept.yaml"),
        ("warning", "prompt_without_trigger", "concept.yaml"),
    }


def test_a_caption_is_counted_with_the_models_own_tokenizers(data: Path, base: ModelSpec) -> None:
    (data / "picture_1.txt").write_text("a matbrk wall " + "with a white circle " * 8)
    run(base, max_sequence_length=20)
    assert findings() == {("warning", "too_long", "picture_1.png")}
    text = Path("reports/validate/findings.md").read_text()
    assert "CLIP reads 32 of 37 tokens and never sees 'circle with a white circle'" in text
    assert "T5 reads 20 of 36 tokens" in text


def test_without_the_model_captions_are_not_counted_and_that_is_said(data: Path, tmp_path: Path) -> None:
    run(ModelSpec(str(tmp_path / "nowhere")))
    assert findings() == {("warning", "tokens_uncounted", "params.yaml")}


def test_files_that_take_no_part_are_named(data: Path, base: ModelSpec) -> None:
    texture(20).save(data / "picture_1.jpg")
    for name in ("orphan.txt", "notes.md", ".DS_Store"):
        (data / name).write_text("matbrk")
    (data / "more").mkdir()
    run(base)
    assert findings() == {
        ("warning", "shared_caption", "picture_1.png"),
        ("warning", "orphan_caption", "orphan.txt"),
        ("warning", "ignored", "notes.md"),
        ("warning", "subfolder", "more"),
    }
    (data / "IMG_1.CR2").touch()
    with pytest.raises(PictureError, match=r"IMG_1.CR2: .cr2 is not a kind that can be read here: convert it"):
        run(base)


def test_a_loss_mask_is_no_picture_and_a_wrong_one_stops(data: Path, base: ModelSpec) -> None:
    Image.new("L", (96, 96), "white").save(data / "picture_1-masklabel.png")
    Image.new("L", (96, 96), "white").save(data / "picture_9-masklabel.png")
    run(base)
    assert findings() == {("warning", "orphan_mask", "picture_9-masklabel.png")}
    items = json.loads(Path("artifacts/manifest/train.json").read_text())["items"]
    assert [item["picture"] for item in items if item["mask_sha256"]] == ["picture_1.png"]
    Image.new("L", (96, 90), "white").save(data / "picture_1-masklabel.png")
    with pytest.raises(PictureError, match=r"^picture_1\.png: the loss mask is 96 x 90 pixels, its picture 96 x 96"):
        run(base)
    Image.new("L", (96, 96), "black").save(data / "picture_1-masklabel.png")
    with pytest.raises(PictureError, match=r"^picture_1\.png: the loss mask is black all over"):
        run(base)


def test_a_held_out_name_that_is_no_picture_stops_with_the_nearest(data: Path, base: ModelSpec) -> None:
    Path("concept.yaml").write_text(CONCEPT.replace("picture_0.png", "picture_0.jpg"))
    with pytest.raises(PictureError, match=r"concept.yaml: 'picture_0.jpg' is to be held out, .* did you mean 'picture_0.png'"):
        run(base)


def test_captions_of_other_trainers_among_the_data_are_named(data: Path, base: ModelSpec) -> None:
    others = ("picture_1.caption", "picture_2.png.txt", "picture_3.json", "metadata.jsonl", "captions.csv")
    for name in (*others, "notes.md"):
        (data / name).write_text("{}")
    run(base)
    assert findings() == {("warning", "other_captions", name) for name in others} | {("warning", "ignored", "notes.md")}
