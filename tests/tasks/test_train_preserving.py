"""The stage with preservation on: what it refuses, and that it trains with what `cache_prompts` wrote beside the captions."""

import json
from pathlib import Path

import pytest
import torch

from tasks.running.cli import BAD_INPUT, run_stage
from tasks.train.stage import train
from tests.tasks.trainable import RUN, make_trainable
from tlora.flux.cached import CLASS_INDEX
from tlora.runtime.atomic_file import write_json

pytestmark = pytest.mark.slow
SHORT = {"max_train_steps": 2, "checkpointing_steps": 2, "preserve": 1.0, "preserve_share": 0.5}


def run(capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """Run the stage; return what it says."""
    with pytest.raises(SystemExit) as end:
        run_stage(train, RUN)
    said = capsys.readouterr()
    assert end.value.code == code, said.err
    return said.err if code else said.out


def test_it_needs_captions_without_the_trigger_word_and_such_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make_trainable(tmp_path, **SHORT))
    capsys.readouterr()
    assert run(capsys, BAD_INPUT).startswith("train: error: cache/prompts/captions/class.json: not a readable cache index")
    index = Path("cache/prompts/captions") / CLASS_INDEX
    same = [{"caption": "a matbrk wall", "file": "a.safetensors", "of": "a matbrk wall"}]
    write_json(index, {"items": same})
    line = "train: error: concept.yaml: no caption holds the trigger word, so preserve would keep the pictures from being learnt"
    assert run(capsys, BAD_INPUT).startswith(line)
    torch.manual_seed(0)
    write_json(index, {"items": [{"caption": "a brick wall", "file": "a.safetensors", "of": "a matbrk wall"}]})
    run(capsys)
    lines = [json.loads(line) for line in Path("reports/train/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["preservation"] >= 0 for line in lines)
    assert lines[1]["preservation"] > 0
