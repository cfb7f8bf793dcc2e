"""`make demo DATA=rock`: what it says where the package cannot be had, and what it puts where. dpkg-deb builds packages here."""

import io
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pocket.captions import WORDS
from tasks import demo_data
from tasks.demo_data import COPYRIGHT, OTHERS, PACKAGE, PICTURES, TEXTURES, fetch, main, take_out
from tasks.draw_prior.folder import list_prior_pictures
from tasks.dvc_command import run_dvc
from tests.tasks.data_folder import texture
from tlora.errors import SettingsError
from tlora.metadata.concept import read_concept

ROOT = Path(__file__).parents[2]
HAS_APT = shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with nobody's pictures in it; the working folder is there."""
    work = tmp_path / "work"
    shutil.copytree(ROOT / "params", work / "params")
    shutil.copy(ROOT / "params.yaml", work)
    monkeypatch.chdir(work)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    run_dvc("init", "--no-scm", "--quiet")
    return work


def refusal(capsys: pytest.CaptureFixture[str], data: str = "rock") -> str:
    capsys.readouterr()
    assert main(["--data", data]) == 2
    said = capsys.readouterr().err
    assert said.startswith("demo: error: ")
    assert said.count("\n") == 1
    assert not Path("data").exists()
    assert (ROOT / "params.yaml").read_text() == Path("params.yaml").read_text()
    return said


def test_other_data_than_the_rock_is_one_line_that_names_make_new(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "DATA=~/bricks: there is rock alone; for pictures of yours: make new DATA=..." in refusal(capsys, "~/bricks")


@pytest.mark.parametrize("lacking", ["apt-get", "dpkg-deb"])
def test_without_debians_programs_it_is_one_line(
    lacking: str, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = tree / "programs"
    programs.mkdir()
    for name in {"apt-get", "dpkg-deb"} - {lacking}:
        (programs / name).touch(mode=0o755)
    (programs / "git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(programs))
    assert f"are in Debian's package ufoai-textures, and there is no {lacking} here\n" in refusal(capsys)


@pytest.mark.skipif(not HAS_APT, reason="apt-get or dpkg-deb is not here")
def test_a_package_that_apt_does_not_know_is_one_line_in_its_words(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_data, "PACKAGE", "no-such-package-anywhere")
    expected = "apt-get download no-such-package-anywhere: Unable to locate package no-such-package-anywhere ('apt-get update'"
    assert expected in refusal(capsys)


def test_a_package_that_holds_other_textures_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "0textures.pk3", "w") as other:
        other.writestr("textures/moss.png", b"")
    with pytest.raises(
        SettingsError, match=r"^0textures.pk3 of ufoai-textures: There is no item named 'textures/tex_nature/rock"
    ):
        take_out(tmp_path / "0textures.pk3", {tmp_path / "pictures": PICTURES})
    assert not (tmp_path / "pictures").exists()


def lay_out_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build a package like Debian's and an apt-get that finds it."""
    content = tmp_path / "content"
    for file in (COPYRIGHT, TEXTURES, "./DEBIAN/control"):
        (content / file).parent.mkdir(parents=True, exist_ok=True)
    (content / COPYRIGHT).write_text("License: GPL-2\n")
    (content / "DEBIAN/control").write_text(
        "Package: ufoai-textures\nVersion: 2.5\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: rocks\n"
    )
    with zipfile.ZipFile(content / TEXTURES, "w") as textures:
        for number, member in enumerate((*PICTURES, *OTHERS)):
            png = io.BytesIO()
            texture(number).save(png, "PNG")
            textures.writestr(member, png.getvalue())
    subprocess.run(["dpkg-deb", "--build", content, tmp_path / "ufoai-textures_2.5_all.deb"], check=True, capture_output=True)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apt-get").write_text(f"#!/bin/sh\nexec cp {tmp_path}/ufoai-textures_2.5_all.deb .\n")
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(not HAS_APT, reason="apt-get or dpkg-deb is not here")
def test_it_takes_the_place_of_what_is_shipped_once_and_keeps_settings_of_ones_own(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out_package(tmp_path, monkeypatch)
    Path("params.yaml").write_text("# mine\n")
    assert main(["--data", "rock"]) == 0
    assert "demo: fetched, in the place of the bricks" in capsys.readouterr().out
    assert [file.read_text() for file in Path(".state/replaced").rglob("params.yaml")] == ["# mine\n"]
    assert Path("params.yaml").read_text() == Path("params/rock.yaml").read_text()
    concept = read_concept(Path("concept.yaml"))
    assert (concept.name, concept.trigger) == (demo_data.NAME, demo_data.TRIGGER)
    assert set(concept.held_out) <= {name for name, _ in PICTURES.values()}
    captions = [Path("data/images", name).with_suffix(".txt").read_text() for name, _ in PICTURES.values()]
    assert all(concept.trigger in text for text in (*captions, *concept.prompts))
    section = yaml.safe_load(Path("params.yaml").read_text())
    assert section["train"]["prior_share"] == 0.25
    prior = list_prior_pictures(Path(section["draw_prior"]["folder"]), concept.trigger)
    assert {(each.path.name, each.caption) for each in prior} == set(OTHERS.values())
    assert not {each.caption for each in prior} & set(concept.other_prompts)  # drift is measured on these
    assert {word for each in prior for word in each.caption.split()} <= set(WORDS)
    assert Path(".state/rock/copyright").read_text() == "License: GPL-2\n"
    assert Path("data.dvc").is_file()
    before = {file: file.stat().st_mtime_ns for file in Path().rglob("*") if file.is_file() and ".dvc" not in file.parts}
    assert main(["--data", "rock"]) == 0
    assert "there already" in capsys.readouterr().out
    assert before == {file: file.stat().st_mtime_ns for file in Path().rglob("*") if file.is_file() and ".dvc" not in file.parts}


def test_pictures_of_ones_own_are_left_alone_and_nothing_is_fetched(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/images").mkdir(parents=True)
    texture(0).save("data/images/mine.png")
    assert main(["--data", "rock"]) == 2
    said = capsys.readouterr().err
    assert said == "demo: error: data/images holds pictures of yours, and rock takes the place of the shipped ones alone\n"
    assert not Path(".state/rock").exists()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_APT, reason="apt-get or dpkg-deb is not here")
def test_debians_own_package_holds_the_pictures(tmp_path: Path) -> None:
    fetch(PACKAGE, tmp_path, {COPYRIGHT, TEXTURES})
    folders = {tmp_path / "pictures": PICTURES, tmp_path / "prior": OTHERS}
    take_out(tmp_path / Path(TEXTURES).name, folders)
    for file in (folder / name for folder, pictures in folders.items() for name, _ in pictures.values()):
        with Image.open(file) as picture:
            assert picture.size == (1024, 1024)
    groups = (tmp_path / "copyright").read_text().split("\n\n")
    assert all(any(m in g and "License: GPL-2" in g.splitlines() for g in groups) for m in (*PICTURES, *OTHERS))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copyright", "pictures", "prior"]
