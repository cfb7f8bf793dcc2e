"""What is drawn, mixed and predicted, against diffusers' scheduler and the definition of a rectified flow."""

import itertools

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from tlora.flux.noise import NoiseSettings, draw_sigma, mix_noise, sample_generator, shift_sigma, velocity_target


def draws(settings: NoiseSettings, image_tokens: int = 256, count: int = 4000) -> Tensor:
    """Return sorted noise levels, one per step of a run."""
    return torch.cat([draw_sigma(settings, image_tokens, sample_generator(0, step, 0)) for step in range(count)]).sort().values


def pair() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 4, 4, generator=source), torch.randn(3, 2, 4, 4, generator=source)


def test_the_target_is_the_velocity_and_not_the_noise() -> None:
    latents, noise = pair()
    assert torch.equal(velocity_target(latents, noise), noise - latents)


def test_the_velocity_is_how_the_mixture_changes_with_sigma() -> None:
    latents, noise = (t.double() for t in pair())
    low, high = (mix_noise(latents, noise, torch.full((3,), s, dtype=torch.float64)) for s in (0.4, 0.6))
    torch.testing.assert_close((high - low) / 0.2, velocity_target(latents, noise))


def test_sigma_zero_is_clean_and_sigma_one_is_noise_each_sample_by_its_own() -> None:
    latents, noise = pair()
    mixed = mix_noise(latents, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(mixed[0], latents[0])
    assert torch.equal(mixed[1], noise[1])
    torch.testing.assert_close(mixed[2], 0.75 * latents[2] + 0.25 * noise[2])


def test_mixing_is_that_of_the_scheduler_whose_sigma_is_its_timestep_over_1000() -> None:
    """Indexing `scheduler.sigmas` by the timestep is upside down: they run from 1 to 0."""
    latents, noise = pair()
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    timesteps = scheduler.timesteps[[10, 500, 990]]
    torch.testing.assert_close(
        mix_noise(latents, noise, timesteps / 1000), scheduler.scale_noise(latents, timesteps, noise), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("image_tokens", [64, 256, 1024, 4096])
def test_the_shift_by_picture_size_is_that_of_the_pipeline(image_tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    sigmas = torch.linspace(1.0, 0.05, 20)
    scheduler.set_timesteps(sigmas=sigmas.numpy(), mu=calculate_shift(image_tokens))
    torch.testing.assert_close(shift_sigma(sigmas, image_tokens), scheduler.sigmas[:-1], rtol=1e-5, atol=1e-6)


def test_uniform_levels_are_uniform_above_zero_up_to_one() -> None:
    levels = draws(NoiseSettings())
    assert (levels - torch.linspace(0, 1, 4000)).abs().max() < 0.03
    assert levels[0] > 0
    assert levels[-1] <= 1


def test_logit_normal_levels_have_the_mean_and_spread_asked_for() -> None:
    logits = draws(NoiseSettings("logit_normal", logit_mean=0.5, logit_std=2.0)).logit()
    assert logits.mean().item() == pytest.approx(0.5, abs=0.1)
    assert logits.std().item() == pytest.approx(2.0, abs=0.1)


def test_shifted_levels_are_logit_normal_ones_moved_towards_noise() -> None:
    plain, shifted = draws(NoiseSettings("logit_normal")), draws(NoiseSettings("shifted"), image_tokens=4096)
    torch.testing.assert_close(shifted, shift_sigma(plain, 4096))
    assert shifted.median() > plain.median() + 0.2


@pytest.mark.parametrize("mean", [-1000.0, 1000.0])
def test_no_level_is_zero_or_above_one_however_extreme_the_settings(mean: float) -> None:
    levels = draws(NoiseSettings("shifted", logit_mean=mean), count=10)
    assert (levels > 0).all()
    assert (levels <= 1).all()


def test_every_seed_step_and_sample_has_a_random_source_of_its_own() -> None:
    triples = list(itertools.product(range(3), repeat=3))
    first = {triple: torch.rand(1, generator=sample_generator(*triple)).item() for triple in triples}
    assert len(set(first.values())) == 27
    assert first == {triple: torch.rand(1, generator=sample_generator(*triple)).item() for triple in reversed(triples)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("uniform", 0.0, 0.0), r"logit_std must be positive and finite, got 0\.0"),
        (("uniform", 0.0, float("nan")), "logit_std must be positive and finite, got nan"),
        (("uniform", float("inf")), "logit_mean must be finite, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: tuple[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSettings(*settings)
