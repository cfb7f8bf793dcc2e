"""Tileable drawing knows no border: neither the model nor the VAE can tell where it lies."""

import torch
from PIL import Image

from tests.tiny_flux import tiny_pipeline
from tlora.drawing.draw import tiled
from tlora.flux.model import decode_latents, pixels_per_latent
from tlora.sampling import circular_convolutions, tile_shift


def test_decoding_rolled_latents_is_rolling_the_decoded_picture_and_the_vae_is_as_before_afterwards() -> None:
    vae = tiny_pipeline().vae
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    f = pixels_per_latent(vae)
    plain = decode_latents(vae, latents)
    with circular_convolutions(vae):
        expected = decode_latents(vae, latents).roll((3 * f, 5 * f), (-2, -1))
        assert torch.allclose(decode_latents(vae, latents.roll((3, 5), (-2, -1))), expected, atol=1e-5)
    assert torch.equal(decode_latents(vae, latents), plain)
    assert not torch.allclose(
        decode_latents(vae, latents.roll((3, 5), (-2, -1))), plain.roll((3 * f, 5 * f), (-2, -1)), atol=1e-3
    )


def test_the_border_is_elsewhere_at_every_step_and_never_inside_a_token() -> None:
    shifts = [tile_shift(step, torch.zeros(1, 4, 64, 64)) for step in range(12)]
    assert len(set(shifts)) == 12
    assert all(down % 2 == right % 2 == 0 for down, right in shifts)
    assert shifts[:3] == [(38, 48), (14, 32), (54, 16)]


def test_a_tiled_picture_repeats() -> None:
    picture = Image.new("RGB", (2, 1))
    picture.putdata([(1, 2, 3), (4, 5, 6)])
    sheet = tiled(picture)
    assert sheet.size == (6, 3)
    assert [sheet.getpixel((x, 2)) for x in range(4)] == [(1, 2, 3), (4, 5, 6), (1, 2, 3), (4, 5, 6)]
