"""The race replayed on real runs: it recommends what a full evaluation does, and the documents say what it draws."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.racing.__main__ import race_table, replays
from benchmarks.racing.replay import Replay

ROOT = Path(__file__).parents[2]
SHARE = 0.5  # of the pictures that a full evaluation draws, over all runs


@pytest.fixture(scope="module")
def found() -> dict[str, Replay]:
    return replays(ROOT / "params.yaml")


def test_it_recommends_the_same_checkpoint_or_one_that_no_interval_tells_from_it(found: dict[str, Replay]) -> None:
    assert [name for name, run in found.items() if not run.agrees] == []


def test_it_draws_less_than_half(found: dict[str, Replay]) -> None:
    assert np.mean([run.share for run in found.values()]) <= SHARE


def test_base_and_recommended_are_drawn_to_the_end(found: dict[str, Replay]) -> None:
    assert all(run.raced and run.checkpoints[run.raced] == max(run.checkpoints.values()) == 24 for run in found.values())


def test_the_documents_say_what_it_comes_to(found: dict[str, Replay]) -> None:
    assert race_table(found) in (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
