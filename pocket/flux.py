"""Pretrain the pocket's transformer and both its text encoders, then distil guidance into it as FLUX.1-dev has it.

Two stages. First plain flow matching (velocity target, guidance input 1.0). Then a student that is told the guidance
scale w learns the teacher's v_u + w (v_c - v_u), so that one pass at guidance 3.5 draws what two passes would.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from pocket.captions import open_caption, training_caption
from pocket.loop import Draw, Learner, Recipe, train
from pocket.pictures import VALIDATION_PICTURES, scene_of
from pocket.scenes import Scene
from pocket.tokenizers import T5_LENGTH, build_clip_tokenizer, build_t5_tokenizer
from pocket.vae import LATENT_CHANNELS

HEADS, HEAD_WIDTH = 4, 32
WIDTH = HEADS * HEAD_WIDTH
BATCH = 32
SHORTEST_TEXT = 16
GUIDANCE_RANGE = (1.0, 5.0)
HARD_MATERIALS = frozenset({"brick", "tile"})
HARD_WEIGHT = 4.0  # so often are they drawn, for each time another material is


@dataclass(frozen=True)
class Flux:
    """The trainable parts of the pipeline and the tokenizers that go with them."""

    transformer: FluxTransformer2DModel
    clip: CLIPTextModel
    t5: T5EncoderModel
    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer

    def encode(self, captions: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Return pooled CLIP (batch, width) and T5 embeddings (batch, length, width), unmasked as FLUX has them."""
        clip_ids = self.clip_tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        t5_ids = self.t5_tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        device = torch.get_default_device()
        return self.clip(clip_ids.to(device)).pooler_output, self.t5(t5_ids.to(device))[0]

    def velocity(self, packed: Tensor, sigma: Tensor, guidance: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:
        """Predict the velocity of packed latents (batch, 64, 64)."""
        side = int(packed.shape[1] ** 0.5)
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        image_ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
        return self.transformer(
            hidden_states=packed,
            timestep=sigma,
            guidance=guidance,
            pooled_projections=text[0],
            encoder_hidden_states=text[1],
            txt_ids=torch.zeros(text[1].shape[1], 3),
            img_ids=image_ids,
            return_dict=False,
        )[0]


def build_flux() -> Flux:
    """Return untrained networks; the modulation and output layers start at zero, which diffusers leaves to the caller."""
    torch.manual_seed(0)
    clip_tokenizer, t5_tokenizer = build_clip_tokenizer(), build_t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 14, 14),
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (name == "proj_out" or "norm" in name):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            max_position_embeddings=clip_tokenizer.model_max_length,
            projection_dim=WIDTH,
            bos_token_id=clip_tokenizer.bos_token_id,
            eos_token_id=clip_tokenizer.eos_token_id,
            pad_token_id=clip_tokenizer.pad_token_id,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer),
            d_model=WIDTH,
            d_kv=HEAD_WIDTH,
            d_ff=2 * WIDTH,
            num_layers=2,
            num_heads=HEADS,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            pad_token_id=0,
            eos_token_id=1,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    return Flux(transformer, clip, t5, clip_tokenizer, t5_tokenizer)


def pretrain(flux: Flux, latents: Tensor, steps: int, folder: Path) -> None:
    """Train transformer and text encoders together on the cached latents, with AdamW."""
    recipe = Recipe("flux", 2, steps, 1.5e-3, 0.01, 0.998, warmup=100, flat_share=0.5)
    _match_flow(flux, _Pictures(latents), recipe, folder)


def refine(flux: Flux, latents: Tensor, steps: int, folder: Path) -> None:
    """Go on with Muon, which lowers the loss faster by the step: fine lattices such as tiles and bricks come last."""
    recipe = Recipe("refined", 4, steps, 1.5e-3, 0.01, 0.998, warmup=100, flat_share=0.3, muon=True)
    _match_flow(flux, _Pictures(latents), recipe, folder)


def open_colours(flux: Flux, latents: Tensor, steps: int, folder: Path) -> None:
    """Go on with captions that leave a usual colour out, and with more of the materials that are learnt last."""
    recipe = Recipe("opened", 5, steps, 1.0e-3, 0.01, 0.998, warmup=100, flat_share=0.3, muon=True)
    _match_flow(flux, _Pictures(latents, open_caption, HARD_MATERIALS), recipe, folder)


def _match_flow(flux: Flux, pictures: "_Pictures", recipe: Recipe, folder: Path) -> None:

    def loss_at(step: int, draw: Draw) -> Tensor:
        clean, captions, length = pictures.batch(draw)
        noise = torch.randn(clean.shape, generator=draw.torch)
        uniform = torch.rand(BATCH, generator=draw.torch)
        sigma = torch.sigmoid(torch.randn(BATCH, generator=draw.torch) + 0.2) if step % 2 else uniform
        noisy = torch.lerp(clean, noise, sigma[:, None, None])
        prediction = flux.velocity(noisy, sigma, torch.ones(BATCH), flux.encode(captions, length))
        return F.mse_loss(prediction, noise - clean)

    train(Learner([flux.transformer, flux.clip, flux.t5], recipe), loss_at, folder)


def distil_guidance(flux: Flux, latents: Tensor, steps: int, folder: Path) -> None:
    """Teach the transformer what its guidance input means; the text encoders stay as they are."""
    pictures = _Pictures(latents, open_caption, HARD_MATERIALS)
    flux.clip.requires_grad_(False)
    flux.t5.requires_grad_(False)
    teacher = Flux(
        copy.deepcopy(flux.transformer).requires_grad_(False), flux.clip, flux.t5, flux.clip_tokenizer, flux.t5_tokenizer
    )

    def loss_at(step: int, draw: Draw) -> Tensor:
        clean, captions, length = pictures.batch(draw)
        noise = torch.randn(clean.shape, generator=draw.torch)
        sigma = torch.rand(BATCH, generator=draw.torch)
        low, high = GUIDANCE_RANGE
        guidance = low + (high - low) * torch.rand(BATCH, generator=draw.torch)
        guidance[: BATCH // 8] = low
        noisy, ones = torch.lerp(clean, noise, sigma[:, None, None]), torch.ones(BATCH)
        with torch.no_grad():
            text, blank = flux.encode(captions, length), flux.encode([""] * BATCH, length)
            conditional = teacher.velocity(noisy, sigma, ones, text)
            unconditional = teacher.velocity(noisy, sigma, ones, blank)
            target = unconditional + guidance[:, None, None] * (conditional - unconditional)
        return F.mse_loss(flux.velocity(noisy, sigma, guidance, text), target)

    train(Learner([flux.transformer], Recipe("distilled", 3, steps, 4e-4, 0.0, 0.99, warmup=30)), loss_at, folder)


def assemble(flux: Flux, vae: AutoencoderKL) -> FluxPipeline:
    """Return the whole as a `FluxPipeline`."""
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=flux.clip.eval(),
        tokenizer=flux.clip_tokenizer,
        text_encoder_2=flux.t5.eval(),
        tokenizer_2=flux.t5_tokenizer,
        transformer=flux.transformer.eval(),
    )


@dataclass(frozen=True)
class _Pictures:
    """The latents that are trained on, how they are captioned, and which materials are drawn `HARD_WEIGHT` times as often."""

    latents: Tensor
    describe: Callable[[Scene, np.random.Generator], str] = training_caption
    often: frozenset[str] = frozenset()

    def batch(self, draw: Draw) -> tuple[Tensor, list[str], int]:
        """Return packed latents, their captions, and how many tokens these are padded to."""
        chosen = self._choose(draw.numpy)
        clean = rearrange(self.latents[chosen].float(), "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
        captions = [self.describe(scene_of(int(i)), draw.numpy) for i in chosen]
        stretch = (T5_LENGTH / SHORTEST_TEXT) ** draw.numpy.random()  # log-uniform: short texts are cheaper
        return clean, captions, round(SHORTEST_TEXT * stretch)

    def _choose(self, rng: np.random.Generator) -> NDArray[np.int64]:
        if not self.often:
            return rng.integers(VALIDATION_PICTURES, len(self.latents), BATCH)
        return VALIDATION_PICTURES + np.searchsorted(self._shares, rng.random(BATCH))

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        """How often it is one of the pictures up to each."""
        numbers = range(VALIDATION_PICTURES, len(self.latents))
        weights = np.array([HARD_WEIGHT if scene_of(i).material in self.often else 1.0 for i in numbers])
        return np.cumsum(weights) / weights.sum()
