import numpy as np
import pytest
import torch

from benchmarks.comparison.arms import ARMS, PRESERVED, preservation_of
from benchmarks.comparison.concepts import all_concepts
from benchmarks.comparison.matched import at_fidelity, common_fidelity, paired_difference
from benchmarks.comparison.page import in_plain_words, matched_step, preserved_line

SLOW = {"fidelity": [0.5, 0.6, 0.7, 0.8], "following": [1.0, 0.9, 0.8, 0.7]}
FAST = {"fidelity": [0.5, 0.9, 0.9, 0.9], "following": [1.0, 0.2, 0.1, 0.0]}
STUCK = {"fidelity": [0.5, 0.4, 0.5, 0.3], "following": [1.0, 1.0, 1.0, 1.0]}


def test_the_matched_fidelity_is_one_that_the_slowest_method_reaches():
    assert common_fidelity({"slow": SLOW, "fast": FAST}, 1.0) == pytest.approx(0.8)
    assert common_fidelity({"slow": SLOW, "fast": FAST}, 0.5) == pytest.approx(0.65)


def test_a_method_that_never_rises_above_the_base_leaves_nothing_to_match():
    assert common_fidelity({"slow": SLOW, "stuck": STUCK}, 0.5) is None


def test_a_measure_is_read_between_steps_where_the_curve_first_crosses():
    assert at_fidelity(SLOW, "following", 0.65) == pytest.approx(0.85)
    assert at_fidelity(FAST, "following", 0.7) == pytest.approx(0.6)  # half way to its first step
    assert matched_step(SLOW, (0, 10, 20, 30), 0.65) == 20


def test_a_fidelity_that_is_never_reached_is_refused():
    with pytest.raises(ValueError, match="never reached"):
        at_fidelity(STUCK, "following", 0.7)


def test_a_constant_gain_is_clear_and_mixed_signs_are_not():
    gain = paired_difference([0.6, 0.7, 0.8], [0.5, 0.6, 0.7])
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    assert gain.is_clear
    assert not paired_difference([0.6, 0.4, 0.5, 0.5], [0.5, 0.5, 0.4, 0.6]).is_clear


def test_the_reversed_arm_mirrors_the_schedule_and_equal_mean_rank_is_its_mean():
    timesteps = torch.linspace(0, 1000, 1001)
    tlora, mirrored = (ARMS[name].schedule() for name in ("T-LoRA, R_min 1", "reversed mask, R_min 1"))
    assert mirrored.active_rank(timesteps).tolist() == tlora.active_rank(1000 - timesteps).tolist()
    assert round(float(tlora.active_rank(timesteps).float().mean())) == ARMS["LoRA of equal mean rank"].rank


@pytest.mark.parametrize(
    ("kept", "says"), [(0.9, "**Preservation pays with LoRA**"), (0.83, "**Preservation does not pay with LoRA**")]
)
def test_preservation_is_held_against_the_same_method_without_it_where_both_show_the_concept_equally_well(kept: float, says: str):
    def curves(survival: float, fidelity: list[float]) -> dict[str, list[float]]:
        return {"fidelity": fidelity, "following": [1.0, 1.0, 1.0], "survival": [0.95, survival, survival]}

    both = {"LoRA": curves(0.8, [0.5, 0.9, 0.9]), "LoRA, preserved": curves(kept, [0.5, 0.7, 0.9])}
    everything = {"a": both, "b": both}
    line = preserved_line(everything, {"a": 0.9, "b": 0.9}, ["a", "b"], (0, 10, 20), "LoRA, preserved")
    assert line.startswith(says)
    assert f"kept {kept - 0.8:+.3f}" in line
    assert "2.00 times the steps" in line


@pytest.mark.parametrize(("kept", "says"), [(0.9, "So turn preservation on"), (0.83, "So preservation is off as shipped")])
def test_plain_words_tell_what_is_kept_at_equal_fidelity_and_what_follows_from_it(kept: float, says: str):
    def curves(survival: float) -> dict[str, list[float]]:
        return {"fidelity": [0.5, 0.9], "following": [1.0, 0.96], "copying": [0.0, 0.04], "survival": [0.92, survival]}

    both = {arm: curves(kept if arm in PRESERVED else 0.8) for arm in ARMS}
    told = in_plain_words({"a": both, "b": both}, {"a": 0.9, "b": 0.9}, ["a", "b"])
    assert "names 92% of them rightly without an adapter" in told
    assert "LoRA keeps 80%, T-LoRA, R_min R/2 keeps 80%" in told
    assert f"LoRA, preserved keeps {kept:.0%}" in told
    assert "0.04 is the largest mean correlation" in told
    assert says in told


def test_preserved_arms_differ_from_their_own_in_nothing_else():
    for arm, plain in PRESERVED.items():
        assert ARMS[arm] is ARMS[plain]
        assert (preservation_of(arm).is_on, preservation_of(plain).is_on) == (True, False)


def test_eight_concepts_have_true_pictures_in_every_composition_and_no_two_are_alike():
    concepts = all_concepts()
    walls = [concept.picture("wall", 0) for concept in concepts]
    assert len({wall.tobytes() for wall in walls}) == 8
    assert all(concept.picture("ball", 3).shape == (64, 64, 3) for concept in concepts)
    assert min(np.std(wall) for wall in walls) > 10
