"""Prior pictures from a folder: read, encoded and trained on as those that are learnt, and what is refused of them."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tasks.draw_prior.stage import draw_prior
from tasks.running.cli import BAD_INPUT, run_stage
from tasks.train.stage import train
from tests.tasks.data_folder import CONCEPT, texture
from tests.tasks.evaluable import make_evaluable
from tests.tasks.stage_commands import ROOT, options_of
from tests.tasks.stage_process import bytes_of
from tests.tasks.trainable import CHANGES
from tlora.data import CaptionDataset
from tlora.flux.cached import LatentCache, PromptCache, read_index
from tlora.flux.model import encode_posterior, load_vae
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import WEIGHTS_FILE
from tlora.pictures.decode import picture_size
from tlora.pictures.views import ViewSettings
from tlora.runtime.preemption import PREEMPTED
from tlora.text import encode_captions, load_text_encoders

PRIOR, FOLDER, ADAPTER = Path("cache/prior"), Path("data/prior"), Path("adapters/final") / WEIGHTS_FILE
CAPTIONS = {"grey.png": "a grey gravel wall", "turned.jpg": "a wall of brown wood"}
BASE = ModelSpec("base", dtype="float32", device="cpu")


def run(code: int = 0, stage: Callable[..., None] = draw_prior) -> None:
    with pytest.raises(SystemExit) as end:
        run_stage(stage, options_of(stage.__name__))
    assert end.value.code == code


def set_params(**changes: dict[str, object]) -> None:
    file = Path("params.yaml")
    params = yaml.safe_load((file if file.exists() else ROOT / "params/pocket.yaml").read_text())
    for section, values in changes.items():
        params[section] |= values
    file.write_text(yaml.safe_dump(params))


def fill_folder() -> None:
    """Put in two pictures that are not square: one that EXIF turns, and one with a loss mask."""
    FOLDER.mkdir(parents=True)
    texture(20, (120, 90)).save(FOLDER / "grey.png")
    mask = Image.new("L", (120, 90))
    mask.paste(255, (60, 0, 120, 90))
    mask.save(FOLDER / "grey-masklabel.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    texture(21, (64, 96)).save(FOLDER / "turned.jpg", exif=turned)
    for name, caption in CAPTIONS.items():
        (FOLDER / name).with_suffix(".txt").write_text(caption + "\n")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing but settings, concept.yaml and prior pictures are; the working folder is there."""
    monkeypatch.chdir(tmp_path)
    Path("concept.yaml").write_text(CONCEPT)
    set_params(draw_prior={"folder": "data/prior"})
    Path("data/images").mkdir(parents=True)
    fill_folder()
    return tmp_path


PLACE = (
    "params.yaml: draw_prior: folder must be one below data, which data.dvc versions, and not in data/images,"
    " which is trained on: got {!r}, use data/prior"
)
REMEDY = "put pictures with captions there, or leave draw_prior.folder empty"
REFUSED = {
    "missing": f"data/prior: no such folder: {REMEDY}",
    "empty": "data/prior: holds no pictures (",
    "without caption": "data/prior/grey.png: it has no caption: say what it shows in grey.txt, without the trigger word",
    "trigger word": (
        "data/prior/turned.txt: a prior picture's caption holds the trigger word 'matbrk', which would unlearn it: take it out"
    ),
    "caption not UTF-8": "data/prior/grey.txt: its caption is not UTF-8 text (byte 3): save it as UTF-8",
    "data/images": PLACE.format("data/images"),
    "data/images/prior": PLACE.format("data/images/prior"),
    "data": PLACE.format("data"),
    "elsewhere": PLACE.format("elsewhere"),
    "data/link": PLACE.format("data/link"),
}


def spoil(what: str) -> None:
    if what == "missing":
        shutil.rmtree(FOLDER)
    elif what == "empty":
        shutil.rmtree(FOLDER)
        FOLDER.mkdir()
    elif what == "without caption":
        (FOLDER / "grey.txt").write_text(" \n")
    elif what == "trigger word":
        (FOLDER / "turned.txt").write_text("a Matbrk-like wall")
    elif what == "caption not UTF-8":
        (FOLDER / "grey.txt").write_bytes(b"a \xff wall")
    else:
        Path("data/link").symlink_to("images")
        set_params(draw_prior={"folder": what})


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_taken_is_one_line_before_anything_is_loaded(
    what: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(what)
    run(BAD_INPUT)
    said = capsys.readouterr().err
    assert said.startswith(f"draw_prior: error: {REFUSED[what]}")
    assert said.count("\n") == 1
    assert "make new" not in said  # that is for what is learnt


def test_without_folder_and_pictures_the_output_is_what_it_always_was(tree: Path) -> None:
    set_params(draw_prior={"folder": ""})
    run()
    assert {str(file): file.read_text() for file in PRIOR.rglob("*") if file.is_file()} == {
        "cache/prior/latents/index.json": '{\n  "items": []\n}\n'
    }


@pytest.mark.slow
def test_pictures_of_the_folder_are_encoded_as_what_is_learnt_once_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_evaluable(tmp_path)
    shutil.rmtree("adapters")
    fill_folder()
    training = {"max_train_steps": 4, "checkpointing_steps": 2, "prior_share": 0.5}
    set_params(train=CHANGES | training, draw_prior={"folder": "data/prior"})
    run()
    assert "draw_prior: 2 pictures of data/prior, 2 views, 2 encoded now\n" in capsys.readouterr().out

    cache, vae = LatentCache(PRIOR / "latents"), load_vae(BASE)
    expected = CaptionDataset(FOLDER, ViewSettings(32), 4)
    assert [item.caption for item in cache] == [item.caption for item in expected] == list(CAPTIONS.values())
    for item, picture in zip(cache, expected, strict=True):
        mean, std = encode_posterior(vae, picture.pixels[None])
        assert torch.equal(item.mean, mean[0])
        assert torch.equal(item.std, std[0])
    assert cache[0].loss_mask is not None
    assert (cache[0].loss_mask[:, 0] == 0).all()
    assert (cache[0].loss_mask[:, -1] == 1).all()
    assert cache[1].loss_mask is None
    captions = PromptCache(PRIOR / "captions")
    for caption, embedding in encode_captions(load_text_encoders(BASE), CAPTIONS.values(), 77):
        assert torch.equal(captions.read([caption])[0][0], embedding.prompt_embeds)
        assert torch.equal(captions.read([caption])[1][0], embedding.pooled_prompt_embeds)
    assert sorted(file.name for file in (PRIOR / "pictures").iterdir()) == ["0000-grey.png", "0001-turned.png"]
    assert picture_size(PRIOR / "pictures/0001-turned.png") == (32, 32)

    first = bytes_of(PRIOR)
    run()
    assert "2 pictures of data/prior, 2 views, 0 encoded now\n" in capsys.readouterr().out
    assert bytes_of(PRIOR) == first

    run(stage=train)
    whole = ADAPTER.read_bytes()
    summary = json.loads(Path("reports/train/summary.json").read_text())
    assert summary["prior"] == {"pictures": 2, "prompts": sorted(CAPTIONS.values()), "from": "data/prior"}
    assert Path("reports/train/prior.png").read_bytes() == (PRIOR / "grid.png").read_bytes()
    for made in ("adapters", "reports", ".state/train"):
        shutil.rmtree(made)
    with monkeypatch.context() as asked:
        ask_while_publishing("checkpoint-000002", asked)
        run(PREEMPTED, stage=train)
    assert not ADAPTER.exists()
    capsys.readouterr()
    run(stage=train)
    assert "train: going on from step " in capsys.readouterr().out
    assert ADAPTER.read_bytes() == whole

    set_params(draw_prior={"pictures": 1})
    add_size(8, 4)
    run()
    shapes = [(e["picture"], e["height"], e["width"]) for e in read_index(PRIOR / "latents")]
    assert shapes == [("0000-grey.png", 8, 4), ("0001-grey.png", 16, 16)]
    assert picture_size(PRIOR / "pictures/0000-grey.png") == (8, 16)

    whole_file = (FOLDER / "grey.png").read_bytes()
    (FOLDER / "grey.png").write_bytes(whole_file[:2000])
    capsys.readouterr()
    run(BAD_INPUT)
    said = capsys.readouterr().err
    assert said.startswith("draw_prior: error: data/prior/grey.png: it is damaged or cut short (")
    assert said.count("\n") == 1


def ask_while_publishing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SIGTERM arrive in the middle of the copy of a checkpoint."""
    copy = shutil.copytree

    def copy_and_ask(source: Path, target: Path, **options: bool) -> Path:
        if source.name == name:
            signal.raise_signal(signal.SIGTERM)
        return copy(source, target, **options)

    monkeypatch.setattr(shutil, "copytree", copy_and_ask)


def add_size(height: int, width: int) -> None:
    """Let the cache of what is learnt say that one of its views is of another size."""
    index = Path("cache/latents/train/index.json")
    held = json.loads(index.read_text())
    held["items"][0] |= {"height": height, "width": width}
    index.unlink()
    index.write_text(json.dumps(held))


@pytest.mark.slow
def test_dvc_runs_the_stage_again_when_the_folder_changed_and_not_otherwise(tree: Path) -> None:
    """The stage as dvc.yaml has it, but for what is not in this folder, and off: that it runs at all is what counts."""
    set_params(draw_prior={"folder": ""})
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["draw_prior"]
    stage["deps"] = [dep for dep in stage["deps"] if Path(dep).exists()]
    assert stage["deps"] == ["data"]
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"draw_prior": stage}}))
    dvc = [sys.executable, "-m", "dvc"]
    said = {}
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], check=True)
    for when in ("first", "same", "changed"):
        if when == "changed":
            (FOLDER / "grey.txt").write_text("a grey plaster wall\n")
        subprocess.run([*dvc, "add", "--quiet", "data"], check=True)
        environment = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tree)}
        ended = subprocess.run([*dvc, "repro", "draw_prior"], env=environment, capture_output=True, text=True, check=True)
        said[when] = "draw_prior: none are asked for" in ended.stdout
    assert said == {"first": True, "same": False, "changed": True}
