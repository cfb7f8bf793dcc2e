"""The library says what is wrong; the pipeline's words about it are the pipeline's alone."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from tasks.running.cli import run_stage
from tlora import cli
from tlora.errors import Lack
from tlora.evaluation.evaluator import load_evaluator
from tlora.flux.cached import PromptCache, read_index, read_item
from tlora.flux.files import require_base
from tlora.flux.model import choose_device
from tlora.flux.spec import ModelSpec
from tlora.pictures.files import list_pictures
from tlora.pictures.manifest import read_manifest
from tlora.runtime.remedies import PIPELINE

NOWHERE = Path("./nowhere")
PIPELINES_WORDS = r"params\.yaml|\bdvc\b|\bmake \w+|run \w+ again|\bstage\b|data/images|model\.path|\bevaluate\b|\bvalidate\b"


def read_nothing() -> None:
    Path("cache").mkdir(exist_ok=True)
    Path("cache/index.json").write_text('{"items": []}')
    PromptCache(Path("cache")).read(["a wall"])


def list_nothing() -> None:
    Path("empty").mkdir(exist_ok=True)
    list_pictures(Path("empty"))


REFUSALS: list[tuple[Lack, Callable[[], object]]] = [
    ("base", lambda: require_base(ModelSpec("./nowhere"))),
    ("device", lambda: choose_device(ModelSpec("base", device="cuda:99"))),
    ("data", lambda: list_pictures(NOWHERE)),
    ("pictures", list_nothing),
    ("evaluator", lambda: load_evaluator("./nowhere", "")),
    ("cache", lambda: read_item(NOWHERE)),
    ("cache", lambda: read_index(NOWHERE)),
    ("captions", read_nothing),
    ("manifest", lambda: read_manifest(NOWHERE)),
]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("{}")


@pytest.mark.parametrize(("lack", "refuse"), REFUSALS, ids=[f"{i} {lack}" for i, (lack, _) in enumerate(REFUSALS)])
def test_a_refusal_names_the_pipeline_where_the_pipeline_runs_and_nowhere_else(
    lack: Lack, refuse: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wall() -> None:
        refuse()

    with pytest.raises(SystemExit) as stopped:
        run_stage(wall, [])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert said.endswith(f": {PIPELINE[lack]}")
    monkeypatch.setitem(cli.VERBS, "wall", cli.Verb("refuse", lambda parser: None, lambda options: wall()))
    with pytest.raises(SystemExit, match=r"^tlora wall: error: [^\n]+$") as refused:
        cli.main(["wall"])
    assert not re.search(PIPELINES_WORDS, str(refused.value).removeprefix("tlora wall"))


def test_every_lack_has_a_refusal_here_and_a_remedy_in_the_pipeline() -> None:
    assert {lack for lack, _ in REFUSALS} == set(get_args(Lack)) == PIPELINE.keys()


def test_no_other_message_of_the_library_names_the_pipeline() -> None:
    raised = re.compile(r"Error\((.*)")
    for file in (Path(__file__).parents[1] / "tlora").rglob("*.py"):
        for line in file.read_text().splitlines():
            if found := raised.search(line):
                assert not re.search(r"params\.yaml|\bdvc\b|data/images|\.state", found.group(1)), f"{file.name}: {line}"
