import fcntl
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from tasks.new import _next_steps, main, new
from tasks.validate.checks import ValidateSettings
from tasks.validate.stage import validate
from tests.tasks.data_folder import texture
from tlora.errors import PictureError, SettingsError
from tlora.flux.spec import ModelSpec
from tlora.metadata.concept import HeldOutShare, read_concept
from tlora.pictures.manifest import read_manifest
from tlora.pictures.tokens import TextSettings
from tlora.pictures.views import ViewSettings


@pytest.fixture
def bricks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder of five pictures, one with a caption; the working folder is another, empty one."""
    source, work = tmp_path / "my bricks", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    for n in range(4):
        texture(n).save(source / f"wall {n}.JPG", "JPEG")
    texture(9).save(source / "e\u0301.png")
    (source / "wall 0.txt").write_text("an old matbrk wall")
    (source / "IMG_1.CR2").touch()
    monkeypatch.chdir(work)
    return source


def test_pictures_and_captions_are_copied_and_missing_captions_written(bricks: Path) -> None:
    copied = new(bricks, "matbrk")
    assert (copied.pictures, copied.captions_written, copied.left_behind) == (5, 4, ("IMG_1.CR2",))
    assert {path.name: path.read_text() for path in Path("data/images").glob("*.txt")} == {
        "wall 0.txt": "an old matbrk wall",
        "wall 1.txt": "a photo of matbrk\n",
        "wall 2.txt": "a photo of matbrk\n",
        "wall 3.txt": "a photo of matbrk\n",
        "\u00e9.txt": "a photo of matbrk\n",
    }
    assert Path("data/images/wall 2.JPG").read_bytes() == (bricks / "wall 2.JPG").read_bytes()
    assert "5 pictures" in Path("data/SOURCES.md").read_text()
    assert not (bricks / "wall 1.txt").exists()


def lines_of(source: Path, capsys: pytest.CaptureFixture[str]) -> str:
    copied = new(source, "matbrk", replace=True)
    capsys.readouterr()
    return _next_steps(copied, "matbrk")


def captions() -> dict[str, str]:
    return {path.stem: path.read_text().strip() for path in Path("data/images").glob("*.txt")}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({f"wall {n}.caption": f"wall number {n}" for n in (1, 2)}, "2 captions were read from *.caption"),
        ({f"wall {n}.JPG.txt": f"wall number {n}\n" for n in (1, 2)}, "2 captions were read from *.JPG.txt"),
        (
            {f"wall {n}.json": json.dumps({"caption": f"wall number {n}", "tags": []}) for n in (1, 2)},
            "2 captions were read from *.json",
        ),
        (
            {
                "metadata.jsonl": "".join(
                    json.dumps({"file_name": f"wall {n}.JPG", "text": f"wall number {n}"}) + "\n" for n in (1, 2)
                )
            },
            "2 captions were read from metadata.jsonl",
        ),
        (
            {"captions.csv": 'image,caption\nimages/wall 1.JPG,wall number 1\nwall 2,"wall number 2"\nother.png,x\n'},
            "2 captions were read from captions.csv",
        ),
        (
            {"captions.csv": "\ufefffile_name;text\nwall 1.jpg;wall number 1\nwall 2.jpg;wall number 2\n"},
            "2 captions were read from captions.csv",
        ),
    ],
)
def test_captions_as_other_trainers_write_them_are_read(
    bricks: Path, files: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (bricks / name).write_text(text)
    said_lines = lines_of(bricks, capsys)
    stock = "a photo of matbrk"
    assert captions() == {
        "wall 0": "an old matbrk wall",
        "wall 1": "wall number 1",
        "wall 2": "wall number 2",
        "wall 3": stock,
        "é": stock,
    }
    assert said in said_lines
    assert "2 captions were missing and read 'a photo of matbrk' now" in said_lines
    assert all((bricks / name).read_text() == text for name, text in files.items())


def test_captions_that_are_not_used_are_named_with_the_reason(bricks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bricks / "wall 0.caption").write_text("another text")
    (bricks / "wall 1.json").write_text("{")
    (bricks / "wall 2.caption").write_text("of the caption file")
    (bricks / "wall 2.JPG.txt").write_text("of the other file")
    (bricks / "wall 3.caption").write_bytes("wänd".encode("latin-1"))
    (bricks / "metadata.jsonl").write_text('{"file_name": "elsewhere.png", "text": "x"}\n')
    (bricks / "captions.csv").write_text("a,b\n1,2\n")
    (bricks / "wall 1.tags").write_text("brick, wall")
    copied = new(bricks, "matbrk")
    assert captions()["wall 0"] == "an old matbrk wall"
    assert captions()["wall 2"] == "of the caption file"
    assert copied.left_behind == ("IMG_1.CR2", "wall 1.tags")
    assert set(copied.unused) == {
        "wall 0.caption", "wall 1.json", "wall 2.JPG.txt", "wall 3.caption", "metadata.jsonl", "captions.csv",
    }  # fmt: skip
    assert copied.unused["wall 0.caption"] == "wall 0.JPG has its caption in wall 0.txt"
    assert copied.unused["wall 2.JPG.txt"] == "wall 2.JPG has its caption in wall 2.caption"
    assert "not UTF-8" in copied.unused["wall 3.caption"]
    assert copied.unused["metadata.jsonl"] == "it names no picture that is without a caption"
    assert copied.unused["captions.csv"].startswith("its first line needs a column of file_name")
    said = _next_steps(copied, "matbrk")
    assert "  not used: captions.csv: its first line needs" in said
    assert "  and 1 more files of captions were not used" in said
    assert "left behind, for it is not read here: IMG_1.CR2, wall 1.tags" in said


def test_the_concept_has_prompts_with_the_trigger_and_a_held_out_part(bricks: Path) -> None:
    new(bricks, "matbrk")
    concept = read_concept(Path("concept.yaml"))
    assert (concept.name, concept.trigger, concept.held_out) == ("matbrk", "matbrk", HeldOutShare(0.2, 0))
    assert len(concept.prompts) == 6
    assert all("matbrk" in prompt for prompt in concept.prompts)
    new(bricks, "old brick", "wall-3", replace=True)
    assert (read_concept(Path("concept.yaml")).name, read_concept(Path("concept.yaml")).trigger) == ("wall-3", "old brick")


def test_what_it_writes_passes_validation(bricks: Path, tmp_path: Path) -> None:
    new(bricks, "matbrk")
    paths = {name: Path(name) for name in ("manifest", "report")}
    base = ModelSpec(str(tmp_path / "no-model"))
    where = {"data": Path("data/images"), "concept": Path("concept.yaml"), **paths}
    validate(ValidateSettings(), base, ViewSettings(64), TextSettings(77), **where)
    assert len(read_manifest(Path("manifest/train.json")).items) == 4
    assert len(read_manifest(Path("manifest/held_out.json")).items) == 1


def test_pictures_that_are_there_make_way_only_when_told_and_are_kept(bricks: Path) -> None:
    new(bricks, "matbrk")
    Path("data/images/mine.txt").write_text("by hand")
    with pytest.raises(PictureError, match="data/images: holds pictures already: to replace them add --replace"):
        new(bricks, "zwx")
    assert read_concept(Path("concept.yaml")).trigger == "matbrk"
    Path("data/prior").mkdir()
    Path("data/prior/other.txt").write_text("a wall of wood")
    new(bricks, "zwx", replace=True)
    assert not Path("data/images/mine.txt").exists()
    assert not Path("data/prior").exists()
    (kept,) = Path(".state/replaced").iterdir()
    assert (kept / "images" / "mine.txt").read_text() == "by hand"
    assert (kept / "prior" / "other.txt").read_text() == "a wall of wood"
    assert read_concept(kept / "concept.yaml").trigger == "matbrk"


@pytest.mark.parametrize("trigger", ["", " matbrk", "true", "12", "a: b", "{x}", "a #b", "two\nlines", '"quoted"'])
def test_a_trigger_that_yaml_would_misread_is_refused_before_anything_is_written(bricks: Path, trigger: str) -> None:
    with pytest.raises(SettingsError, match=r"--trigger"):
        new(bricks, trigger)
    assert list(Path().iterdir()) == []


def test_one_picture_a_broken_link_or_the_target_itself_are_refused(bricks: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    texture(1).save(tmp_path / "one" / "a.png")
    with pytest.raises(PictureError, match="holds one picture, and 2 are needed"):
        new(tmp_path / "one", "matbrk")
    (tmp_path / "one" / "b.png").symlink_to("nowhere")
    with pytest.raises(PictureError, match=r"b\.png: it is a broken link"):
        new(tmp_path / "one", "matbrk")
    assert not Path("data").exists()
    new(bricks, "matbrk")
    with pytest.raises(PictureError, match="this is where the pictures go"):
        new(Path("data/images"), "matbrk", replace=True)


def test_a_link_is_copied_as_the_picture_that_it_leads_to(bricks: Path) -> None:
    (bricks / "link.jpg").symlink_to("wall 1.JPG")
    new(bricks, "matbrk")
    assert not Path("data/images/link.jpg").is_symlink()
    assert Path("data/images/link.jpg").read_bytes() == (bricks / "wall 1.JPG").read_bytes()


def test_a_wrong_folder_is_one_line_and_exit_2(bricks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "nowhere", "--trigger", "matbrk"]) == 2
    assert capsys.readouterr().err.startswith("new: error: nowhere: no such folder")


def test_a_hostile_folder_is_one_line_that_says_what_to_do(bricks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("nested/walls").mkdir(parents=True)
    texture(1).save("nested/walls/a.png")
    Path("empty").mkdir()
    Path("blocked").mkdir()
    for name in ("a", "b"):
        texture(2).save(f"blocked/{name}.png")
    Path("data").write_text("a file where the folder belongs")
    for data, trigger, reason in (
        ("", "matbrk", "--data: give the folder of your pictures: make new DATA=~/bricks TRIGGER=matbrk"),
        (str(bricks), "", "--trigger: give the word that comes to mean your pictures, such as matbrk"),
        (str(bricks), "煉瓦", "--trigger '煉瓦': makes no name of a-z and 0-9: give one, such as --name bricks"),
        ("nested", "matbrk", "nested: its pictures are in subfolders (walls): give one of those, or move them up"),
        ("empty", "matbrk", "empty: holds no pictures"),
        ("blocked", "matbrk", "data: File exists"),
    ):
        assert main(["--data", data, "--trigger", trigger]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"new: error: {reason}")
        assert error.count("\n") == 1
    assert Path("data").read_text() == "a file where the folder belongs"


def test_a_concept_that_somebody_worked_on_is_kept_also_where_no_pictures_were(bricks: Path) -> None:
    Path("concept.yaml").write_text("# an evening's work\n")
    texture(1).save(bricks / "wall 1.png")
    copied = new(bricks, "matbrk")
    (kept,) = Path(".state/replaced").iterdir()
    assert (kept / "concept.yaml").read_text() == "# an evening's work\n"
    assert (copied.pictures, copied.captions_written) == (6, 4)  # wall 1.png has its caption in common with wall 1.JPG


@pytest.mark.slow
def test_the_command_adds_the_data_to_dvc_and_says_what_to_do_next(bricks: Path) -> None:
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, check=True)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); from tasks.new import main; sys.exit(main())"]
    options = ["--data", str(bricks), "--trigger", "matbrk"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 captions were missing and read 'a photo of matbrk' now" in done.stdout
    assert "dvc repro validate" in done.stdout
    (out,) = yaml.safe_load(Path("data.dvc").read_text())["outs"]
    assert (out["path"], out["nfiles"]) == ("data", 11)
    status = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(status.stdout) == {}


def test_the_shipped_pictures_make_way_unasked_as_long_as_nothing_was_done_to_them(
    bricks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caption = Path("data/images/wall.txt")
    caption.parent.mkdir(parents=True)
    caption.write_text("a matbrk wall")
    texture(0).save("data/images/wall.png")
    ship("data", Path("shipped/files/md5"))
    caption.write_text("somebody's own words")
    with pytest.raises(PictureError, match="holds pictures already: to replace them add --replace"):
        new(bricks, "matbrk")
    caption.write_text("a matbrk wall")
    Path("data/images/more.txt").touch()
    with pytest.raises(PictureError, match="holds pictures already"):
        new(bricks, "matbrk")
    Path("data/images/more.txt").unlink()
    assert new(bricks, "matbrk").pictures == 5
    assert "what was there is kept in" in capsys.readouterr().out


def ship(folder: str, remote: Path) -> None:
    """Write data.dvc, and the listing of a folder as a DVC remote holds it."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    md5 = {path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() for path in files}
    listing = json.dumps([{"md5": digest, "relpath": name} for name, digest in md5.items()])
    digest = hashlib.md5(listing.encode()).hexdigest() + ".dir"
    (remote / digest[:2]).mkdir(parents=True)
    (remote / digest[:2] / digest[2:]).write_text(listing)
    Path("data.dvc").write_text(f"outs:\n- md5: {digest}\n  path: data\n")


def test_of_two_at_once_the_second_waits_until_the_first_is_done(bricks: Path) -> None:
    state = Path(".state")
    state.mkdir()
    with (state / "new.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=main, args=([f"--data={bricks}", "--trigger=matbrk"],))
        second.start()
        second.join(1)
        assert second.is_alive()
        assert list(state.iterdir()) == [state / "new.lock"]
    second.join(120)
    assert len(list(Path("data/images").glob("*.JPG"))) == 4
