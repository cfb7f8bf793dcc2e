"""Who is dropped on the way, who is not, and how often wrongly."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tlora.evaluation.intervals import Interval
from tlora.evaluation.race import RaceSettings, due, judge, turns
from tlora.evaluation.recommendation import Candidate, SelectionSettings, lead

PROMPTS, SEEDS = 6, 4
RULE, RACE = SelectionSettings(), RaceSettings(race_confidence=0.8)


def candidate(step: int, gain: float, taken: int = 5, source: int = 0, spread: float = 0.02) -> Candidate:
    """Return a checkpoint after so many of its five turns; differences between two of one source are their gains' and noise."""
    noise = np.random.default_rng([source, step]).normal(0, spread, (PROMPTS, SEEDS))
    easy = np.random.default_rng(source).normal(0, 0.2, (PROMPTS, SEEDS))
    return after(Candidate(step, gain + noise + easy, np.zeros((PROMPTS, SEEDS)), diversity_ratio=0.8), taken)


def after(whole: Candidate, taken: int) -> Candidate:
    """Return what is known of a checkpoint after so many turns."""
    cells = [cell for turn in turns(PROMPTS, SEEDS)[:taken] for cell in turn]
    if len(cells) == PROMPTS * SEEDS:
        return whole
    nothing = np.full((PROMPTS, SEEDS), np.nan)
    for cell in cells:
        nothing[cell] = 0.0
    return replace(whole, fidelity=whole.fidelity + nothing, following=whole.following + nothing, diversity_ratio=math.nan)


@pytest.mark.parametrize(("prompts", "seeds"), [(6, 4), (1, 2), (5, 3), (12, 4)])
def test_all_cells_are_drawn_once_and_every_round_has_each_prompt_once(prompts: int, seeds: int) -> None:
    order = turns(prompts, seeds)
    assert sorted(cell for turn in order for cell in turn) == [(p, s) for p in range(prompts) for s in range(seeds)]
    drawn = [cell for turn in order for cell in turn]
    for first in range(0, len(drawn), prompts):
        assert {prompt for prompt, _ in drawn[first : first + prompts]} == set(range(prompts))
    assert len({seed for _, seed in drawn[:prompts]}) == min(prompts, seeds)


def test_one_that_is_far_behind_is_dropped_and_one_that_is_close_is_not() -> None:
    field = {
        "far": candidate(25, -0.5, 2),
        "close": candidate(50, 0.3, 2, spread=0.05),
        "best": candidate(75, 0.35, 2, spread=0.05),
    }
    standing = judge(field, RULE, RaceSettings(race_confidence=0.99))
    assert (standing.leader, list(standing.dropped)) == ("best", ["far"])
    assert "behind best after 6 of 24 pictures" in standing.dropped["far"]
    assert due(field, RULE, RaceSettings(race_confidence=0.99)) == ["close", "best"]


def test_three_pictures_may_be_enough_and_one_is_not() -> None:
    field = {"far": candidate(25, 0.0, 1), "best": candidate(75, 0.31, 1)}
    assert list(judge(field, RULE, RACE).dropped) == ["far"]
    narrow = {name: replace(c, fidelity=c.fidelity[:1], following=c.following[:1]) for name, c in field.items()}
    assert judge(narrow, RULE, RACE).dropped == {}


def test_one_that_lost_a_prompt_or_changed_other_things_is_out_however_far_ahead_and_others_are_back() -> None:
    field = {"good": candidate(50, 0.3, 2), "ahead": candidate(75, 0.6, 5)}
    assert list(judge(field, RULE, RACE).dropped) == ["good"]
    for wrong in ({"lost": ("a ball",)}, {"drift": Interval(0.8, 0.7, 0.9)}):
        out = field | {"ahead": replace(field["ahead"], **wrong)}
        standing = judge(out, RULE, RACE)
        assert (list(standing.out), standing.dropped, due(out, RULE, RACE)) == (["ahead"], {}, ["good"])


def test_one_that_memorises_is_out_before_anything_is_drawn_of_it() -> None:
    memorising = replace(candidate(100, 0.5, 0), loss_gap=Interval(0.5, 0.4, 0.6))
    field = {"good": candidate(75, 0.3, 0), "bad": memorising}
    assert "memorising" in judge(field, RULE, RACE).out["bad"]
    assert due(field, RULE, RACE) == ["good"]
    assert due(field, RULE, RaceSettings(race=False)) == ["good", "bad"]


def test_copies_that_are_too_many_already_cannot_be_outweighed() -> None:
    copying = replace(candidate(100, 0.5, 2), copied=0.3)  # of all its pictures, with those to come counted as none
    assert "copying" in judge({"good": candidate(75, 0.3, 2), "bad": copying}, RULE, RACE).out["bad"]


def test_those_that_a_leader_has_left_behind_are_back_once_it_is_out() -> None:
    behind, leader = candidate(50, 0.2, 2), candidate(75, 0.5)
    assert due({"behind": behind, "leader": leader}, RULE, RACE) == []
    collapsed = replace(leader, diversity_ratio=0.1)
    assert due({"behind": behind, "leader": collapsed}, RULE, RACE) == ["behind"]


def test_where_all_are_out_the_last_is_drawn_to_the_end_all_the_same() -> None:
    gap = Interval(0.5, 0.4, 0.6)
    field = {name: replace(candidate(step, 0.5, 0), loss_gap=gap) for name, step in (("first", 25), ("last", 50))}
    assert due(field, RULE, RACE) == ["last"]
    assert due({**field, "last": replace(candidate(50, 0.5), loss_gap=gap)}, RULE, RACE) == []


def test_a_full_evaluation_draws_all_of_all() -> None:
    field = {"far": candidate(25, 0.0, 4), "best": candidate(75, 0.5)}
    assert due(field, RULE, RaceSettings(race=False)) == ["far"]
    assert due(field, RULE, RACE) == []


@pytest.mark.parametrize("wrong", [0.0, 1.0, 1.5])
def test_a_confidence_is_between_0_and_1(wrong: float) -> None:
    with pytest.raises(ValueError, match=f"race_confidence must be between 0 and 1, got {wrong}"):
        RaceSettings(race_confidence=wrong)


def test_the_best_is_dropped_wrongly_no_more_often_than_the_confidence_allows() -> None:
    """Nothing but noise between four checkpoints, the hardest case: whoever a whole table puts clearly first must be kept."""
    wrong, runs = 0, 60
    for run in range(runs):
        whole = {str(step): candidate(step, 0.3, source=run, spread=0.05) for step in (1, 2, 3, 4)}
        best = max(whole, key=lambda name: float(whole[name].fidelity.mean()))
        taken = dict.fromkeys(whole, 0)
        while names := due({name: after(c, taken[name]) for name, c in whole.items()}, RULE, RACE):
            taken |= {name: taken[name] + 1 for name in names}
        winner = next(name for name, count in taken.items() if count == len(turns(PROMPTS, SEEDS)))
        wrong += taken[best] < 5 and lead(whole[best], whole[winner], RULE).low > 0
    assert wrong <= runs * (1 - RACE.race_confidence)
