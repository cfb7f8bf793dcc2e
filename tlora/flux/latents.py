"""Normalisation of a VAE's output, 2x2 packing and token positions. Channels and sizes come from the tensors, never from here."""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

PATCH = 2


def normalise(z: Float[Tensor, "*batch c h w"], shift_factor: float, scaling_factor: float) -> Float[Tensor, "*batch c h w"]:
    """Return (z - shift_factor) * scaling_factor, FLUX.1's latents of a raw VAE output."""
    return (z - shift_factor) * scaling_factor


def denormalise(
    latents: Float[Tensor, "*batch c h w"], shift_factor: float, scaling_factor: float
) -> Float[Tensor, "*batch c h w"]:
    """Undo `normalise`, for decoding."""
    return latents / scaling_factor + shift_factor


def normalise_patches(
    z: Float[Tensor, "*batch c h w"], mean: Float[Tensor, " packed"], std: Float[Tensor, " packed"]
) -> Float[Tensor, "*batch c h w"]:
    """Return FLUX.2's latents of a raw VAE output: each place of a 2x2 patch has a mean and a standard deviation of its own.

    Source:
        `Flux2KleinPipeline._encode_vae_image` in diffusers, whose latents stay folded into patches; here they are as FLUX.1's.
    """
    return (z - _over(z, mean)) / _over(z, std)


def denormalise_patches(
    latents: Float[Tensor, "*batch c h w"], mean: Float[Tensor, " packed"], std: Float[Tensor, " packed"]
) -> Float[Tensor, "*batch c h w"]:
    """Undo `normalise_patches`, for decoding."""
    return latents * _over(latents, std) + _over(latents, mean)


def _over(latents: Tensor, by_patch: Float[Tensor, " packed"]) -> Float[Tensor, "c h w"]:
    """Repeat what a patch has over all patches of latents."""
    height, width = latents.shape[-2:]
    return repeat(by_patch, "(c p q) -> c (h p) (w q)", p=PATCH, q=PATCH, h=height // PATCH, w=width // PATCH)


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


def image_ids(height: int, width: int, columns: int = 3) -> Float[Tensor, "tokens columns"]:
    """Return the position of each image token: (0, row, column), or (0, row, column, 0) of four columns.

    Args:
        height: True height of the latents.
        width: True width.
        columns: 3 for FLUX.1, 4 for FLUX.2.
    """
    down, right = torch.meshgrid(torch.arange(height // PATCH), torch.arange(width // PATCH), indexing="ij")
    zero = torch.zeros_like(down)
    return torch.stack([zero, down, right, zero][:columns], dim=-1).reshape(-1, columns).float()


def text_ids(length: int, columns: int = 3) -> Float[Tensor, "tokens columns"]:
    """Return the position of each text token: all zero in FLUX.1; of four columns, the last counts."""
    ids = torch.zeros(length, columns)
    if columns > 3:
        ids[:, -1] = torch.arange(length)
    return ids
