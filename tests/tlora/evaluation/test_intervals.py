"""Intervals of tables whose spread is known."""

import numpy as np
import pytest

from tlora.evaluation.intervals import bootstrap_interval, gap_interval, ratio_interval, resampled_means


def test_the_interval_of_a_constant_is_the_constant() -> None:
    interval = bootstrap_interval(np.full((3, 4), 0.25))
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_the_interval_holds_the_mean_and_grows_with_the_spread() -> None:
    source = np.random.default_rng(0)
    narrow = bootstrap_interval(source.normal(1.0, 0.1, (6, 8)))
    wide = bootstrap_interval(source.normal(1.0, 1.0, (6, 8)))
    assert narrow.low < narrow.mean < narrow.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_prompts_that_differ_widen_the_interval_as_seeds_do() -> None:
    by_prompt = np.repeat([[0.0], [1.0], [0.0], [1.0]], 4, axis=1)
    found, turned = bootstrap_interval(by_prompt), bootstrap_interval(by_prompt.T)
    assert found.low < 0.2
    assert found.high > 0.8
    assert turned.low < 0.2


def test_the_same_cells_give_the_same_interval() -> None:
    cells = np.random.default_rng(1).normal(size=(4, 4))
    assert bootstrap_interval(cells) == bootstrap_interval(cells)


def test_tables_of_one_shape_are_resampled_alike_so_that_a_constant_difference_has_no_spread() -> None:
    cells = np.random.default_rng(1).normal(size=(4, 4))
    assert np.ptp(resampled_means(cells + 0.5) - resampled_means(cells)) < 1e-12


def test_half_as_diverse_is_a_ratio_of_a_half_without_spread_and_a_base_without_diversity_gives_zero() -> None:
    base = np.random.default_rng(2).uniform(0.5, 1.0, (6, 6))
    half = ratio_interval(base / 2, base)
    assert (half.mean, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio_interval(base, np.zeros((6, 6))).mean == 0.0


def test_the_gap_of_two_samples_is_the_difference_of_their_means() -> None:
    source = np.random.default_rng(3)
    gap = gap_interval(source.normal(1.0, 0.1, (8, 1)), source.normal(0.0, 0.1, (5, 1)))
    assert gap.mean == pytest.approx(1.0, abs=0.15)
    assert 0.7 < gap.low < gap.mean < gap.high < 1.3


def test_no_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="need a table of prompts by seeds"):
        bootstrap_interval(np.zeros((0, 3)))
