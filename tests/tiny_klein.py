"""A real FLUX.2 klein of random weights, in place of mocks: beside `tiny_flux.py`, and of the same sizes where both have them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

LATENT_CHANNELS = 4
WIDTH = 32
ENCODER_WIDTH = 8  # of Qwen's; three of its layers make a token
TEXT_WIDTH = 3 * ENCODER_WIDTH
_TEMPLATE = (  # what Qwen3's own gives for one message and enable_thinking=False
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def tiny_klein_transformer(*, blocks: int = 2, seed: int = 0) -> Flux2Transformer2DModel:
    """Return a random klein transformer: `blocks` double and as many single blocks, eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Flux2Transformer2DModel(
            in_channels=4 * LATENT_CHANNELS,
            num_layers=blocks,
            num_single_layers=blocks,
            attention_head_dim=WIDTH // 2,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
    return transformer.eval()


@dataclass(frozen=True)
class KleinInputs:
    """Everything that one forward of the transformer takes, for a batch of samples."""

    packed: Tensor
    timestep: Tensor
    text: Tensor
    image_ids: Tensor

    def sample(self, i: int) -> "KleinInputs":
        """Return sample i alone, as a batch of one."""
        one = slice(i, i + 1)
        return KleinInputs(self.packed[one], self.timestep[one], self.text[one], self.image_ids)


def tiny_klein_inputs(batch: int = 1, *, rows: int = 3, columns: int = 4, seed: int = 0) -> KleinInputs:
    """Return random inputs: `rows` x `columns` image tokens, 5 text tokens, timesteps spread over 1000..0."""
    source = torch.Generator().manual_seed(seed)
    zero = torch.zeros(1)
    return KleinInputs(
        packed=torch.randn(batch, rows * columns, 4 * LATENT_CHANNELS, generator=source),
        timestep=torch.linspace(1000.0, 0.0, batch + 1)[:batch],
        text=torch.randn(batch, 5, TEXT_WIDTH, generator=source),
        image_ids=torch.cartesian_prod(zero, torch.arange(float(rows)), torch.arange(float(columns)), zero),
    )


def predict_klein(transformer: nn.Module, inputs: KleinInputs, joint_attention_kwargs: dict[str, Any] | None = None) -> Tensor:
    """Run the transformer as diffusers' own pipeline does, and return its prediction."""
    zero = torch.zeros(1)
    prediction: Tensor = transformer(
        hidden_states=inputs.packed,
        timestep=inputs.timestep / 1000,
        guidance=None,
        encoder_hidden_states=inputs.text,
        txt_ids=torch.cartesian_prod(zero, zero, zero, torch.arange(float(inputs.text.shape[1]))),
        img_ids=inputs.image_ids,
        joint_attention_kwargs=joint_attention_kwargs,
        return_dict=False,
    )[0]
    return prediction


def tiny_klein_pipeline(*, seed: int = 0, is_distilled: bool = False) -> Flux2KleinPipeline:
    """Return a whole random pipeline, its VAE's batch norm with statistics of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer()
        return Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True),
            vae=_tiny_vae(),
            text_encoder=Qwen3ForCausalLM(_qwen_config(len(tokenizer))).eval(),
            tokenizer=tokenizer,
            transformer=tiny_klein_transformer(seed=seed),
            is_distilled=is_distilled,
        )


def tiny_klein_folder(path: Path, *, seed: int = 0, is_distilled: bool = False) -> Path:
    """Save a tiny pipeline as `Flux2KleinPipeline.from_pretrained` loads it, and return the folder."""
    tiny_klein_pipeline(seed=seed, is_distilled=is_distilled).save_pretrained(path)
    return path


def tiny_distilled_folder(path: Path) -> Path:
    """Save what stands for the distilled model of `tiny_klein_folder`: other weights, the same text encoder."""
    pipeline = tiny_klein_pipeline(is_distilled=True)
    pipeline.transformer = tiny_klein_transformer(seed=1)
    pipeline.save_pretrained(path)
    return path


def _tiny_vae() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
    )
    torch.nn.init.normal_(vae.bn.running_mean, 0.0, 0.3)
    torch.nn.init.uniform_(vae.bn.running_var, 0.2, 2.0)
    return vae.eval()


def _tokenizer() -> Qwen2TokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {piece: i for i, piece in enumerate([*letters, "wa", "ll", "wall", *special])}
    return Qwen2TokenizerFast(
        vocab=vocabulary,
        merges=[("w", "a"), ("l", "l"), ("wa", "ll")],
        extra_special_tokens=special[1:],
        chat_template=_TEMPLATE,
        model_max_length=512,
    )


def _qwen_config(vocabulary: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=ENCODER_WIDTH,
        intermediate_size=2 * ENCODER_WIDTH,
        num_hidden_layers=28,  # the last that is read is the 27th
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
