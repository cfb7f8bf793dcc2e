"""The rule that picks a checkpoint, on candidates whose order is plain."""

import pytest

from tlora.metrics import Interval
from tlora.selection import Candidate, SelectionSettings, objection, recommend

RULE = SelectionSettings()


def candidate(step: int, gain: float, low: float = 0.01, following: float = 0.0, diversity: float = 1.0) -> Candidate:
    return Candidate(step, Interval(gain, low, gain + 0.1), Interval(following, following, following), diversity)


def test_the_most_similar_wins_where_all_else_is_equal() -> None:
    chosen = recommend({"a": candidate(1, 0.1), "b": candidate(2, 0.3)}, RULE)
    assert chosen.checkpoint == "b"
    assert "+0.300 over the base" in chosen.reason


def test_lost_prompt_following_weighs_against_fidelity() -> None:
    candidates = {"a": candidate(1, 0.2), "b": candidate(2, 0.3, following=-0.2)}
    assert recommend(candidates, RULE).checkpoint == "a"
    assert recommend(candidates, SelectionSettings(prompt_weight=0.0)).checkpoint == "b"


def test_gained_prompt_following_does_not_buy_fidelity() -> None:
    assert recommend({"a": candidate(1, 0.3), "b": candidate(2, 0.2, following=0.5)}, RULE).checkpoint == "a"


def test_the_earlier_of_equals_wins() -> None:
    assert recommend({"late": candidate(9, 0.2), "early": candidate(1, 0.2)}, RULE).checkpoint == "early"


def test_a_gain_within_noise_and_a_collapse_are_not_eligible() -> None:
    assert "not clearly above" in str(objection(candidate(1, 0.1, low=-0.01), RULE))
    assert "collapsed" in str(objection(candidate(1, 0.1, diversity=0.4), RULE))
    assert objection(candidate(1, 0.1), RULE) is None


def test_where_nothing_passes_nothing_is_recommended_and_the_reason_names_the_last() -> None:
    chosen = recommend({"a": candidate(1, 0.1, low=0.0), "b": candidate(2, 0.1, diversity=0.0)}, RULE)
    assert chosen.checkpoint is None
    assert "the last, b: collapsed" in chosen.reason


@pytest.mark.parametrize("values", [{"min_diversity_ratio": 1.5}, {"prompt_weight": -1.0}])
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SelectionSettings(**values)
