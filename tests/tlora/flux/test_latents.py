"""Shapes and positions, against diffusers' own pipeline."""

import pytest
import torch
from diffusers import FluxPipeline

from tlora.flux.latents import denormalise, image_ids, normalise, pack, text_ids, unpack

SIZES = [(4, 4), (6, 10), (12, 2)]


def random(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 16, height, width, generator=torch.Generator().manual_seed(0))


def test_flux_latents_are_shifted_first_and_scaled_then() -> None:
    z = torch.tensor([1.1159, 0.1159, -0.8841]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(normalise(z, 0.1159, 0.3611).flatten(), torch.tensor([0.3611, 0.0, -0.3611]))


def test_denormalise_undoes_normalise() -> None:
    torch.testing.assert_close(denormalise(normalise(random(4, 4), 0.1159, 0.3611), 0.1159, 0.3611), random(4, 4))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_packing_is_that_of_the_pipeline(height: int, width: int) -> None:
    latents = random(height, width)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 16, height, width))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_unpacking_is_that_of_the_pipeline_and_undoes_packing(height: int, width: int) -> None:
    packed = pack(random(height, width))
    assert torch.equal(unpack(packed, height, width), FluxPipeline._unpack_latents(packed, height * 8, width * 8, 8))
    assert torch.equal(unpack(packed, height, width), random(height, width))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_image_ids_come_from_the_true_height_and_width(height: int, width: int) -> None:
    expected = FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, torch.device("cpu"), torch.float32)
    assert torch.equal(image_ids(height, width), expected)


def test_image_ids_of_a_wide_picture_count_rows_then_columns() -> None:
    assert image_ids(4, 6).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]


def test_text_ids_are_all_zero_without_a_batch_axis() -> None:
    assert text_ids(5).shape == (5, 3)
    assert not text_ids(5).any()


@pytest.mark.parametrize(("height", "width"), [(5, 4), (4, 5)])
def test_latents_with_an_odd_side_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"latents must have even height and width, got {height} x {width}"):
        pack(random(height, width))
