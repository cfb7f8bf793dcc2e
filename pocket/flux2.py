"""Pretrain the pocket FLUX.2: the transformer of FLUX.2 [klein] at pocket size, on latents of the pocket FLUX's VAE.

FLUX.2's VAE is FLUX.1's with a batch norm on 2 x 2 patches of latents, so the weights are taken over and only the statistics
are measured. Guidance is not distilled: klein's base draws with a second pass for the empty prompt.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

from pocket.captions import training_caption
from pocket.loop import Draw, Learner, Recipe, train
from pocket.pictures import VALIDATION_PICTURES, scene_of, to_tensor
from pocket.qwen import TAKEN_LAYERS, Texts
from pocket.qwen import WIDTH as TEXT_WIDTH
from pocket.vae import LATENT_CHANNELS

HEADS, HEAD_WIDTH = 4, 32
BATCH = 32
WORTH_COMPILING = 1000  # steps
STATISTICS_PICTURES = 2048  # that the batch norm's statistics are of
TEXT_LENGTHS, TEXT_SHARES = (24, 48), (0.8, 0.2)  # short texts are cheaper
_TAKEN_OVER = (
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "latent_channels",
    "norm_num_groups",
    "sample_size",
    "mid_block_add_attention",
    "use_quant_conv",
    "use_post_quant_conv",
)


def build_vae(flux1: AutoencoderKL, pictures: NDArray[np.uint8]) -> AutoencoderKLFlux2:
    """Return FLUX.2's VAE with the weights of FLUX.1's, and the batch norm's statistics over `pictures`."""
    vae = AutoencoderKLFlux2(**{name: flux1.config[name] for name in _TAKEN_OVER})
    vae.load_state_dict(flux1.state_dict() | {f"bn.{name}": value for name, value in vae.bn.state_dict().items()})
    vae.eval().requires_grad_(False)
    patches = torch.cat([_patches(vae, pictures[i : i + 64]) for i in range(0, len(pictures), 64)])
    vae.bn.running_mean.copy_(patches.mean((0, 2, 3)))
    vae.bn.running_var.copy_(patches.var((0, 2, 3)))
    return vae


def encode_patches(vae: AutoencoderKLFlux2, pictures: NDArray[np.uint8]) -> Tensor:
    """Return the normalised patches of all pictures as float16, (count, 64 patches, 64 channels)."""
    mean = vae.bn.running_mean[:, None, None]
    deviation = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()[:, None, None]
    batches = [((_patches(vae, pictures[i : i + 125]) - mean) / deviation).half() for i in range(0, len(pictures), 125)]
    return torch.cat(batches).flatten(2).transpose(1, 2).contiguous()


@torch.no_grad()
def _patches(vae: AutoencoderKLFlux2, pictures: NDArray[np.uint8]) -> Tensor:
    latents = vae.encode(to_tensor(pictures)).latent_dist.mode()
    return Flux2KleinPipeline._patchify_latents(latents)


@dataclass(frozen=True)
class Flux2:
    """The transformer and where its texts come from."""

    transformer: Flux2Transformer2DModel
    texts: Texts

    def velocity(self, packed: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Predict the velocity of packed latents (batch, 64, 64)."""
        side, one = torch.arange(int(packed.shape[1] ** 0.5)), torch.arange(1)
        return self.transformer(
            hidden_states=packed,
            timestep=sigma,
            encoder_hidden_states=text,
            img_ids=torch.cartesian_prod(one, side, side, one),
            txt_ids=torch.cartesian_prod(one, one, one, torch.arange(text.shape[1])),
            return_dict=False,
        )[0]


def build_transformer() -> Flux2Transformer2DModel:
    """Return an untrained transformer; modulation and output start at zero, which diffusers leaves to the caller."""
    torch.manual_seed(0)
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=len(TAKEN_LAYERS) * TEXT_WIDTH,
        timestep_guidance_channels=128,
        axes_dims_rope=(HEAD_WIDTH // 4,) * 4,
        rope_theta=100,
        guidance_embeds=False,
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (name == "proj_out" or "norm" in name or "modulation" in name):
            nn.init.zeros_(module.weight)
    return transformer


def pretrain(flux2: Flux2, latents: Tensor, steps: int, folder: Path) -> None:
    """Match flows on cached latents, with Muon from the start; compiled and in bfloat16 where the CPU multiplies in it."""
    fast = steps >= WORTH_COMPILING and torch.cpu._is_amx_tile_supported() and shutil.which("g++") is not None
    if fast:
        flux2.transformer.compile_repeated_blocks(dynamic=False)

    def loss_at(step: int, draw: Draw) -> Tensor:
        chosen = draw.numpy.integers(VALIDATION_PICTURES, len(latents), BATCH)
        captions = [training_caption(scene_of(int(i)), draw.numpy) for i in chosen]
        clean, text = latents[chosen].float(), flux2.texts(captions, int(draw.numpy.choice(TEXT_LENGTHS, p=TEXT_SHARES)))
        noise = torch.randn(clean.shape, generator=draw.torch)
        uniform = torch.rand(BATCH, generator=draw.torch)
        sigma = torch.sigmoid(torch.randn(BATCH, generator=draw.torch) + 0.2) if step % 2 else uniform
        noisy = torch.lerp(clean, noise, sigma[:, None, None])
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            prediction = flux2.velocity(noisy, sigma, text)
        return F.mse_loss(prediction.float(), noise - clean)

    recipe = Recipe("flux2", 8, steps, 2e-3, 0.01, 0.998, warmup=100, flat_share=0.6, muon=True)
    train(Learner([flux2.transformer], recipe), loss_at, folder)


def assemble(
    transformer: Flux2Transformer2DModel, vae: AutoencoderKLFlux2, qwen: Qwen3ForCausalLM, tokenizer: Qwen2TokenizerFast
) -> Flux2KleinPipeline:
    """Return the whole as a `Flux2KleinPipeline`."""
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=qwen.eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )
