"""Another judge of fidelity, on candidates of which it is plain what it should say."""

import dataclasses

import numpy as np
import pytest

from tlora.evaluation.intervals import Cells
from tlora.evaluation.recommendation import Candidate, SelectionSettings, recommend
from tlora.evaluation.second_opinion import SecondOpinion, second_opinion

RULE = SelectionSettings(min_gain=0.05)
NOISE = np.random.default_rng(0).normal(0, 0.02, (6, 4))
NOISE -= NOISE.mean()


def gain(mean: float) -> Cells:
    return mean + NOISE


EARLY, LATE = Candidate(1, gain(0.1), np.zeros((6, 4)), 1.0), Candidate(2, gain(0.3), np.zeros((6, 4)), 1.0)
CANDIDATES = {"early": EARLY, "late": LATE}


def ask(early: float, late: float, chosen: str | None = "late", candidates: dict[str, Candidate] = CANDIDATES) -> SecondOpinion:
    return second_opinion("Ann", candidates, {"early": gain(early), "late": gain(late)}, chosen, RULE)


def test_it_agrees_where_it_sees_the_same_order() -> None:
    assert recommend(CANDIDATES, RULE).checkpoint == "late"
    said = ask(0.01, 0.04)  # its numbers are of another size, which min_gain knows nothing of
    assert said.agrees
    assert said.said.startswith("Ann, the second opinion, agrees: by it late gains +0.040 (+0.0")
    assert said.said.endswith("over the base, and no other scores more, beyond noise")


def test_it_disagrees_where_another_scores_more_for_certain() -> None:
    said = ask(0.3, 0.1)
    assert not said.agrees
    assert said.said.startswith("Ann, the second opinion, disagrees: by it early scores more than late, by +0.200")
    assert said.said.endswith(": more than noise")


def test_a_lead_within_noise_is_no_disagreement() -> None:
    own = np.random.default_rng(1).normal(0, 0.3, (6, 4))
    fidelity = {"early": gain(0.31) + own - own.mean(), "late": gain(0.3)}
    assert second_opinion("Ann", CANDIDATES, fidelity, "late", RULE).agrees


def test_it_disagrees_where_it_sees_no_gain_in_what_is_recommended() -> None:
    said = ask(0.0, 0.0)
    assert not said.agrees
    assert said.said.startswith("Ann, the second opinion, disagrees: by it late is not clearly above the base, +0.000 (-0.0")


def test_what_is_out_for_another_reason_is_no_rival() -> None:
    copied = dataclasses.replace(EARLY, copied=1.0)
    assert ask(0.3, 0.1, candidates={"early": copied, "late": LATE}).agrees


@pytest.mark.parametrize(("late", "agrees"), [(0.0, True), (0.2, False)])
def test_where_nothing_is_recommended_it_agrees_unless_it_sees_a_gain(late: float, agrees: bool) -> None:
    nothing = {"early": dataclasses.replace(EARLY, fidelity=gain(0)), "late": dataclasses.replace(LATE, fidelity=gain(0))}
    assert recommend(nothing, RULE).checkpoint is None
    said = ask(-0.1, late, None, nothing)
    assert said.agrees is agrees
    assert ("that there is nothing to recommend" in said.said) is agrees
    assert ("by it late gains +0.200" in said.said) is not agrees


def test_one_that_is_alone_at_the_end_has_no_rival() -> None:
    said = second_opinion("Ann", {"late": LATE}, {"late": gain(0.1)}, "late", RULE)
    assert said.said.endswith("over the base, and no other was drawn to the end")
