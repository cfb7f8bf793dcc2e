"""The one door to diffusers: load the parts of a base model, and run one forward of each.

diffusers costs ten seconds to import, so only stages that draw or train import this module.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
    logging.ERROR
)  # diffusers imports it; it misses a kernel of no use here

from diffusers import (  # noqa: E402
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
)
from jaxtyping import Float  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from tlora.errors import ModelError, SettingsError  # noqa: E402
from tlora.flux.families import FLUX_1, family_of_class  # noqa: E402
from tlora.flux.files import read_family, require_base  # noqa: E402
from tlora.flux.latents import (  # noqa: E402
    PATCH,
    denormalise,
    denormalise_patches,
    image_ids,
    normalise,
    normalise_patches,
    pack,
    text_ids,
    unpack,
)
from tlora.flux.noise import MAX_TIMESTEP  # noqa: E402
from tlora.flux.quantise import quantise_blocks  # noqa: E402
from tlora.flux.spec import ModelSpec  # noqa: E402

Part = TypeVar("Part")
# The names by which other modules know diffusers' classes.
Transformer: TypeAlias = FluxTransformer2DModel | Flux2Transformer2DModel
Vae: TypeAlias = AutoencoderKL | AutoencoderKLFlux2
Scheduler: TypeAlias = FlowMatchEulerDiscreteScheduler
TRAINING_GUIDANCE = 1.0  # of a guidance-distilled model: neither 0 nor the 3.5 of sampling
_TRANSFORMERS = {each.__name__: each for each in (FluxTransformer2DModel, Flux2Transformer2DModel)}
_VAES = {each.__name__: each for each in (AutoencoderKL, AutoencoderKLFlux2)}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Conditioning:
    """The text half of a forward.

    Args:
        prompt_embeds: Embeddings of the caption's tokens, (batch, length, width).
        pooled_prompt_embeds: The caption's own, of CLIP, (batch, width); (batch, 0) for a family that has none.
        guidance: Input of a guidance-distilled model: 1.0 in training, 3.5 is usual in sampling; ignored by others.
    """

    prompt_embeds: Float[Tensor, "batch length width"]
    pooled_prompt_embeds: Float[Tensor, "batch pooled"]
    guidance: float


def choose_device(spec: ModelSpec) -> torch.device:
    """Return the device that the spec names.

    Raises:
        ModelError: If it is a GPU that is not there.
    """
    available = torch.cuda.is_available()
    if spec.device == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device(spec.device)
    if device.type == "cuda" and not available:
        raise ModelError(f"device {spec.device}, but no GPU can be seen here: use auto or cpu", "device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {spec.device}, but the last here is cuda:{torch.cuda.device_count() - 1}", "device")
    return device


def choose_dtype(spec: ModelSpec) -> torch.dtype:
    """Return the type of the frozen weights."""
    return _DTYPES[spec.dtype]


def load_transformer(spec: ModelSpec) -> Transformer:
    """Load the transformer, frozen, on its device, its blocks quantised if the spec says so."""
    kind = _TRANSFORMERS[read_family(spec, fetch=True).transformer]
    transformer = _load(kind.from_pretrained, spec, "transformer", choose_dtype(spec)).requires_grad_(False)
    device = choose_device(spec)
    if spec.quantisation != "none":
        for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks):
            quantise_blocks(blocks, spec.quantisation, device)
        for parameter in filter(torch.is_floating_point, transformer.parameters()):
            parameter.data = parameter.data.clone()  # of its own: a view of the file would keep all of it in memory
    return transformer.to(device)


def outline_transformer(spec: ModelSpec) -> Transformer:
    """Return the transformer's modules and shapes, from its configuration alone: on no device, and with no weight loaded.

    Raises:
        ModelError: If the configuration cannot be read.
    """
    require_base(spec)
    kind = _TRANSFORMERS[read_family(spec, fetch=True).transformer]
    try:
        config = kind.load_config(spec.path, subfolder="transformer", revision=spec.revision or None)
        with torch.device("meta"):
            outline: Transformer = kind.from_config(config)
            return outline
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.path}/transformer: its configuration cannot be read: {_first_line(error)}") from error


def load_vae(spec: ModelSpec) -> Vae:
    """Load the VAE, frozen, in float32 (its encoder overflows in float16), on its device."""
    vae = _load(_VAES[read_family(spec, fetch=True).vae].from_pretrained, spec, "vae", torch.float32)
    return vae.requires_grad_(False).eval().to(choose_device(spec))


def load_scheduler(spec: ModelSpec) -> FlowMatchEulerDiscreteScheduler:
    """Load the sampler's settings."""
    require_base(spec)
    try:
        return FlowMatchEulerDiscreteScheduler.from_pretrained(spec.path, subfolder="scheduler", revision=spec.revision or None)
    except ImportError as error:  # a command finds no scipy for it (`tlora.runtime.lean_imports`), and FLUX has no use for it
        raise ModelError(f"{spec.path}/scheduler: use_beta_sigmas is not FLUX's way to draw: set it to false") from error


def image_tokens_of(spec: ModelSpec, width: int, height: int) -> int:
    """Return how many image tokens a picture has on a base model, from the VAE's configuration alone.

    Raises:
        SettingsError: If the size does not fit the VAE.
    """
    require_base(spec)
    config = AutoencoderKL.load_config(spec.path, subfolder="vae", revision=spec.revision or None)
    side = 2 ** (len(config["block_out_channels"]) - 1) * PATCH
    if width % side or height % side or min(width, height) < side:
        raise SettingsError(f"width and height must be multiples of {side}, got {width} x {height}")
    return (width // side) * (height // side)


def pixels_per_latent(vae: Vae) -> int:
    """Return f, how many pixels one latent covers on a side: 8 for FLUX.1 and FLUX.2, 4 for the pocket."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


@torch.no_grad()
def encode_posterior(vae: Vae, pixels: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the normalised latents of pictures in -1..1, on the CPU in float32.

    `mean + std * noise` is then a sample as FLUX.1 wants it, (z - shift_factor) * scaling_factor. FLUX.2's own pipeline takes the
    mode, so its std is 0.
    """
    posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    if isinstance(vae, AutoencoderKLFlux2):
        mode = normalise_patches(posterior.mode().float(), *_patch_statistics(vae))
        return mode.cpu(), torch.zeros_like(mode).cpu()
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    mean = normalise(posterior.mean.float(), shift, scale)
    return mean.cpu(), (posterior.std.float() * scale).cpu()


@torch.no_grad()
def decode_latents(vae: Vae, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
    """Return pictures in -1..1, on the CPU in float32."""
    latents = latents.to(vae.device, vae.dtype)
    if isinstance(vae, AutoencoderKLFlux2):
        z = denormalise_patches(latents, *_patch_statistics(vae))
    else:
        z = denormalise(latents, vae.config.shift_factor, vae.config.scaling_factor)
    return vae.decode(z).sample.float().clamp(-1, 1).cpu()


def predict_velocity(
    transformer: nn.Module,
    latents: Float[Tensor, "batch c h w"],
    timestep: Float[Tensor, " batch"],
    conditioning: Conditioning,
    sigma_mask: Float[Tensor, "masks rank"] | tuple[Tensor | None, ...] | None = None,
    scale: float | tuple[float, ...] = 1.0,
) -> Float[Tensor, "batch c h w"]:
    """Run the transformer once.

    Args:
        transformer: Of any family, with or without an adapter, possibly wrapped for several processes.
        latents: Noisy latents in float32; height and width need not be equal.
        timestep: Scheduler timestep in float32, 0..1000; the model is given timestep / 1000 in its own type.
        conditioning: Text embeddings and guidance.
        sigma_mask: The mask of each sample, (batch, rank) or (1, rank); None only without an adapter that masks. Of several
            adapters, a tuple with each one's.
        scale: Strength of the adapter, or of each of several.

    Returns:
        The predicted velocity in float32.
    """
    plain: Transformer = transformer.module if isinstance(transformer, DistributedDataParallel) else transformer
    dtype: torch.dtype = plain.dtype
    device = latents.device
    height, width = latents.shape[-2:]
    given = ({} if sigma_mask is None else {"sigma_mask": sigma_mask}) | ({} if scale in (1.0, (1.0,)) else {"scale": scale})
    guidance = torch.full((len(latents),), conditioning.guidance, dtype=torch.float32, device=device)
    family = family_of_class(type(plain)) or FLUX_1
    pooled = {"pooled_projections": conditioning.pooled_prompt_embeds.to(dtype)} if family is FLUX_1 else {}
    prediction = transformer(
        hidden_states=pack(latents).to(dtype),
        timestep=(timestep / MAX_TIMESTEP).to(dtype),
        guidance=guidance.to(dtype) if plain.config.guidance_embeds else None,
        encoder_hidden_states=conditioning.prompt_embeds.to(dtype),
        txt_ids=text_ids(conditioning.prompt_embeds.shape[1], family.id_columns).to(device),
        img_ids=image_ids(height, width, family.id_columns).to(device),
        joint_attention_kwargs=given or None,
        return_dict=False,
        **pooled,
    )[0]
    return unpack(prediction.float(), height, width)


def _patch_statistics(vae: AutoencoderKLFlux2) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each place of a patch, (4c,), in float32."""
    return vae.bn.running_mean.float(), torch.sqrt(vae.bn.running_var.float() + vae.config.batch_norm_eps)


def _load(loader: Callable[..., Part], spec: ModelSpec, part: str, dtype: torch.dtype) -> Part:
    require_base(spec)
    revision = spec.revision or None
    try:
        return loader(spec.path, subfolder=part, revision=revision, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.path}/{part}: cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
