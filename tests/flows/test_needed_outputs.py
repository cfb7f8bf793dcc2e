from pathlib import Path

import pytest

from flows.needed_outputs import needed_stages
from flows.plan import read_status
from flows.stages import read_graph, run_stage, stage_order
from tasks.dvc_command import run_dvc

NEEDS = {
    "data.dvc": set(),
    "cache": {"data.dvc"},
    "train": {"cache"},
    "evaluate": {"train", "cache"},
    "register": {"train", "evaluate"},
}
CACHE_GONE = {"cache": [{"changed outs": {"cache": "deleted"}}], "train": [{"changed deps": {"cache/a.json": "deleted"}}]}
ALWAYS = {"register": ["always changed"]}
CHANGED = {"params.yaml": {"train.rank": "16 -> 32"}}


def test_what_nobody_reads_may_stay_missing():
    assert needed_stages(NEEDS, CACHE_GONE | ALWAYS) == {"register"}
    assert needed_stages(NEEDS, {}) == set()


def test_what_a_stage_that_runs_reads_is_made():
    changed = CACHE_GONE | ALWAYS | {"train": [{"changed deps": {"cache/a.json": "deleted", **CHANGED}}]}
    assert needed_stages(NEEDS, changed) == {"cache", "train", "evaluate", "register"}


def test_results_that_were_not_pulled_are_made_with_all_that_they_are_made_of():
    lost = CACHE_GONE | ALWAYS | {"train": [*CACHE_GONE["train"], {"changed outs": {"adapters": "not in cache"}}]}
    assert needed_stages(NEEDS, lost) == {"cache", "train", "evaluate", "register"}


def test_a_result_that_only_people_read_is_made():
    needs = {"weigh": set(), "announce": {"weigh"}}
    assert needed_stages(needs, {"announce": [{"changed outs": {"announcement.txt": "deleted"}}]}) == {"announce"}


def test_data_and_code_that_are_gone_are_changes():
    gone = {"data.dvc": [{"changed outs": {"data": "deleted"}}], "cache": [{"changed deps": {"data/images": "deleted"}}]}
    assert needed_stages(NEEDS, gone) == {*NEEDS}
    assert needed_stages(NEEDS, {"train": [{"changed deps": {"train.py": "deleted"}}]}) == {"train", "evaluate", "register"}


@pytest.mark.slow
def test_dvc_skips_what_may_stay_missing_and_makes_it_when_it_is_read(brickyard: Path):
    order = stage_order()
    for stage in order:
        run_stage(stage, print)
    for name in ("weight.txt", "double.txt"):
        (brickyard / name).unlink()
    graph = read_graph(run_dvc("dag", "--dot"))
    assert needed_stages(graph, read_status()) == set()
    assert [run_stage(stage, print, allow_missing=True).outcome for stage in order[1:]] == ["Skipped"] * 3
    assert not (brickyard / "double.txt").exists()

    (brickyard / "announce.sh").write_text("cat double.txt > announcement.txt\n")
    needed = needed_stages(graph, read_status())
    assert needed == {"weigh", "double", "announce"}
    outcomes = [run_stage(stage, print, allow_missing=stage not in needed).outcome for stage in order[1:]]
    assert outcomes == ["Restored", "Restored", "Completed"]
