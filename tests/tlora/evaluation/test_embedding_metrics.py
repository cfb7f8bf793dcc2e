"""Metrics on cases whose answer is known: identical, opposite, copied, collapsed."""

import pytest
import torch

from tlora.evaluation.embedding_metrics import (
    concept_similarity,
    is_copy,
    movement,
    nearest_similarity,
    prompt_contrast,
    prompt_similarity,
    seed_distances,
    table,
    training_distance,
    usual_distance,
)

X, Y, Z = torch.eye(3)


def towards(first: torch.Tensor, second: torch.Tensor, cosine: float) -> torch.Tensor:
    """Return the unit vector at this cosine from the first, on the side of the second."""
    return cosine * first + (1 - cosine**2) ** 0.5 * second


def test_a_picture_equal_to_every_reference_has_similarity_one_and_an_opposite_one_minus_one() -> None:
    assert concept_similarity(torch.stack([X, -X, Y]), torch.stack([X, X])).tolist() == [1.0, -1.0, 0.0]


def test_similarity_to_a_set_is_the_mean_and_to_the_nearest_the_maximum() -> None:
    assert concept_similarity(X[None], torch.stack([X, Y])).tolist() == [0.5]
    assert nearest_similarity(X[None], torch.stack([X, Y])).tolist() == [1.0]


def test_prompts_are_compared_pairwise_not_crosswise() -> None:
    assert prompt_similarity(torch.stack([X, Y]), torch.stack([X, X])).tolist() == [1.0, 0.0]


def test_what_all_prompts_share_falls_out_of_contrast() -> None:
    """Z is the trigger word: as much of it in every prompt, and a picture that shows nothing else contrasts with none."""
    texts = torch.stack([towards(Z, X, 0.6), towards(Z, Y, 0.6)])
    pictures = torch.stack([X, X, Z])
    assert prompt_contrast(pictures, texts, torch.tensor([0, 1, 0])).tolist() == pytest.approx([0.8, -0.8, 0.0])
    third = torch.stack([*texts, -X])
    assert prompt_contrast(pictures[:1], third, torch.tensor([0])).tolist() == pytest.approx([0.8])  # the nearest other counts


def test_pictures_move_by_the_share_of_how_far_the_base_s_own_differ() -> None:
    base = torch.stack([X, Y])[:, None]  # at distance 1
    own = torch.stack([towards(X, Z, 0.75), Y])[:, None]
    assert movement(own, base).tolist() == [[0.25], [0.0]]
    same = torch.stack([X, X])[:, None]
    assert movement(own, same)[0].tolist() == [1.0]
    assert movement(same, same).tolist() == [[0.0], [0.0]]


def test_collapsed_seeds_are_at_no_distance_and_orthogonal_ones_at_one() -> None:
    assert seed_distances(torch.stack([X, X, X])).tolist() == [0.0, 0.0, 0.0]
    assert seed_distances(torch.stack([X, Y])).tolist() == [1.0]
    assert seed_distances(torch.stack([X, X, Y])).tolist() == [0.0, 1.0, 1.0]


def test_the_usual_distance_is_that_of_true_pictures_to_the_nearest_training_picture() -> None:
    train = torch.stack([X, towards(X, Y, 0.9)])
    assert usual_distance(train, towards(X, Z, 0.9)[None]) == pytest.approx(0.1)
    assert usual_distance(X[None], Y[None]) == pytest.approx(1.0)  # one training picture: the held-out one alone
    assert usual_distance(torch.stack([X, X, X]), X[None]) == pytest.approx(0.0)


def test_a_copied_picture_is_at_no_distance_and_a_true_one_at_the_usual_distance() -> None:
    pictures = torch.stack([X, towards(X, Y, 0.9), towards(X, Y, 0.98)])
    distance = training_distance(pictures, X[None], usual=0.1)
    assert distance.tolist() == pytest.approx([0.0, 1.0, 0.2], abs=1e-5)
    assert is_copy(distance).tolist() == [True, False, True]


def test_where_the_training_pictures_are_all_alike_nothing_counts_as_a_copy() -> None:
    assert training_distance(X[None], X[None], usual=0.0).tolist() == [1.0]


def test_values_become_a_row_for_each_prompt() -> None:
    assert table(torch.tensor([1.0, 2.0, 3.0, 4.0]), prompts=2).tolist() == [[1.0, 2.0], [3.0, 4.0]]
