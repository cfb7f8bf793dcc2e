"""Captions -> embeddings, by the text encoders of the base model, on the CPU, each distinct caption once.

FLUX.1 has CLIP and T5; FLUX.2 klein has a Qwen3, of which it reads three layers in the middle, and nothing of a whole caption.

The encoders never stand on the GPU beside the transformer; only embeddings travel there. Loading them through transformers
alone spares this path the ten seconds that diffusers costs to import.
"""

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    Qwen2TokenizerFast,
    Qwen3ForCausalLM,
    T5EncoderModel,
    T5TokenizerFast,
)

from tlora.errors import ModelError
from tlora.flux.cached import content_key, item_file, write_item
from tlora.flux.files import base_revision, read_family, require_base
from tlora.flux.spec import ModelSpec
from tlora.pictures.tokens import require_vocabularies, worded_for_qwen
from tlora.runtime.progress import Progress

QWEN_LAYERS = (9, 18, 27)  # of diffusers' Flux2KleinPipeline


@dataclass(frozen=True)
class PromptEmbedding:
    """One caption as a base reads it: its tokens' (length, width), and its own (width,), which is empty for FLUX.2."""

    prompt_embeds: Float[Tensor, "length width"]
    pooled_prompt_embeds: Float[Tensor, " pooled"]


@dataclass(frozen=True)
class QwenEncoder:
    """FLUX.2 klein's encoder without the head that would predict a token, and its tokenizer."""

    qwen: nn.Module
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextEncoders:
    """FLUX.1's two encoders with their tokenizers."""

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


Encoders: TypeAlias = TextEncoders | QwenEncoder


def load_text_encoders(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> Encoders:
    """Load the encoders of a base model and their tokenizers on the CPU.

    Raises:
        ModelError: If the base model or a part of it cannot be loaded.
    """
    require_base(spec)
    family = read_family(spec, fetch=True)
    if spec.is_folder:
        require_vocabularies(Path(spec.path), family)
        for part, _ in family.text_encoders:
            if not (Path(spec.path) / part / "config.json").is_file():  # else one of the usual size would be made up
                raise ModelError(f"{Path(spec.path) / part}: no text encoder there (config.json is missing)")
    revision = spec.revision or "main"
    try:
        if family.text == "qwen3":
            qwen = Qwen3ForCausalLM.from_pretrained(spec.path, subfolder="text_encoder", revision=revision, dtype=dtype)
            tokenizer = Qwen2TokenizerFast.from_pretrained(spec.path, subfolder="tokenizer", revision=revision)
            return QwenEncoder(qwen.model.eval(), tokenizer)
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
    encoders: Encoders, captions: Iterable[str], max_sequence_length: int
) -> Iterator[tuple[str, PromptEmbedding]]:
    """Yield each distinct caption with its embedding, on the CPU, in the encoders' type.

    One at a time: what a caption is encoded to does not depend on its neighbours, and memory stays flat.

    Args:
        encoders: Of the base model.
        captions: Any captions; repeated ones are encoded once.
        max_sequence_length: T5's or Qwen3's tokens, padded or cut; at most 512.

    Source:
        `FluxPipeline.encode_prompt` in diffusers; FLUX.1 passes no attention mask for the padding. `Flux2KleinPipeline`'s does,
        and its padding is embedded all the same.
    """
    for caption in dict.fromkeys(captions):
        if isinstance(encoders, QwenEncoder):
            yield caption, _encode_with_qwen(encoders, caption, max_sequence_length)
            continue
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


def keep_embeddings(
    spec: ModelSpec, captions: Iterable[str], max_sequence_length: int, store: Path, what: str
) -> tuple[dict[str, str], int]:
    """Encode what is not kept yet; return the file of each caption below the store, and how many were encoded now.

    Args:
        spec: The base model.
        captions: Any captions.
        max_sequence_length: As for `encode_captions`.
        store: Where embeddings are kept by content.
        what: Who encodes, for the progress.

    Raises:
        ModelError: If the encoders cannot be loaded.
    """
    encoder = base_revision(spec, "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    files = {text: item_file(content_key(encoder, str(max_sequence_length), text)) for text in captions}
    missing = [text for text, file in files.items() if not (store / file).exists()]
    if missing:
        encoders = load_text_encoders(spec)
        with Progress(what, len(missing)) as progress:
            for text, embedding in encode_captions(encoders, missing, max_sequence_length):
                tensors = {"prompt_embeds": embedding.prompt_embeds, "pooled_prompt_embeds": embedding.pooled_prompt_embeds}
                write_item(store / files[text], tensors)
                progress.advance(json.dumps(text, ensure_ascii=False)[:40])
    return files, len(missing)


def _encode_with_qwen(encoder: QwenEncoder, caption: str, length: int) -> PromptEmbedding:
    given = encoder.tokenizer(
        worded_for_qwen(encoder.tokenizer, caption),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    said = encoder.qwen(given.input_ids, attention_mask=given.attention_mask, output_hidden_states=True, use_cache=False)
    layers = torch.stack([said.hidden_states[layer][0] for layer in QWEN_LAYERS])
    return PromptEmbedding(rearrange(layers, "layer token width -> token (layer width)").cpu(), layers.new_zeros(0).cpu())


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
