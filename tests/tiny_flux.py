"""A real FLUX of a hundred thousand random weights, in place of mocks.

Its latents have 4 channels and are 2x smaller than the picture, unlike FLUX.1 (16 and 8) and the pocket (16 and 4), so that
code which takes those numbers for granted fails here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from pocket.tokenizers import build_clip_tokenizer, build_t5_tokenizer

LATENT_CHANNELS = 4
SCALE = 2  # a picture of 32 x 32 pixels has latents of 16 x 16 and 64 image tokens
WIDTH = 32
TEXT_WIDTH = 24
POOLED_WIDTH = 16


def tiny_transformer(guidance: bool = True, *, blocks: int = 2, seed: int = 0) -> FluxTransformer2DModel:
    """Return a random FLUX transformer: `blocks` double and as many single blocks, no layer at zero, eval mode.

    Args:
        guidance: With the guidance embedding of FLUX.1-dev, or without it as FLUX.1-schnell.
        blocks: Number of double blocks, and of single blocks.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * LATENT_CHANNELS,
            num_layers=blocks,
            num_single_layers=blocks,
            attention_head_dim=WIDTH // 2,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=POOLED_WIDTH,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 6, 6),
        )
    return transformer.eval()


@dataclass(frozen=True)
class Inputs:
    """Everything that one forward of the transformer takes, for a batch of samples."""

    packed: Tensor
    timestep: Tensor
    text: Tensor
    pooled: Tensor
    image_ids: Tensor
    guidance: Tensor | None

    def sample(self, i: int) -> "Inputs":
        """Return sample i alone, as a batch of one."""
        one = slice(i, i + 1)
        guidance = None if self.guidance is None else self.guidance[one]
        return Inputs(self.packed[one], self.timestep[one], self.text[one], self.pooled[one], self.image_ids, guidance)


def tiny_inputs(batch: int = 1, *, rows: int = 3, columns: int = 4, guidance: bool = True, seed: int = 0) -> Inputs:
    """Return random inputs: `rows` x `columns` image tokens, 5 text tokens, timesteps spread over 1000..0."""
    source = torch.Generator().manual_seed(seed)
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return Inputs(
        packed=torch.randn(batch, rows * columns, 4 * LATENT_CHANNELS, generator=source),
        timestep=torch.linspace(1000.0, 0.0, batch + 1)[:batch],
        text=torch.randn(batch, 5, TEXT_WIDTH, generator=source),
        pooled=torch.randn(batch, POOLED_WIDTH, generator=source),
        image_ids=torch.stack([torch.zeros_like(grid[0]), *grid], dim=-1).reshape(-1, 3).float(),
        guidance=torch.ones(batch) if guidance else None,
    )


def predict(transformer: nn.Module, inputs: Inputs, joint_attention_kwargs: dict[str, Any] | None = None) -> Tensor:
    """Run the transformer as diffusers' own pipeline does, and return its prediction."""
    prediction: Tensor = transformer(
        hidden_states=inputs.packed,
        timestep=inputs.timestep / 1000,
        guidance=inputs.guidance,
        pooled_projections=inputs.pooled,
        encoder_hidden_states=inputs.text,
        txt_ids=torch.zeros(inputs.text.shape[1], 3),
        img_ids=inputs.image_ids,
        joint_attention_kwargs=joint_attention_kwargs,
        return_dict=False,
    )[0]
    return prediction


def tiny_pipeline(guidance: bool = True, *, seed: int = 0) -> FluxPipeline:
    """Return a whole random FluxPipeline with the pocket's tokenizers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip_tokenizer, t5_tokenizer = build_clip_tokenizer(), build_t5_tokenizer()
        return FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False),
            vae=_tiny_vae().eval(),
            text_encoder=CLIPTextModel(_clip_config(clip_tokenizer)).eval(),
            tokenizer=clip_tokenizer,
            text_encoder_2=T5EncoderModel(_t5_config(t5_tokenizer)).eval(),
            tokenizer_2=t5_tokenizer,
            transformer=tiny_transformer(guidance, seed=seed),
        )


def tiny_pipeline_folder(path: Path, guidance: bool = True, *, seed: int = 0) -> Path:
    """Save a tiny pipeline as `FluxPipeline.from_pretrained` loads it, and return the folder."""
    tiny_pipeline(guidance, seed=seed).save_pretrained(path)
    return path


def _tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1,
        scaling_factor=0.4,
    )


def _clip_config(tokenizer: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=POOLED_WIDTH,
        intermediate_size=2 * POOLED_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=POOLED_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_config(tokenizer: Any) -> T5Config:
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=2 * TEXT_WIDTH,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        pad_token_id=0,
        eos_token_id=1,
        is_encoder_decoder=False,
        use_cache=False,
    )
