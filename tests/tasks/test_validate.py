import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pocket.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from tasks.checks import ValidateSettings
from tasks.validate import validate
from tests.tasks.picture_corpus import make_corpus
from tlora.base_model import ModelSpec
from tlora.colour import Refused
from tlora.errors import PictureError
from tlora.manifest import read_manifest
from tlora.pictures import decode_bytes, read_picture

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
SETTINGS = ValidateSettings(resolution=64, max_sequence_length=77)
CONCEPT = """\
name: brick
trigger: matbrk
held_out: [picture_0.png]
prompts: [a matbrk wall]
"""


def texture(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Return a picture that resembles no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    noise = np.random.default_rng(seed).integers(0, 50, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(np.asarray(Image.fromarray(coarse).resize(size)) // 2 + noise)


def lay_out(root: Path, count: int = 6) -> Path:
    """Fill `root` with pictures, captions, concept.yaml and the tokenizers of a base model; return the data folder."""
    data = root / "data" / "images"
    data.mkdir(parents=True)
    for n in range(count):
        texture(n).save(data / f"picture_{n}.png")
        (data / f"picture_{n}.txt").write_text(f"a matbrk wall, number {n}")
    (root / "concept.yaml").write_text(CONCEPT)
    return data


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """Return a base model with nothing but its tokenizers."""
    folder = tmp_path_factory.mktemp("base")
    build_clip_tokenizer().save_pretrained(folder / "tokenizer")
    build_t5_tokenizer().save_pretrained(folder / "tokenizer_2")
    return ModelSpec(str(folder))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder in order, the working folder being two above it."""
    monkeypatch.chdir(tmp_path)
    return lay_out(tmp_path)


def run(base: ModelSpec, settings: ValidateSettings = SETTINGS) -> None:
    """Run the stage in the working folder."""
    validate(
        settings,
        base,
        data=Path("data/images"),
        concept=Path("concept.yaml"),
        manifest=Path("artifacts/manifest"),
        report=Path("reports/validate"),
    )


def findings() -> set[tuple[str, str, str]]:
    """Return (severity, kind, file) of what the last run found."""
    found = json.loads(Path("reports/validate/findings.json").read_text())["findings"]
    return {(f["severity"], f["kind"], f["file"]) for f in found}


def reason(kind: str) -> str:
    """Return the reason of the first finding of a kind."""
    found = json.loads(Path("reports/validate/findings.json").read_text())["findings"]
    return next(f["reason"] for f in found if f["kind"] == kind)


def test_every_file_of_the_corpus_is_converted_warned_of_or_refused_as_documented(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    assert len(corpus) >= 60
    decided = {}
    for specimen in corpus:
        try:
            decoded = decode_bytes(read_picture(tmp_path / specimen.file))
            assert decoded.picture.mode == "RGB"
            decided[specimen.file] = "warn" if decoded.notes else "convert"
        except Refused as refused:
            assert refused.reason and refused.remedy
            decided[specimen.file] = "refuse"
    assert decided == {specimen.file: specimen.decision for specimen in corpus}


def test_the_documented_table_is_the_corpus(tmp_path: Path) -> None:
    rows = re.findall(r"^\| ([^|]+) \| (convert|warn|refuse) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert set(rows) == {(specimen.kind, specimen.decision) for specimen in make_corpus(tmp_path)}


def test_every_kind_of_finding_is_documented() -> None:
    code = "".join((Path(__file__).parents[2] / "tasks" / name).read_text() for name in ("checks.py", "validate.py"))
    code += (Path(__file__).parents[2] / "tlora" / "colour.py").read_text()
    kinds = set(re.findall(r'Finding\(\s*"(?:error|warning)",\s*"(\w+)"', code)) | set(re.findall(r'Note\("(\w+)"', code))
    documented = {
        kind
        for row in re.findall(r"^\| ([\w, ]+) \| (?:error|warning) \|", DOCUMENT.read_text(), re.M)
        for kind in row.split(", ")
    }
    assert len(kinds) > 15
    assert kinds <= documented


def test_the_stage_reports_every_refused_file_of_the_corpus_and_stops(data: Path, base: ModelSpec) -> None:
    corpus = make_corpus(data)
    with pytest.raises(PictureError, match=r"^[^\n]* \(and \d+ more errors, all in reports/validate/findings.md\)$"):
        run(base)
    refused = {s.file for s in corpus if s.decision == "refuse"}
    assert {file for severity, kind, file in findings() if (severity, kind) == ("error", "unreadable")} == refused
    assert not Path("artifacts/manifest/train.json").exists()


def test_data_in_order_gives_no_finding_and_two_manifests(
    data: Path, base: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    run(base)
    assert findings() == set()
    train, held_out = (read_manifest(Path(f"artifacts/manifest/{name}.json")) for name in ("train", "held_out"))
    assert [item.picture for item in held_out.items] == ["picture_0.png"]
    assert [item.picture for item in train.items] == [f"picture_{n}.png" for n in range(1, 6)]
    assert (train.items[0].width, train.items[0].height, train.items[0].caption) == (96, 96, "a matbrk wall, number 1")
    assert "6 pictures, 5 to train on and 1 held out: 0 errors, 0 warnings" in capsys.readouterr().out


def test_the_same_data_gives_the_same_bytes_whether_remembered_or_not(data: Path, base: ModelSpec) -> None:
    outputs = []
    for forget in (False, False, True):
        if forget:
            shutil.rmtree(".state")
        run(base)
        outputs.append(
            {path.name: path.read_bytes() for path in Path().glob("artifacts/manifest/*")}
            | {path.name: path.read_bytes() for path in Path().glob("reports/validate/*")}
        )
    assert len(outputs[0]) == 5
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_change_to_a_held_out_picture_leaves_the_training_manifest_alone(data: Path, base: ModelSpec) -> None:
    run(base)
    before = Path("artifacts/manifest/train.json").read_bytes()
    texture(77).save(data / "picture_0.png")
    (data / "picture_0.txt").write_text("another matbrk wall")
    run(base)
    assert Path("artifacts/manifest/train.json").read_bytes() == before


def test_an_unchanged_picture_is_not_decoded_again_and_a_damaged_memory_is(data: Path, base: ModelSpec) -> None:
    run(base)
    kept = sorted(Path(".state/cache/validate").glob("*/*/*.json"))
    assert len(kept) == 6
    kept[0].write_text(kept[0].read_text().replace('"width": 96', '"width": 960'))
    kept[1].write_text("{")
    run(base)
    assert {
        item.width for name in ("train", "held_out") for item in read_manifest(Path(f"artifacts/manifest/{name}.json")).items
    } == {
        96,
        960,
    }
    assert "thumbnail" in json.loads(kept[1].read_text())


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
    assert findings() == {("warning", "near_copy_across_split", "picture_3.png")}
    shutil.copy(data / "picture_0.png", data / "picture_3.png")
    with pytest.raises(PictureError, match="memorising would pass for learning: remove one, or hold out both"):
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
    run(base, ValidateSettings(resolution=64, max_sequence_length=20))
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
    (data / "IMG_1.HEIC").touch()
    with pytest.raises(PictureError, match=r"IMG_1.HEIC: .heic is not a kind that can be read here: convert it"):
        run(base)


def test_a_held_out_name_that_is_no_picture_stops_with_the_nearest(data: Path, base: ModelSpec) -> None:
    Path("concept.yaml").write_text(CONCEPT.replace("picture_0.png", "picture_0.jpg"))
    with pytest.raises(PictureError, match=r"concept.yaml: 'picture_0.jpg' is to be held out, .* did you mean 'picture_0.png'"):
        run(base)


def test_an_empty_and_a_missing_folder_are_one_line(data: Path, base: ModelSpec) -> None:
    for path in data.iterdir():
        path.unlink()
    with pytest.raises(PictureError, match=r"^data/images: holds no pictures [^\n]*$"):
        run(base)
    data.rmdir()
    with pytest.raises(PictureError, match=r"^data/images: no such folder: [^\n]*$"):
        run(base)


def test_the_report_stands_alone_and_escapes_other_peoples_text(data: Path, base: ModelSpec) -> None:
    texture(30).save(data / "<b>.png")
    (data / "<b>.txt").write_text("<script>matbrk</script>")
    run(base)
    page = Path("reports/validate/report.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 7
    assert "&lt;script&gt;matbrk&lt;/script&gt;" in page
    assert not re.search(r"<script|https?://|<b>\.png", page)


def test_nothing_is_written_beside_the_pictures(data: Path, base: ModelSpec) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.iterdir()}
    run(base)
    assert {path: path.stat().st_mtime_ns for path in data.iterdir()} == before


def test_the_command_works_without_torch(data: Path, base: ModelSpec) -> None:
    Path("params.yaml").write_text(
        f"model: {{path: '{base.path}', revision: '', dtype: float32, device: auto}}\n"
        "validate: {resolution: 64, max_sequence_length: 77, min_side: 32, max_aspect: 3.0, min_sharpness: 0.02, near_copy_bits: 8}\n"
    )
    command = "import sys; from tasks import cli, validate; from atexit import register\n"
    command += "register(lambda: print('torch' in sys.modules)); cli.run_stage(validate.validate)"
    options = "--data data/images --concept concept.yaml --manifest artifacts/manifest --report reports/validate".split()
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {command}", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False"), done.stderr


@pytest.mark.slow
def test_a_thousand_small_files_take_seconds(data: Path, base: ModelSpec) -> None:
    for n in range(1000):
        texture(1000 + n, (64, 64)).save(data / f"many_{n}.jpg")
        (data / f"many_{n}.txt").write_text(f"matbrk number {n}")
    times = []
    for _ in range(2):
        began = time.monotonic()
        run(base)
        times.append(time.monotonic() - began)
    assert times[0] < 30
    assert times[1] < 15
