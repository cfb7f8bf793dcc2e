"""How many tokens the encoders see of a caption, and what they drop: counted with the base model's own tokenizers.

The tokenizer classes are named one by one: `AutoTokenizer` would import torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers import CLIPTokenizer, PreTrainedTokenizerBase, T5Tokenizer

from tlora.base_model import ModelSpec, hub_folder
from tlora.errors import ModelError


@dataclass(frozen=True)
class CaptionTokenizer:
    """The tokenizer of one text encoder, and how many tokens the encoder reads, special ones included."""

    encoder: str
    tokenizer: PreTrainedTokenizerBase
    limit: int


def load_tokenizers(spec: ModelSpec, max_sequence_length: int) -> tuple[CaptionTokenizer, CaptionTokenizer]:
    """Load both tokenizers of a base model from this machine; nothing is downloaded.

    Args:
        spec: The base model.
        max_sequence_length: Tokens that T5 is given; CLIP's number is its own.

    Returns:
        CLIP's and T5's.

    Raises:
        ModelError: If the base model is not on this machine, or its tokenizers cannot be read.
    """
    folder = _local_folder(spec)
    _require_vocabulary(folder / "tokenizer", ("tokenizer.json", "vocab.json"))
    _require_vocabulary(folder / "tokenizer_2", ("tokenizer.json", "spiece.model"))
    try:
        clip = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        t5 = T5Tokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: its tokenizers cannot be read: {str(error).splitlines()[0]}") from error
    return CaptionTokenizer("CLIP", clip, clip.model_max_length), CaptionTokenizer("T5", t5, max_sequence_length)


def count_tokens(tokenizer: CaptionTokenizer, captions: Iterable[str]) -> dict[str, int]:
    """Return how many tokens each distinct caption is, special ones included."""
    distinct = list(dict.fromkeys(captions))
    if not distinct:
        return {}
    ids = tokenizer.tokenizer(distinct, verbose=False)["input_ids"]
    return {caption: len(tokens) for caption, tokens in zip(distinct, ids, strict=True)}


def truncate_caption(tokenizer: CaptionTokenizer, caption: str) -> tuple[str, str]:
    """Return the part of a caption that the encoder reads, and the part that it never sees."""
    encoded = tokenizer.tokenizer(caption, truncation=True, max_length=tokenizer.limit, return_offsets_mapping=True)
    end = max((stop for _, stop in encoded["offset_mapping"]), default=0)
    return caption[:end], caption[end:].strip()


def _local_folder(spec: ModelSpec) -> Path:
    if spec.is_folder:
        return Path(spec.path)
    stored = hub_folder() / f"models--{spec.path.replace('/', '--')}"
    revision = spec.revision or "main"
    reference = stored / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    return stored / "snapshots" / commit


def _require_vocabulary(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse a folder without files, for which transformers would make an empty tokenizer and count wrongly."""
    if not any((folder / name).is_file() for name in names):
        raise ModelError(f"{folder}: no tokenizer there ({' or '.join(names)}): the base model is not on this machine")
