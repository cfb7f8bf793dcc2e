"""Which prompts are lost, on tables of contrast whose answer is plain."""

import numpy as np
import pytest

from tlora.evaluation.lost_prompts import lost_prompts, worst_prompt

NAN = float("nan")
PROMPTS = ("a wall", "a ball", "a wall with a square")


@pytest.mark.parametrize(
    ("own", "base", "is_lost"),
    [
        ([-0.1, -0.1, -0.1, 0.1], [0.1, 0.1, 0.1, 0.1], True),
        ([-0.1, -0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1], False),  # half is not more than half
        ([-0.1, -0.1, 0.1, 0.1], [0.1, 0.1, 0.1, -0.1], True),  # of the three that the base had
        ([-0.1, -0.1, -0.1, -0.1], [0.1, -0.1, -0.1, -0.1], False),  # the base did not tell it from the others either
        ([-0.1, -0.1, -0.1, NAN], [0.1, 0.1, 0.1, 0.1], True),  # whatever the last one shows
        ([-0.1, -0.1, NAN, NAN], [0.1, 0.1, 0.1, 0.1], False),  # may still be found
        ([NAN, NAN, NAN, NAN], [0.1, 0.1, 0.1, 0.1], False),
    ],
)
def test_a_prompt_is_lost_that_the_base_had_and_most_seeds_show_as_another(
    own: list[float], base: list[float], is_lost: bool
) -> None:
    kept = [0.1] * 4
    lost = lost_prompts(np.array([kept, own, kept]), np.array([kept, base, kept]), PROMPTS)
    assert lost == (("a ball",) if is_lost else ())


def test_the_worst_prompt_is_that_of_the_least_mean_over_what_was_drawn() -> None:
    change = np.array([[0.1, NAN], [-0.3, 0.1], [NAN, NAN]])
    assert worst_prompt(change, PROMPTS) == ("a ball", pytest.approx(-0.1))
    assert worst_prompt(change[2:], PROMPTS[2:]) is None
    assert worst_prompt(np.full((0, 0), NAN), PROMPTS) is None
