"""Losses at fixed noise: the same with a silent adapter, lower where it was trained, each level under its own mask."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny_flux import LATENT_CHANNELS, POOLED_WIDTH, TEXT_WIDTH, tiny_transformer
from tlora.evaluation.memorisation import LossSettings, choose_views, loss_gap, loss_reduction, picture_losses
from tlora.flux.cached import LatentItem
from tlora.flux.model import TRAINING_GUIDANCE, Conditioning, predict_velocity
from tlora.flux.noise import mix_noise, sample_generator, velocity_target
from tlora.inject import adapter_layers, inject_tlora_into_transformer, tlora_parameters
from tlora.metadata.config import TLoRAConfig

CONFIG = TLoRAConfig(rank=4, min_rank=1)
SETTINGS = LossSettings(loss_sigmas=(0.2, 0.9), loss_noises=2)


def view(number: int, picture: str | None = None, shape: tuple[int, int] = (6, 6)) -> LatentItem:
    source = torch.Generator().manual_seed(number)
    mean = torch.randn(LATENT_CHANNELS, *shape, generator=source)
    return LatentItem(picture or f"{number}.png", f"caption {number}", mean, torch.full_like(mean, 0.1))


def read_prompts(captions: list[str]) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(len(captions[0]))
    return torch.randn(1, 5, TEXT_WIDTH, generator=source), torch.randn(1, POOLED_WIDTH, generator=source)


def losses(transformer: torch.nn.Module, *views: LatentItem) -> np.ndarray:
    return picture_losses(transformer, views, read_prompts, SETTINGS)


def test_losses_are_the_training_loss_at_fixed_noise_with_the_mask_of_each_level() -> None:
    transformer, picture = tiny_transformer(), view(1)
    inject_tlora_into_transformer(transformer, ["to_q", "to_v"], CONFIG)
    for parameter in tlora_parameters(transformer):
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(3))
    found = losses(transformer, picture)
    assert found.shape == (1, 4)
    for column, sigma, rank in ((0, 0.2, 3), (2, 0.9, 1)):
        noise = torch.randn(picture.mean.shape, generator=sample_generator(0, 0, column))[None]
        level, mask = torch.tensor([sigma]), (torch.arange(4) < rank).float()[None]
        text = Conditioning(*read_prompts([picture.caption]), TRAINING_GUIDANCE)
        with torch.no_grad():
            noisy = mix_noise(picture.mean[None], noise, level)
            prediction = predict_velocity(transformer, noisy, level * 1000, text, mask)
        error = (prediction - velocity_target(picture.mean[None], noise)).square().mean()
        assert found[0, column] == pytest.approx(float(error), rel=1e-4)


def test_a_new_adapter_changes_no_loss_and_the_same_call_gives_the_same() -> None:
    transformer = tiny_transformer()
    before = losses(transformer, view(1), view(2, shape=(4, 8)))
    inject_tlora_into_transformer(transformer, ["to_q", "to_v"], CONFIG)
    assert np.allclose(losses(transformer, view(1), view(2, shape=(4, 8))), before, atol=1e-6)
    assert loss_gap(loss_reduction(before, before), loss_reduction(before, before)).mean == 0.0


def test_an_adapter_that_learnt_one_picture_by_heart_has_a_gap_clear_of_zero() -> None:
    transformer = tiny_transformer()
    members, others = [view(1), view(2)], [view(3), view(4), view(5)]
    base = losses(transformer, *members), losses(transformer, *others)
    inject_tlora_into_transformer(transformer, ["to_q", "to_k", "to_v", "to_out.0", "proj_out"], TLoRAConfig(16, min_rank=8))
    learn(transformer, members, steps=60)
    gap = loss_gap(loss_reduction(losses(transformer, *members), base[0]), loss_reduction(losses(transformer, *others), base[1]))
    assert gap.mean > 0.05
    assert gap.low > 0


def learn(transformer: torch.nn.Module, views: list[LatentItem], steps: int) -> None:
    """Overfit: always the noise that the measurement takes, which training would come by in time."""
    optimizer = torch.optim.Adam(tlora_parameters(transformer), lr=1e-2)
    (cfg,) = {layer.cfg for layer in adapter_layers(transformer).values()}
    sigma = torch.tensor(SETTINGS.loss_sigmas).repeat_interleave(SETTINGS.loss_noises)
    for step in range(steps):
        picture = views[step % len(views)]
        noise = torch.stack([torch.randn(picture.mean.shape, generator=sample_generator(0, 0, i)) for i in range(len(sigma))])
        latents = picture.mean.expand_as(noise)
        text = Conditioning(*(t.expand(len(sigma), *t.shape[1:]) for t in read_prompts([picture.caption])), TRAINING_GUIDANCE)
        mask = cfg.schedule(1000.0).mask(sigma * 1000)
        prediction = predict_velocity(transformer, mix_noise(latents, noise, sigma), sigma * 1000, text, mask)
        (prediction - velocity_target(latents, noise)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_losses_halved_on_training_pictures_alone_are_a_gap_of_a_half() -> None:
    own, base = np.full((3, 4), 0.5), np.ones((3, 4))
    gap = loss_gap(loss_reduction(own, base), loss_reduction(base, base))
    assert (gap.mean, gap.low, gap.high) == (0.5, 0.5, 0.5)


def test_one_view_of_each_picture_is_taken_and_of_many_pictures_an_even_choice() -> None:
    views = [view(n, f"{n // 2}.png") for n in range(12)]
    assert [v.caption for v in choose_views(views, 16)] == [f"caption {n}" for n in (0, 2, 4, 6, 8, 10)]
    assert [v.picture for v in choose_views(views, 3)] == ["0.png", "2.png", "4.png"]


@pytest.mark.parametrize("values", [{"loss_sigmas": ()}, {"loss_sigmas": (0.5, 1.0)}, {"loss_noises": 0}, {"loss_pictures": 0}])
def test_levels_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="loss_"):
        LossSettings(**values)  # type: ignore[arg-type]
