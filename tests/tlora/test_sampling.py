"""Drawing is diffusers' own pipeline with the right mask at every step."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import Tensor, nn

from tests.tiny_flux import POOLED_WIDTH, TEXT_WIDTH, tiny_pipeline
from tests.tlora.adapted import CFG, adapted
from tlora.errors import SettingsError
from tlora.flux.latents import pack
from tlora.metadata.config import TLoRAConfig
from tlora.sampling import Painter, SampleSettings, denoise, draw_pictures, initial_noise
from tlora.schedule import RankSchedule

SMALL = SampleSettings(width=16, height=16, num_inference_steps=4)
WIDE = SampleSettings(width=24, height=8, num_inference_steps=3, guidance_scale=2.0)
SHIFTED = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
STATIC = FlowMatchEulerDiscreteScheduler(shift=3.0)


def texts(count: int = 2) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(count, 5, TEXT_WIDTH, generator=source), torch.randn(count, POOLED_WIDTH, generator=source)


def painter(transformer: nn.Module | None = None, guidance: bool = True) -> tuple[Painter, FluxPipeline]:
    """Return a painter over the parts of a tiny pipeline, and the pipeline."""
    pipeline = tiny_pipeline(guidance)
    pipeline.set_progress_bar_config(disable=True)
    return Painter(transformer or pipeline.transformer, pipeline.vae, pipeline.scheduler), pipeline


def latents_of(painter: Painter, settings: SampleSettings, embeddings: tuple[Tensor, Tensor], seeds: list[int]) -> Tensor:
    return list(denoise(painter, initial_noise(painter.vae, seeds, settings), embeddings, settings))[-1].latents


def masks_seen(transformer: nn.Module) -> list[Tensor]:
    """Return a list that fills with the mask of every forward to come, as the first block is given it."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.extend(kwargs["joint_attention_kwargs"]["sigma_mask"])

    transformer.transformer_blocks[0].register_forward_pre_hook(note, with_kwargs=True, prepend=True)
    return seen


@pytest.mark.parametrize("scheduler", [None, SHIFTED, STATIC], ids=["plain", "shifted by size", "shifted"])
@pytest.mark.parametrize("settings", [SMALL, WIDE], ids=["square", "wide"])
@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_without_an_adapter_the_latents_are_those_of_the_pipeline(
    guidance: bool, settings: SampleSettings, scheduler: FlowMatchEulerDiscreteScheduler | None
) -> None:
    ours, pipeline = painter(guidance=guidance)
    pipeline.scheduler = scheduler or pipeline.scheduler
    ours = replace(ours, scheduler=pipeline.scheduler)
    embeddings = texts()
    expected = pipeline(
        prompt_embeds=embeddings[0],
        pooled_prompt_embeds=embeddings[1],
        latents=pack(initial_noise(ours.vae, [3, 4], settings)),
        width=settings.width,
        height=settings.height,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        output_type="latent",
    ).images
    torch.testing.assert_close(pack(latents_of(ours, settings, embeddings, [3, 4])), expected, rtol=1e-5, atol=1e-6)


def test_the_pictures_are_those_of_the_pipeline() -> None:
    ours, pipeline = painter()
    embeddings = texts(1)
    noise = pack(initial_noise(ours.vae, [3], SMALL))
    expected = pipeline(
        prompt_embeds=embeddings[0], pooled_prompt_embeds=embeddings[1], latents=noise, width=16, height=16, num_inference_steps=4
    ).images[0]
    drawn = draw_pictures(ours, embeddings, [3], SMALL)[0]
    assert drawn.size == (16, 16)
    assert drawn.tobytes() == expected.tobytes()


def test_every_step_has_the_mask_of_its_own_timestep_the_first_included() -> None:
    """A mask set at the end of each step comes one step late, and step 0 runs at full rank."""
    transformer = adapted()
    seen = masks_seen(transformer)
    steps = list(denoise(painter(transformer)[0], torch.randn(1, 4, 8, 8), texts(1), replace(SMALL, num_inference_steps=5)))
    assert [step.timestep for step in steps] == pytest.approx([1000, 800, 600, 400, 200])
    assert [int(mask.sum()) for mask in seen] == [1, 1, 2, 2, 3]
    assert [int(mask.sum()) for mask in seen] == RankSchedule(4, 1).active_rank(
        torch.tensor([s.timestep for s in steps])
    ).tolist()


def test_masks_by_step_index_run_from_the_fewest_ranks_to_all() -> None:
    transformer = adapted()
    seen = masks_seen(transformer)
    list(denoise(painter(transformer)[0], torch.randn(1, 4, 8, 8), texts(1), replace(SMALL, sigma_mask="step_index")))
    assert [int(mask.sum()) for mask in seen] == [1, 2, 3, 4]


def test_a_full_mask_is_full_at_every_step() -> None:
    transformer = adapted()
    seen = masks_seen(transformer)
    list(denoise(painter(transformer)[0], torch.randn(1, 4, 8, 8), texts(1), replace(SMALL, sigma_mask="full")))
    assert [int(mask.sum()) for mask in seen] == [4, 4, 4, 4]


def test_an_adapter_without_rank_masking_is_given_no_mask() -> None:
    transformer = adapted(TLoRAConfig(rank=4, alpha=4.0, min_rank=1, enable_rank_masking=False))
    seen = masks_seen(transformer)
    draw_pictures(painter(transformer)[0], texts(1), [0], SMALL)
    assert seen == [None] * 4


def test_the_adapter_changes_the_picture_and_at_scale_zero_does_not() -> None:
    base, ours = painter()[0], painter(adapted(CFG))[0]
    bare = latents_of(base, SMALL, texts(1), [0])
    assert torch.equal(latents_of(ours, replace(SMALL, lora_scale=0.0), texts(1), [0]), bare)
    half, full = (latents_of(ours, replace(SMALL, lora_scale=s), texts(1), [0]) for s in (0.5, 1.0))
    assert not torch.allclose(half, bare, rtol=1e-3)
    assert not torch.allclose(half, full, rtol=1e-3)


def test_a_picture_does_not_depend_on_its_neighbours() -> None:
    ours, (embeds, pooled) = painter(adapted())[0], texts(2)
    together = latents_of(ours, SMALL, (embeds, pooled), [5, 6])
    for i, seed in enumerate((5, 6)):
        alone = latents_of(ours, SMALL, (embeds[i : i + 1], pooled[i : i + 1]), [seed])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_same_seed_draws_the_same_bits_and_another_seed_another_picture() -> None:
    ours = painter(adapted())[0]
    assert draw_pictures(ours, texts(1), [5], SMALL)[0].tobytes() == draw_pictures(ours, texts(1), [5], SMALL)[0].tobytes()
    noise = initial_noise(ours.vae, [5, 6, 5], SMALL)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize(("width", "height"), [(18, 16), (16, 2)])
def test_a_size_that_does_not_fit_the_vae_is_refused(width: int, height: int) -> None:
    with pytest.raises(SettingsError, match=f"width and height must be multiples of 4, got {width} x {height}"):
        draw_pictures(painter()[0], texts(1), [0], replace(SMALL, width=width, height=height))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"lora_scale": float("nan")}, "lora_scale must be in -1000..1000, got nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be in 0..1000, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)
