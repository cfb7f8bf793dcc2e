"""How often each rank takes part, where it can be worked out by hand."""

import pytest
import torch

from tlora.flux.noise import NoiseSettings
from tlora.schedule import RankSchedule
from tlora.training.rank_activity import Reach, activity_lines, rank_activity, sampler_reach


def test_under_uniform_noise_and_exponent_one_ranks_take_part_in_even_steps() -> None:
    """The last rank needs timestep 0, which is never drawn: the paper's formula has it so."""
    assert rank_activity(RankSchedule(5, 1), NoiseSettings(), 256).tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_a_larger_exponent_and_a_shift_towards_noise_keep_high_ranks_out() -> None:
    linear = rank_activity(RankSchedule(8, 2), NoiseSettings(), 1024)
    squared = rank_activity(RankSchedule(8, 2, 2.0), NoiseSettings(), 1024)
    shifted = rank_activity(RankSchedule(8, 2), NoiseSettings("shifted"), 4096)
    assert (squared[2:-1] < linear[2:-1]).all()
    assert (shifted[2:-1] < linear[2:-1]).all()


def test_a_sampler_reaches_what_its_last_step_uses() -> None:
    reach = sampler_reach(RankSchedule(16, 8), torch.tensor([1000.0, 750.0, 500.0, 250.0]))
    assert (reach.highest_rank, reach.steps) == (14, 4)


def test_what_each_rank_takes_part_in_is_a_line_however_many_ranks_there_are() -> None:
    def line(schedule: RankSchedule) -> str:
        return activity_lines(schedule, rank_activity(schedule, NoiseSettings(), 256), Reach(schedule.rank, 25))[0]

    assert line(RankSchedule(5, 1)) == (
        "ranks 1 to 1 take part in every sample, rank 2 in 75%, 3 in 50%, 4 in 25% of the samples,"
        " rank 5 at timestep 0 alone, as the formula has it"
    )
    assert line(RankSchedule(2, 1)) == (
        "ranks 1 to 1 take part in every sample, rank 2 at timestep 0 alone, as the formula has it"
    )
    assert line(RankSchedule(128, 64)).count("%") == 9


def warnings_of(schedule: RankSchedule, timesteps: list[float]) -> list[str]:
    activity = rank_activity(schedule, NoiseSettings(), 256)
    lines = activity_lines(schedule, activity, sampler_reach(schedule, torch.tensor(timesteps)))
    return [line for line in lines if line.startswith("warning")]


def test_ranks_that_the_sampler_never_reaches_are_named() -> None:
    assert warnings_of(RankSchedule(16, 8), [1000.0, 750.0, 500.0, 250.0]) == [
        "warning: sampling in 4 steps never uses ranks 15 to 16: sample in more steps, or train a smaller rank"
    ]
    assert warnings_of(RankSchedule(16, 1, 2.0), [1000.0, 500.0]) == [
        "warning: sampling in 2 steps never uses ranks 5 to 16: sample in more steps, or train a smaller rank"
    ]


def test_where_all_but_the_rank_of_timestep_0_are_reached_nothing_is_warned_of() -> None:
    assert warnings_of(RankSchedule(16, 8), [1000.0, 750.0, 500.0, 125.0]) == []
    assert warnings_of(RankSchedule(16, 8), [1000.0, 0.0]) == []
