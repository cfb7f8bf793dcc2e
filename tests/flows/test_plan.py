from pathlib import Path

import pytest

from flows.plan import judge_stages, make_plan, rows_of, summary_of, with_values
from flows.stages import run_stage, stage_order

ORDER = ["data.dvc", "validate", "train", "register"]
NEEDS = {"data.dvc": set(), "validate": {"data.dvc"}, "train": {"validate"}, "register": {"train"}}


def test_what_changed_runs_and_what_comes_after_it_may():
    status = {
        "train": [{"changed deps": {"params.yaml": {"train.rank": "modified"}, "tasks/train.py": "modified"}}],
        "register": ["always changed"],
    }
    plan = judge_stages(ORDER, NEEDS, status, {"train": 150.0, "register": 5.0})
    assert rows_of(plan) == [
        ("data.dvc", "up to date", "", ""),
        ("validate", "up to date", "", ""),
        ("train", "runs", "params.yaml: train.rank modified, tasks/train.py modified", "2 min 30 s"),
        ("register", "runs", "always runs", "5 s"),
    ]
    assert summary_of(plan) == "2 of 4 would or may run, about 2 min 35 s in all"


def test_new_data_reaches_everything_and_what_was_never_timed_is_said():
    plan = judge_stages(ORDER, NEEDS, {"data.dvc": [{"changed outs": {"data": "modified"}}]}, {"validate": 3.0})
    assert rows_of(plan) == [
        ("data.dvc", "runs", "data modified", ""),
        ("validate", "may run", "comes after data.dvc", "3 s"),
        ("train", "may run", "comes after validate", "not timed yet"),
        ("register", "may run", "comes after train", "not timed yet"),
    ]
    assert summary_of(plan) == "4 of 4 would or may run, about 3 s in all, not counting train, register, not timed yet"


def test_many_reasons_are_counted():
    changed = {f"tlora/{name}.py": "modified" for name in "abcde"}
    (planned,) = judge_stages(["train"], {"train": set()}, {"train": [{"changed deps": changed}]}, {})
    assert planned.why == "tlora/a.py modified, tlora/b.py modified, tlora/c.py modified and 2 more"


def test_long_values_are_cut():
    changed = with_values({"prompts": "modified"}, {"prompts": ["a matbrk wall"] * 9}, {"prompts": ["a matbrk floor"]})
    assert changed == {"prompts": "['a matbrk wall', 'a mat... -> ['a matbrk floor']"}


@pytest.mark.slow
def test_dvcs_own_words_are_understood(brickyard: Path):
    for stage in stage_order():
        run_stage(stage, print)
    assert summary_of(make_plan()) == "nothing would run: everything is up to date"
    (brickyard / "data" / "brick.txt").write_text("bricks\n")
    assert [(stage, what, why) for stage, what, why, _ in rows_of(make_plan())] == [
        ("data.dvc", "runs", "data modified"),
        ("weigh", "runs", "data modified"),
        ("double", "may run", "comes after weigh"),
        ("announce", "may run", "comes after double"),
    ]
