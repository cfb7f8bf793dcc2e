"""The rule that picks a checkpoint, on candidates whose order is plain."""

import numpy as np
import pytest

from tlora.evaluation.intervals import Interval
from tlora.evaluation.recommendation import Candidate, SelectionSettings, objections, pareto_front, recommend, score

RULE = SelectionSettings()
NOISE = np.random.default_rng(0).normal(0, 0.02, (6, 4))  # the same for all, as prompts and seeds are
NOISE -= NOISE.mean()
OWN_NOISE = np.random.default_rng(1).normal(0, 0.3, (6, 4))


def candidate(step: int, fidelity: float, following: float = 0.0, diversity: float = 1.0, copied: float = 0.0) -> Candidate:
    table = np.full((6, 4), following)
    return Candidate(step, fidelity + NOISE, table, diversity, copied)


def test_the_most_similar_wins_where_all_else_is_equal() -> None:
    chosen = recommend({"a": candidate(1, 0.1), "b": candidate(2, 0.3)}, RULE)
    assert chosen.checkpoint == "b"
    assert "b: best similarity gain, +0.30" in chosen.reason
    assert "no copying" in chosen.reason
    assert "2 of 2 checkpoints eligible" in chosen.reason
    assert chosen.front == ("b",)


def test_lost_prompt_following_weighs_against_fidelity() -> None:
    candidates = {"a": candidate(1, 0.2), "b": candidate(2, 0.3, following=-0.2)}
    chosen = recommend(candidates, RULE)
    assert chosen.checkpoint == "a"
    assert "similarity gain 0.100 below the best (b)" in chosen.reason
    assert "prompt following 0.200 better" in chosen.reason
    assert chosen.front == ("a", "b")
    assert recommend(candidates, SelectionSettings(prompt_weight=0.0)).checkpoint == "b"


def test_gained_prompt_following_does_not_buy_fidelity() -> None:
    a, b = candidate(1, 0.3), candidate(2, 0.2, following=0.5)
    assert score(a, RULE) > score(b, RULE)
    assert recommend({"a": a, "b": b}, RULE).checkpoint == "a"


def test_an_earlier_one_within_noise_of_the_best_is_safer_and_the_reason_says_what_it_is_better_at() -> None:
    late = Candidate(9, 0.31 + NOISE + OWN_NOISE - OWN_NOISE.mean(), np.full((6, 4), -0.02), 1.0)
    early = candidate(3, 0.30, following=0.02)
    chosen = recommend({"early": early, "late": late}, RULE)
    assert chosen.checkpoint == "early"
    assert chosen.reason.startswith("early: similarity gain within noise of the best (late), +0.30")
    assert "prompt following 0.040 better, no copying, diversity 1.00 of the base's" in chosen.reason


def test_an_earlier_one_that_is_worse_at_both_is_not_taken_for_being_early() -> None:
    late = Candidate(9, 0.31 + NOISE + OWN_NOISE - OWN_NOISE.mean(), np.zeros((6, 4)), 1.0)
    assert recommend({"early": candidate(3, 0.30, following=-0.001), "late": late}, RULE).checkpoint == "late"


def test_the_reason_says_by_how_much_the_earlier_one_is_behind_and_the_later_one_ahead() -> None:
    candidates = {"early": candidate(1, 0.1, following=0.1), "late": candidate(2, 0.3)}
    assert "; the earlier early scores less, by 0.200 (0.200 to 0.200): more than noise; " in recommend(candidates, RULE).reason
    noisy = Candidate(9, 0.31 + NOISE + OWN_NOISE - OWN_NOISE.mean(), np.full((6, 4), -0.001), 1.0)
    reason = recommend({"early": candidate(3, 0.30, following=0.02), "late": noisy}, RULE).reason
    assert "; the later late scores more, by 0.009 (-" in reason
    assert "): within noise, and less training is safer; " in reason


@pytest.mark.parametrize(
    ("candidates", "advice"),
    [
        ([candidate(1, 0.0), candidate(2, 0.001)], "it was still learning at the last step: train for more steps"),
        ([candidate(1, 0.0), candidate(2, -0.1)], "it learnt nothing that shows: raise the learning rate, "),
        ([candidate(1, 0.2, diversity=0.3)], "it collapsed: train with a lower learning rate or for fewer steps, "),
        ([candidate(1, 0.2, copied=0.9)], "it learnt the pictures by heart: train for fewer steps "),
    ],
)
def test_where_nothing_is_recommended_it_says_what_to_try_next(candidates: list[Candidate], advice: str) -> None:
    chosen = recommend({str(each.step): each for each in candidates}, RULE)
    assert chosen.checkpoint is None
    assert chosen.advice.startswith(advice)


def test_the_earlier_of_equals_wins() -> None:
    assert recommend({"late": candidate(9, 0.2), "early": candidate(1, 0.2)}, RULE).checkpoint == "early"


def test_the_front_holds_whatever_no_other_beats_in_both() -> None:
    candidates = {
        "faithful": candidate(3, 0.4, following=-0.1),
        "obedient": candidate(1, 0.1, following=0.1),
        "between": candidate(2, 0.3, following=0.0),
        "beaten": candidate(2, 0.2, following=-0.1),
    }
    assert pareto_front(candidates) == ["faithful", "obedient", "between"]


def test_what_gained_nothing_collapsed_copied_or_memorised_is_out() -> None:
    assert objections(candidate(1, 0.1), RULE) == []
    assert "not clearly above the base: +0.001" in objections(candidate(1, 0.001), RULE)[0]
    assert objections(candidate(1, 0.1, diversity=0.4), RULE) == [
        "collapsed: diversity across seeds is 0.40 of the base's, 0.5 needed"
    ]
    assert "copying: 50% of its pictures are copies" in objections(candidate(1, 0.1, copied=0.5), RULE)[0]
    learnt_by_heart = Candidate(1, 0.1 + NOISE, NOISE, 1.0, loss_gap=Interval(0.5, 0.4, 0.6))
    assert "memorising: 0.50 more of the loss is gone" in objections(learnt_by_heart, RULE)[0]


def test_a_gain_that_is_certain_and_too_small_to_be_seen_is_out() -> None:
    still = Candidate(1, np.full((6, 4), 0.0004), np.zeros((6, 4)), 1.0)
    assert objections(still, RULE) == ["too little to be seen: +0.000 over the base, 0.02 needed"]
    assert recommend({"a": still}, RULE).checkpoint is None
    assert objections(candidate(1, 0.03), RULE) == []


def test_copies_that_the_base_makes_too_are_no_copies() -> None:
    assert objections(Candidate(1, 0.1 + NOISE, NOISE, 1.0, copied=0.5, copied_by_base=0.4), RULE) == []


def test_where_nothing_beats_the_base_that_is_said() -> None:
    chosen = recommend({"a": candidate(1, 0.0), "b": candidate(2, -0.1)}, RULE)
    assert chosen.checkpoint is None
    assert chosen.reason.startswith("nothing beats the base: the best of 2 checkpoints, a, gained +0.00")


def test_where_only_a_collapsed_one_beats_the_base_that_is_said() -> None:
    chosen = recommend({"a": candidate(1, 0.0), "b": candidate(2, 0.3, diversity=0.1)}, RULE)
    assert chosen.checkpoint is None
    assert "nothing that beats the base is sound; the most faithful, b, is out: collapsed" in chosen.reason


@pytest.mark.parametrize("values", [{"min_diversity_ratio": 1.5}, {"max_copied": -0.1}, {"prompt_weight": -1.0}])
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SelectionSettings(**values)
