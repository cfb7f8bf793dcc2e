"""Metrics on cases whose answer is known: identical, opposite, copied, collapsed."""

import numpy as np
import pytest
import torch

from tlora.errors import ModelError
from tlora.metrics import (
    bootstrap_interval,
    concept_similarity,
    load_evaluator,
    nearest_similarity,
    prompt_similarity,
    seed_diversity,
)

X, Y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def test_a_picture_equal_to_every_reference_has_similarity_one_and_an_opposite_one_minus_one() -> None:
    assert concept_similarity(torch.stack([X, -X, Y]), torch.stack([X, X])).tolist() == [1.0, -1.0, 0.0]


def test_similarity_to_a_set_is_the_mean_and_to_the_nearest_the_maximum() -> None:
    assert concept_similarity(X[None], torch.stack([X, Y])).tolist() == [0.5]
    assert nearest_similarity(X[None], torch.stack([X, Y])).tolist() == [1.0]


def test_prompts_are_compared_pairwise_not_crosswise() -> None:
    assert prompt_similarity(torch.stack([X, Y]), torch.stack([X, X])).tolist() == [1.0, 0.0]


def test_collapsed_seeds_have_no_diversity_and_orthogonal_ones_one() -> None:
    assert seed_diversity(torch.stack([X, X, X])) == pytest.approx(0.0)
    assert seed_diversity(torch.stack([X, Y])) == pytest.approx(1.0)
    assert seed_diversity(X[None]) == 0.0


def test_the_interval_of_a_constant_is_the_constant() -> None:
    interval = bootstrap_interval(np.full((3, 4), 0.25))
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_the_interval_holds_the_mean_and_grows_with_the_spread() -> None:
    source = np.random.default_rng(0)
    narrow = bootstrap_interval(source.normal(1.0, 0.1, (6, 8)))
    wide = bootstrap_interval(source.normal(1.0, 1.0, (6, 8)))
    assert narrow.low < narrow.mean < narrow.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_the_same_cells_give_the_same_interval() -> None:
    cells = np.random.default_rng(1).normal(size=(4, 4))
    assert bootstrap_interval(cells) == bootstrap_interval(cells)


def test_no_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="need a table of prompts by seeds"):
        bootstrap_interval(np.zeros((0, 3)))


def test_an_evaluator_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ModelError, match="no evaluator there"):
        load_evaluator("./nowhere")
