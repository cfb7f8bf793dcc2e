"""The rank formula, against exact integer arithmetic: a rank that is off by one trains and samples without complaint."""

from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tlora.schedule import RankSchedule, sigma_mask_from_step_index, sigma_mask_from_timestep

RANKS = (2, 4, 8, 12, 16, 32, 64, 128)
EXPONENTS = {1.0: (1, 1), 2.0: (2, 1), 0.5: (1, 2), 1.5: (3, 2), 3.0: (3, 1)}


def minima(rank: int) -> tuple[int, int, int, int]:
    return 1, max(1, rank // 4), rank // 2, rank


def exact_ranks(numerator: NDArray[np.int64], denominator: int, rank: int, min_rank: int, power: tuple[int, int]) -> list[int]:
    """floor((n / d) ** (p / q) * steps) + min_rank, as a count of the k with n^p steps^q >= k^q d^p."""
    p, q = power
    k = np.arange(1, rank - min_rank + 1, dtype=np.int64)
    taking_part = numerator[:, None] ** p * (rank - min_rank) ** q >= k[None, :] ** q * denominator**p
    return (min_rank + taking_part.sum(axis=1)).tolist()


def exact_rank(cleanness: Fraction, rank: int, min_rank: int, power: tuple[int, int]) -> int:
    """The same in unbounded integers, for one point."""
    p, q = power
    return min_rank + sum(cleanness**p * (rank - min_rank) ** q >= k**q for k in range(1, rank - min_rank + 1))


EXACT = Context(prec=100)
NEAREST = 1e-9  # no scheduler comes nearer to timestep 0; nearer, all ranks take part


def takes_part(schedule: RankSchedule, timestep: float, k: int) -> bool:
    """Decide floor(((T - t) / T) ** a * steps) >= k in 100 decimal digits; 0.7 means seven tenths, not its float.

    Thirds and roots end in a rounded digit, so what is within 1e-80 of equal is equal. Every operation names the context: a bare
    `-` rounds to 28 digits.
    """
    total = Decimal(schedule.max_timestep)
    cleanness = EXACT.divide(EXACT.subtract(total, Decimal(timestep)), total)
    if cleanness <= 0:
        return False
    progress = EXACT.power(cleanness, Decimal(repr(float(schedule.alpha_rank_scale))))
    return EXACT.fma(progress, Decimal(schedule.rank - schedule.min_rank), Decimal("1e-80")) >= k


def last_timestep(schedule: RankSchedule, k: int) -> np.float32:
    """Return the noisiest float32 timestep at which the k-th rank above the smallest takes part."""
    steps, total = schedule.rank - schedule.min_rank, np.float32(schedule.max_timestep)
    guess = np.float32(schedule.max_timestep * (1 - (k / steps) ** (1 / schedule.alpha_rank_scale)))
    guess = np.clip(guess, np.float32(0), total)
    while not takes_part(schedule, float(guess), k):  # at timestep 0 every rank does
        guess = np.nextafter(guess, np.float32(0))
    while guess < total and takes_part(schedule, float(np.nextafter(guess, total)), k):
        guess = np.nextafter(guess, total)
    return guess


def around_each_change(schedule: RankSchedule) -> Iterator[tuple[np.float32, int]]:
    """Yield three float32 timesteps to each side of every change of the rank, and the exact rank there."""
    changes = [last_timestep(schedule, k) for k in range(1, schedule.rank - schedule.min_rank + 1)]
    for change in changes:
        near = [change]
        for towards in (0, schedule.max_timestep):
            one = change
            for _ in range(3):
                one = np.nextafter(one, np.float32(towards))
                near.append(one)
        for timestep in near:
            if timestep == 0 or timestep >= NEAREST:
                yield timestep, schedule.min_rank + sum(bool(timestep <= change) for change in changes)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 8.0])
def test_the_rank_equals_exact_decimals_three_float32_numbers_around_each_change(exponent: float) -> None:
    for rank, min_rank in ((7, 1), (16, 8), (128, 64)):
        for max_timestep in (7.0, 24.0, 1000.0):
            schedule = RankSchedule(rank, min_rank, exponent, max_timestep)
            timesteps, expected = zip(*around_each_change(schedule), strict=True)
            assert schedule.active_rank(torch.from_numpy(np.array(timesteps))).tolist() == list(expected)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("rank", RANKS)
def test_the_rank_equals_exact_fractions_at_every_whole_timestep(rank: int, exponent: float) -> None:
    timesteps = np.arange(1001)
    for min_rank in minima(rank):
        ranks = RankSchedule(rank, min_rank, exponent).active_rank(torch.from_numpy(timesteps).float())
        assert ranks.tolist() == exact_ranks(1000 - timesteps, 1000, rank, min_rank, EXPONENTS[exponent])


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_rank_equals_exact_fractions_at_timesteps_between_whole_ones(exponent: float) -> None:
    sixty_fourths = np.arange(0, 64001, 37)  # each is exact in float32
    timesteps = torch.from_numpy(sixty_fourths).float() / 64
    for rank in (4, 16, 64):
        ranks = RankSchedule(rank, rank // 2, exponent).active_rank(timesteps)
        assert ranks.tolist() == exact_ranks(64000 - sixty_fourths, 64000, rank, rank // 2, EXPONENTS[exponent])


@pytest.mark.parametrize(("exponent", "power"), [*EXPONENTS.items(), (0.7, (7, 10))])
def test_the_rank_changes_between_neighbouring_float32_numbers_where_it_should(exponent: float, power: tuple[int, int]) -> None:
    for rank, min_rank in ((4, 1), (7, 4), (16, 8), (12, 5)):
        schedule = RankSchedule(rank, min_rank, exponent)
        changes = np.array([last_timestep(schedule, k) for k in range(1, rank - min_rank + 1)], dtype=np.float32)
        timesteps = np.concatenate([changes, np.nextafter(changes, np.float32(1000))])
        timesteps = timesteps[(timesteps == 0) | (timesteps >= NEAREST)]
        expected = [exact_rank(1 - Fraction(float(t)) / 1000, rank, min_rank, power) for t in timesteps]
        assert schedule.active_rank(torch.from_numpy(timesteps)).tolist() == expected


@pytest.mark.parametrize(("exponent", "power"), EXPONENTS.items())
def test_the_rank_by_step_index_equals_exact_fractions_for_every_number_of_steps(exponent: float, power: tuple[int, int]) -> None:
    for steps in range(2, 52):
        masks = [sigma_mask_from_step_index(i, steps, 16, 4, exponent) for i in range(steps)]
        expected = [exact_rank(Fraction(i, steps - 1), 16, 4, power) for i in range(steps)]
        assert torch.cat(masks).sum(dim=1).tolist() == expected, steps


@pytest.mark.parametrize("max_timestep", [0.3, 1.0, 999.9, 1000.0])
@pytest.mark.parametrize("exponent", [0.01, 1.0, 100.0])
def test_the_rank_runs_from_the_smallest_to_all_whatever_the_scale_and_exponent(exponent: float, max_timestep: float) -> None:
    schedule = RankSchedule(16, 8, exponent, max_timestep)
    assert schedule.active_rank(torch.tensor([max_timestep, 0.0])).tolist() == [8, 16]


def test_the_paper_example_has_half_of_the_additional_ranks_halfway() -> None:
    assert RankSchedule(16, 8).active_rank(torch.tensor([1000.0, 750.0, 500.0, 250.0, 0.0])).tolist() == [8, 10, 12, 14, 16]


def test_equal_minimum_and_rank_keep_every_rank_in_at_all_timesteps() -> None:
    assert RankSchedule(8, 8).active_rank(torch.tensor([1000.0, 1.0, 0.0])).tolist() == [8, 8, 8]


def test_a_mask_is_ones_for_the_first_ranks_then_zeros_one_row_per_sample() -> None:
    mask = sigma_mask_from_timestep(torch.tensor([1000.0, 500.0, 0.0]), 1000, rank=4, min_rank=2)
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert mask.dtype == torch.float32
    assert mask.is_contiguous()


@pytest.mark.parametrize("timestep", [500, 500.0, torch.tensor(500), torch.tensor([500.0])])
def test_a_single_timestep_of_any_kind_gives_one_row(timestep: torch.Tensor | float) -> None:
    assert sigma_mask_from_timestep(timestep, 1000, rank=4, min_rank=2).tolist() == [[1, 1, 1, 0]]


def test_a_mask_has_the_type_and_place_that_were_asked_for() -> None:
    mask = sigma_mask_from_timestep(0, 1000, 4, 2, 1.0, "meta", torch.bfloat16)
    assert (mask.device.type, mask.dtype) == ("meta", torch.bfloat16)


def test_the_first_step_is_not_given_all_ranks_upside_down() -> None:
    masks = [sigma_mask_from_step_index(i, 5, rank=4, min_rank=1) for i in range(5)]
    assert [int(mask.sum()) for mask in masks] == [1, 1, 2, 3, 4]


def test_a_single_step_has_every_rank() -> None:
    assert sigma_mask_from_step_index(0, 1, rank=4, min_rank=1).tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(("step_idx", "steps"), [(-1, 5), (5, 5), (0, 0)])
def test_a_step_index_outside_the_steps_is_refused(step_idx: int, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"step_idx must be in 0\.\.{steps - 1}, got {step_idx}"):
        sigma_mask_from_step_index(step_idx, steps, rank=4, min_rank=1)


@pytest.mark.parametrize("timestep", [-0.5, 1000.5, float("nan")])
def test_a_timestep_outside_the_scale_is_refused(timestep: float) -> None:
    with pytest.raises(ValueError, match=r"a timestep lies outside 0\.\.1000"):
        sigma_mask_from_timestep(torch.tensor([0.0, timestep]), 1000, rank=4, min_rank=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((4, 0), "need 1 <= min_rank <= rank, got 0 and 4"),
        ((8, 9), "need 1 <= min_rank <= rank, got 9 and 8"),
        ((4, 1, 0.0), "alpha_rank_scale must be positive and finite, got 0.0"),
        ((4, 1, float("nan")), "alpha_rank_scale must be positive and finite, got nan"),
        ((4, 1, 1.0, 0.0), "max_timestep must be positive and finite, got 0.0"),
    ],
)
def test_a_schedule_out_of_range_is_refused(values: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RankSchedule(*values)
