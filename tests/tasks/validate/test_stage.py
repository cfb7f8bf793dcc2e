import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tasks.data_folder import findings, run, texture, tokenizers_only
from tests.tasks.picture_corpus import make_corpus
from tlora.errors import PictureError, SettingsError
from tlora.flux.spec import ModelSpec
from tlora.pictures.manifest import read_manifest


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


def test_an_empty_and_a_missing_folder_are_one_line(data: Path, base: ModelSpec) -> None:
    for path in data.iterdir():
        path.unlink()
    with pytest.raises(PictureError, match=r"^data/images: holds no pictures [^\n]*$"):
        run(base)
    data.rmdir()
    with pytest.raises(PictureError, match=r"^data/images: no such folder$"):
        run(base)


def test_the_report_stands_alone_and_escapes_other_peoples_text(data: Path, base: ModelSpec) -> None:
    texture(30).save(data / "<b>.png")
    (data / "<b>.txt").write_text("<script>matbrk</script>")
    run(base)
    page = Path("reports/validate/report.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 7
    assert "&lt;script&gt;matbrk&lt;/script&gt;" in page
    assert not re.search(r"<script>matbrk|https?://|<b>\.png", page)


def test_a_resolution_that_the_base_does_not_take_is_refused_before_a_picture_is_read(
    data: Path, base: ModelSpec, tmp_path: Path
) -> None:
    tokenizers_only(tmp_path / "with_vae")
    (tmp_path / "with_vae" / "vae").mkdir()
    (tmp_path / "with_vae" / "vae" / "config.json").write_text('{"block_out_channels": [8, 8, 8, 8, 8, 8, 8]}')
    for path in data.iterdir():
        path.unlink()
    with pytest.raises(SettingsError, match="resolution must be a multiple of 128 for this base model, got 64: use 128"):
        run(ModelSpec(str(tmp_path / "with_vae")))


def test_nothing_is_written_beside_the_pictures(data: Path, base: ModelSpec) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.iterdir()}
    run(base)
    assert {path: path.stat().st_mtime_ns for path in data.iterdir()} == before


def test_the_command_works_without_torch(data: Path, base: ModelSpec) -> None:
    Path("params.yaml").write_text(
        f"model: {{path: '{base.path}', revision: '', dtype: float32, device: auto, quantisation: none}}\n"
        "validate: {min_side: 32, max_aspect: 3.0, min_sharpness: 0.02, near_copy_bits: 8, engine: processes}\n"
        "cache_latents: {resolution: 64, center_crop: true, random_flip: false,"
        " views_per_picture: 1, min_scale: 0.25, max_scale: 1.0}\n"
        "cache_prompts: {max_sequence_length: 77}\n"
    )
    code = (
        f"import atexit, sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
        "from tasks.running.cli import run_stage\n"
        "from tasks.validate.stage import validate\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "run_stage(validate)"
    )
    folders = ["--manifest", "artifacts/manifest", "--report", "reports/validate"]
    command = [sys.executable, "-c", code, "--data", "data/images", "--concept", "concept.yaml", *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
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
