"""Starts of Ortho-LoRA without an SVD, against the SVD and against known distributions."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from tlora.singular_vectors import principal_triplets, random_triplets

RANK = 8


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthogonal(size: int, columns: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, columns, generator=source(seed))).Q


def with_values(values: Tensor, outside: int = 320, inside: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix of these singular values, its left and its right vectors, as columns."""
    u, v = orthogonal(outside, len(values), 1), orthogonal(inside, len(values), 2)
    return (u * values) @ v.T, u, v


def degrees_apart(a: Tensor, b: Tensor) -> float:
    """Return the largest principal angle between the spaces of two sets of columns."""
    return math.degrees(math.asin(min(1.0, float(torch.linalg.matrix_norm(a - b @ (b.T @ a), 2)))))


@pytest.mark.parametrize("transposed", [False, True])
def test_of_a_spectrum_that_falls_the_principal_triplets_are_the_true_ones(transposed: bool) -> None:
    values = torch.arange(1, 257).float() ** -1.0
    matrix, u, v = with_values(values)
    if transposed:
        matrix, u, v = matrix.T, v, u
    vh, left, found = principal_triplets(matrix, RANK, source())
    torch.testing.assert_close(found, values[:RANK], rtol=1e-5, atol=0)
    assert degrees_apart(vh.T, v[:, :RANK]) < 0.1
    assert degrees_apart(left, u[:, :RANK]) < 0.1


def test_of_a_flat_spectrum_they_hold_nine_tenths_of_the_energy_and_are_triplets_of_the_projected_matrix() -> None:
    matrix = torch.randn(320, 256, generator=source(3))
    true = torch.linalg.svdvals(matrix)[:RANK]
    vh, u, values = principal_triplets(matrix, RANK, source())
    assert bool((values <= true * (1 + 1e-5)).all())
    assert float(values.square().sum() / true.square().sum()) > 0.9
    torch.testing.assert_close(u.T @ matrix @ vh.T, torch.diag(values), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("true_rank", [0, 1, 5, 31, 40])
def test_where_the_weight_has_fewer_directions_than_the_rank_the_vectors_are_orthonormal_still(true_rank: int) -> None:
    matrix, _, _ = with_values(torch.ones(256) * (torch.arange(256) < true_rank))
    vh, u, values = principal_triplets(matrix, RANK, source())
    torch.testing.assert_close(vh @ vh.T, torch.eye(RANK), rtol=0, atol=1e-5)
    torch.testing.assert_close(u.T @ u, torch.eye(RANK), rtol=0, atol=1e-5)
    torch.testing.assert_close(values, (torch.arange(RANK) < true_rank).float(), rtol=0, atol=1e-5)


def test_the_search_is_decided_by_the_seed_alone() -> None:
    matrix = torch.randn(256, 256, generator=source(3))
    first = principal_triplets(matrix, RANK, source(7))
    torch.rand(3)
    again, other = principal_triplets(matrix, RANK, source(7)), principal_triplets(matrix, RANK, source(8))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[2], other[2])


def test_what_is_kept_is_no_view_of_the_whole_space() -> None:
    kept = principal_triplets(torch.randn(256, 320, generator=source(3)), RANK, source())
    assert [t.untyped_storage().nbytes() // 4 for t in kept] == [RANK * 320, 256 * RANK, RANK]


def test_products_of_drawn_values_have_the_moments_of_a_gaussian_matrix() -> None:
    """Of 3 x 2: trace and determinant of A^T A have the means 3 * 2 and 3! / 1!, and these variances."""
    generator = source()
    squares = torch.stack([random_triplets(3, 2, slice(0, 2), generator)[2].square() for _ in range(1500)])
    traces, determinants = squares.sum(dim=1), squares.prod(dim=1)
    assert float(traces.mean()) == pytest.approx(6, abs=4 * math.sqrt(12 / 1500))
    assert float(determinants.mean()) == pytest.approx(6, abs=4 * math.sqrt((15 * 8 - 36) / 1500))


@pytest.mark.parametrize(("outside", "inside"), [(12, 8), (8, 12), (9, 9)])
@pytest.mark.parametrize("first", [0, 2, 5])
def test_each_drawn_value_is_distributed_as_that_of_an_svd(outside: int, inside: int, first: int) -> None:
    chosen, generator = slice(first, first + 3), source(first)
    drawn = torch.stack([random_triplets(outside, inside, chosen, generator)[2] for _ in range(200)])
    true = torch.linalg.svdvals(torch.randn(2000, outside, inside, generator=source(9)))[:, chosen]
    for place in range(3):
        assert stats.ks_2samp(drawn[:, place].numpy(), true[:, place].numpy()).pvalue > 0.001


def test_drawn_vectors_point_everywhere_alike() -> None:
    """In three dimensions a coordinate of a uniform direction is uniform in -1..1 (Archimedes)."""
    generator = source()
    drawn = [random_triplets(3, 3, slice(1, 3), generator) for _ in range(800)]
    for coordinates in (torch.stack([d[0] for d in drawn]), torch.stack([d[1].T for d in drawn])):
        for vector in range(2):
            for axis in range(3):
                assert stats.kstest(coordinates[:, vector, axis].numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.001


def test_drawn_vectors_are_orthonormal_and_their_values_fall() -> None:
    vh, u, values = random_triplets(64, 48, slice(40, 48), source())
    torch.testing.assert_close(vh @ vh.T, torch.eye(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(u.T @ u, torch.eye(8), rtol=0, atol=1e-5)
    assert values.tolist() == sorted(values.tolist(), reverse=True)


def test_a_matrix_of_one_entry_is_drawn_too() -> None:
    vh, u, values = random_triplets(1, 1, slice(0, 1), source())
    assert (abs(vh.item()), abs(u.item()), values.item() > 0) == (1.0, 1.0, True)
