"""VAE normalisation, 2x2 packing and token positions. Channels and sizes come from the tensors, never from here."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

PATCH = 2


def normalise(z: Float[Tensor, "*batch c h w"], shift_factor: float, scaling_factor: float) -> Float[Tensor, "*batch c h w"]:
    """Return (z - shift_factor) * scaling_factor, FLUX's latents of a raw VAE output."""
    return (z - shift_factor) * scaling_factor


def denormalise(
    latents: Float[Tensor, "*batch c h w"], shift_factor: float, scaling_factor: float
) -> Float[Tensor, "*batch c h w"]:
    """Undo `normalise`, for decoding."""
    return latents / scaling_factor + shift_factor


def pack(latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch tokens packed"]:
    """Fold 2x2 patches into tokens, row by row.

    Raises:
        ValueError: If height or width is odd.
    """
    height, width = latents.shape[-2:]
    if height % PATCH or width % PATCH:
        raise ValueError(f"latents must have even height and width, got {height} x {width}")
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=PATCH, q=PATCH)


def unpack(packed: Float[Tensor, "batch tokens packed"], height: int, width: int) -> Float[Tensor, "batch c h w"]:
    """Undo `pack`.

    Args:
        packed: Tokens.
        height: Height of the latents, not of the picture.
        width: Width of the latents.
    """
    return rearrange(packed, "b (h w) (c p q) -> b c (h p) (w q)", h=height // PATCH, w=width // PATCH, p=PATCH, q=PATCH)


def image_ids(height: int, width: int) -> Float[Tensor, "tokens 3"]:
    """Return the position of each image token: (0, row, column), from the true height and width of the latents."""
    rows, columns = torch.meshgrid(torch.arange(height // PATCH), torch.arange(width // PATCH), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def text_ids(length: int) -> Float[Tensor, "tokens 3"]:
    """Return the position of each text token: all zero in FLUX."""
    return torch.zeros(length, 3)
