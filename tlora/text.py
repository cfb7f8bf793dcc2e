"""Captions -> embeddings, by the T5 and CLIP encoders of the base model, on the CPU, each distinct caption once.

The encoders never stand on the GPU beside the transformer; only embeddings travel there. Loading them through transformers
alone spares this path the ten seconds that diffusers costs to import.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerBase, T5EncoderModel, T5TokenizerFast

from tlora.errors import ModelError
from tlora.flux.files import require_base
from tlora.flux.spec import ModelSpec
from tlora.pictures.tokens import require_vocabularies


@dataclass(frozen=True)
class PromptEmbedding:
    """One caption as FLUX reads it: T5 (length, width) and pooled CLIP (width,)."""

    prompt_embeds: Float[Tensor, "length width"]
    pooled_prompt_embeds: Float[Tensor, " pooled"]


@dataclass(frozen=True)
class TextEncoders:
    """Both encoders with their tokenizers."""

    clip: nn.Module
    clip_tokenizer: PreTrainedTokenizerBase
    t5: nn.Module
    t5_tokenizer: PreTrainedTokenizerBase


@runtime_checkable
class HasTextEncoders(Protocol):
    """The parts of a `FluxPipeline` that encoding needs."""

    text_encoder: nn.Module
    tokenizer: PreTrainedTokenizerBase
    text_encoder_2: nn.Module
    tokenizer_2: PreTrainedTokenizerBase


def load_text_encoders(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> TextEncoders:
    """Load both encoders and their tokenizers on the CPU.

    Raises:
        ModelError: If the base model or a part of it cannot be loaded.
    """
    require_base(spec)
    if spec.is_folder:
        require_vocabularies(Path(spec.path))
    revision = spec.revision or "main"
    try:
        return TextEncoders(
            CLIPTextModel.from_pretrained(spec.path, subfolder="text_encoder", revision=revision, dtype=dtype).eval(),
            CLIPTokenizer.from_pretrained(spec.path, subfolder="tokenizer", revision=revision),
            T5EncoderModel.from_pretrained(spec.path, subfolder="text_encoder_2", revision=revision, dtype=dtype).eval(),
            T5TokenizerFast.from_pretrained(spec.path, subfolder="tokenizer_2", revision=revision),
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.path}: its text encoders cannot be loaded: {str(error).strip().splitlines()[0]}") from error


@torch.no_grad()
def encode_captions(
    encoders: TextEncoders, captions: Iterable[str], max_sequence_length: int
) -> Iterator[tuple[str, PromptEmbedding]]:
    """Yield each distinct caption with its embedding, on the CPU, in the encoders' type.

    One at a time: what a caption is encoded to does not depend on its neighbours, and memory stays flat.

    Args:
        encoders: Both encoders.
        captions: Any captions; repeated ones are encoded once.
        max_sequence_length: T5 tokens, padded or cut; 77 here, at most 512 for FLUX.1-dev.

    Source:
        `FluxPipeline.encode_prompt` in diffusers; FLUX passes no attention mask for the padding.
    """
    for caption in dict.fromkeys(captions):
        clip_ids = encoders.clip_tokenizer(
            caption,
            padding="max_length",
            max_length=encoders.clip_tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        t5_ids = encoders.t5_tokenizer(
            caption, padding="max_length", max_length=max_sequence_length, truncation=True, return_tensors="pt"
        ).input_ids
        pooled = encoders.clip(clip_ids, output_hidden_states=False).pooler_output
        yield caption, PromptEmbedding(encoders.t5(t5_ids)[0][0].cpu(), pooled[0].cpu())


def precompute_prompt_cache_cpu_then_to_gpu(
    pipe: HasTextEncoders,
    captions: Iterable[str],
    gpu_device: torch.device | str,
    dtype: torch.dtype,
    max_sequence_length: int = 77,
) -> dict[str, PromptEmbedding]:
    """Encode each distinct caption once, on the CPU, and send only the embeddings to the GPU.

    Args:
        pipe: A `FluxPipeline`; its text encoders are moved to the CPU and stay there.
        captions: Any captions.
        gpu_device: Where the embeddings are wanted.
        dtype: Type of the embeddings.
        max_sequence_length: T5 tokens, padded or cut.
    """
    clip, t5 = pipe.text_encoder.to("cpu"), pipe.text_encoder_2.to("cpu")
    encoders = TextEncoders(clip, pipe.tokenizer, t5, pipe.tokenizer_2)
    return {
        caption: PromptEmbedding(
            embedding.prompt_embeds.to(gpu_device, dtype), embedding.pooled_prompt_embeds.to(gpu_device, dtype)
        )
        for caption, embedding in encode_captions(encoders, captions, max_sequence_length)
    }


def embed_captions(
    spec: ModelSpec, captions: Sequence[str], max_sequence_length: int
) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]]:
    """Encode captions on the CPU, let the encoders go, and return a reader of (batch, length, width) and (batch, pooled).

    Raises:
        ModelError: If the encoders cannot be loaded.
    """
    encoders = load_text_encoders(spec)
    encoded = dict(encode_captions(encoders, captions, max_sequence_length))
    del encoders
    gc.collect()

    def read(wanted: Sequence[str]) -> tuple[Tensor, Tensor]:
        items = [encoded[caption] for caption in wanted]
        return torch.stack([i.prompt_embeds for i in items]), torch.stack([i.pooled_prompt_embeds for i in items])

    return read
