"""How far training is, from the files that it writes, whole or cut off in the middle of a line."""

import json
import os
import time
from pathlib import Path

import pytest

from flows.watch import FRESH_SECONDS, watch_training


def line(step: int) -> str:
    return json.dumps({"step": step, "loss": 1 / step, "seconds": 0.5}) + "\n"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".state/train/abc"
    (folder / "previews").mkdir(parents=True)
    (folder / "fingerprint.json").write_text(json.dumps({"params": {"train": {"training": {"loop": {"max_train_steps": 10}}}}}))
    (folder / "log.jsonl").write_text(line(1) + line(2) + line(3) + '{"step": 4, "lo')
    for step in (2, 10):
        (folder / f"previews/step-{step:06d}.png").touch()
    return folder / "log.jsonl"


def test_step_loss_time_and_previews(log: Path) -> None:
    training = watch_training()
    assert training is not None
    assert training.line() == "step 3 of 10, loss 0.3333, about 4 s left"
    assert [step for step, _ in training.previews] == [2, 10]
    assert training.moving


def test_a_log_that_nobody_writes_to_stands_still(log: Path) -> None:
    long_ago = time.time() - FRESH_SECONDS - 1
    os.utime(log, (long_ago, long_ago))
    training = watch_training()
    assert training is not None
    assert not training.moving
    assert training.line() == "step 3 of 10, loss 0.3333"


def test_the_run_that_wrote_last_is_the_one(log: Path) -> None:
    other = log.parents[1] / "def"
    other.mkdir()
    (other / "log.jsonl").write_text("")
    later = log.stat().st_mtime + 1  # written within one tick of the clock, both would be of the same time
    os.utime(other / "log.jsonl", (later, later))
    training = watch_training()
    assert training is not None
    assert training.line() == "step 0"


def test_nothing_has_trained_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert watch_training() is None
