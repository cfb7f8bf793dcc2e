"""The base's own pictures among those that are trained on: share and weight, and that all is as exact as without them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.tlora.training.test_loop import SETTINGS, prepare, read_prompts, run, views, weights, with_loop
from tlora.flux.cached import LatentItem
from tlora.training.loop import Training, masked_mse
from tlora.training.settings import PreserveSettings, PriorSettings, TrainingSettings


def mixing(share: float = 0.3, weight: float = 1.0, **loop: object) -> TrainingSettings:
    return dataclasses.replace(with_loop(**loop), prior=PriorSettings(share, weight))


def with_prior(training: Training, until: int | None = None) -> list[float]:
    """Train on five views and two prior pictures to a step; return the losses."""
    items = [*views(), *(LatentItem(f"prior {i}", f"a ball {i}", 3 * view.mean, view.std) for i, view in enumerate(views(2)))]
    losses = []
    of_class = {item.caption: item.caption.replace("caption", "class") for item in items}
    for report in training.steps(items, [(6, 6)] * 7, read_prompts, of_class, prior=2):
        losses.append(report.loss)
        if report.step == until:
            break
    return losses


def same(one: Training, other: Training) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def test_without_a_share_training_is_bit_by_bit_what_it_was_and_with_one_it_is_not() -> None:
    plain, off, on = prepare(), prepare(mixing(share=0.0)), prepare(mixing())
    losses = run(plain)
    assert with_prior(off) == losses
    assert same(plain, off)
    assert with_prior(on) != losses


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}, {"gradient_accumulation_steps": 2}, {"caption_dropout": 0.5}])
def test_four_steps_then_resume_equals_six_steps(changes: dict[str, object]) -> None:
    settings = mixing(weight=0.5, **changes)
    unbroken, first, second = (prepare(settings) for _ in range(3))
    losses = with_prior(unbroken)
    with_prior(first, until=4)
    tensors, plain = first.state()
    second.restore({name: tensor.clone() for name, tensor in tensors.items()}, plain)
    assert with_prior(second) == losses[4:]
    assert same(unbroken, second)


def test_two_batches_that_are_accumulated_are_one_of_their_size() -> None:
    whole = prepare(mixing(weight=0.5, train_batch_size=4))
    with_prior(whole)
    parts = prepare(mixing(weight=0.5, gradient_accumulation_steps=2))  # only now: accelerate keeps one state a process
    with_prior(parts)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_loss_of_a_prior_picture_counts_what_it_is_said_to() -> None:
    source = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 4, 6, 6, generator=source), torch.randn(2, 4, 6, 6, generator=source)
    each = [F.mse_loss(prediction[i], target[i]).item() for i in range(2)]
    assert masked_mse(prediction, target, [None, None], [1.0, 0.25]).item() == pytest.approx((each[0] + 0.25 * each[1]) / 2)
    assert torch.equal(masked_mse(prediction, target, [None, None], [1.0, 1.0]), F.mse_loss(prediction, target))
    full, none = (with_prior(prepare(mixing(share=0.5, weight=weight, max_train_steps=1)))[0] for weight in (1.0, 1e-9))
    assert none < full


def test_preservation_keeps_its_share_of_the_pictures_where_the_same_share_is_mixed_in() -> None:
    """Were both counted over the same samples, those to be preserved would all be prior pictures, which are not."""
    settings = dataclasses.replace(mixing(share=0.5), preservation=PreserveSettings(1.0, 0.5))
    training = prepare(settings)
    items = [*views(), *(LatentItem("prior", "a ball", view.mean, view.std) for view in views(1))]
    of_class = {item.caption: item.caption.replace("caption", "class") for item in items}
    added = [report.preservation for report in training.steps(items, [(6, 6)] * 6, read_prompts, of_class, prior=1)]
    assert len(added) == SETTINGS.loop.max_train_steps
    assert sum(bool(one) for one in added) >= 2
