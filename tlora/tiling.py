"""Pictures that tile: no border that the model, the VAE or a viewer could see.

The latents are a torus. Before every step they are rolled, so that the border of the step before lies in the middle, where
the transformer makes it continuous; the VAE's convolutions wrap round, so that decoding is the same wherever the border is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from tlora.latents import PATCH

_GOLDEN, _PLASTIC = 0.6180339887, 0.7548776662  # multiples of either fall nowhere twice, and evenly


def tile_shift(step: int, latents: Float[Tensor, "batch c h w"]) -> tuple[int, int]:
    """Return how far to roll latents (down, right) at a step: whole tokens, and elsewhere at every step."""
    rows, columns = latents.shape[-2] // PATCH, latents.shape[-1] // PATCH
    return int((step + 1) * _GOLDEN % 1 * rows) * PATCH, int((step + 1) * _PLASTIC % 1 * columns) * PATCH


@contextmanager
def circular_convolutions(vae: nn.Module) -> Iterator[None]:
    """Let the convolutions of a VAE's decoder wrap round instead of padding with zeros.

    Its attention and its group norms know no positions, so decoding rolled latents is then rolling the decoded picture.
    """
    decoder = vae.get_submodule("decoder")
    convolutions = [m for m in decoder.modules() if isinstance(m, nn.Conv2d) and m.padding_mode == "zeros"]
    for convolution in convolutions:
        convolution.padding_mode = "circular"
    try:
        yield
    finally:
        for convolution in convolutions:
            convolution.padding_mode = "zeros"


def tiled(picture: Image.Image, times: int = 3) -> Image.Image:
    """Return a picture repeated `times` x `times`: seams show at once."""
    sheet = Image.new(picture.mode, (picture.width * times, picture.height * times))
    for row in range(times):
        for column in range(times):
            sheet.paste(picture, (column * picture.width, row * picture.height))
    return sheet
