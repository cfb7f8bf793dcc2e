"""What is said of a run that fits, and what is advised for one that does not."""

from dataclasses import replace

import pytest

from tests.tlora.adapted import ATTENTION, SMALL_RUN
from tlora.flux.spec import FluxShape
from tlora.training.memory_advice import MemoryPlan
from tlora.training.memory_estimate import Workload


def plan(available: float, **loop: object) -> MemoryPlan:
    settings = replace(SMALL_RUN, loop=replace(SMALL_RUN.loop, **loop))
    return MemoryPlan(FluxShape(), settings, ATTENTION, Workload(1024, 77, "bfloat16", "no"), available)


def test_what_fits_is_said_without_a_warning() -> None:
    line = plan(80e9, gradient_checkpointing=True, train_batch_size=1).line()
    assert line.startswith("memory: about 2")
    assert line.endswith("of 80.0 GB that are free")


@pytest.mark.parametrize(
    ("available", "loop", "advice"),
    [
        (40e9, {}, "set train.gradient_checkpointing: 4, which needs about "),
        (36e9, {}, "set train.gradient_checkpointing: 2, which needs about "),
        (30e9, {"gradient_checkpointing": 2}, "set train.gradient_checkpointing: true, which needs about "),
        (
            26e9,
            {"train_batch_size": 8, "gradient_checkpointing": True},
            "set train.train_batch_size: 2 with gradient_accumulation_steps: 4, which needs about ",
        ),
        (
            24.4e9,
            {"train_batch_size": 1, "gradient_checkpointing": True},
            "set model.quantisation: int8, which needs about ",
        ),
        (
            9e9,
            {"train_batch_size": 1, "gradient_checkpointing": True},
            "set model.quantisation: nf4, which needs about ",
        ),
        (
            6.8e9,
            {"train_batch_size": 1, "gradient_checkpointing": True},
            "set model.quantisation: nf4, half the cache_latents.resolution, which needs about ",
        ),
        (6e9, {}, "nothing short of a device with more memory makes it fit"),
    ],
)
def test_what_does_not_fit_comes_with_the_smallest_change_that_does(
    available: float, loop: dict[str, object], advice: str
) -> None:
    tight = plan(available, **loop)
    assert tight.line().startswith("warning: memory: about ")
    assert tight.advice().startswith(advice)
