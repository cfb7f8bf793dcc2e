"""How many tokens the encoders see of a caption, and what they drop: counted with the base model's own tokenizers.

The tokenizer classes are named one by one: `AutoTokenizer` would import torch. They are imported where they are loaded, for that
takes most of a second.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tlora.base_model import ModelSpec, local_folder
from tlora.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AT_ONCE = 500  # captions: an encoding holds a dozen numbers a token


@dataclass(frozen=True)
class TextSettings:
    """How captions are encoded.

    Args:
        max_sequence_length: T5 tokens, padded or cut; FLUX.1-dev takes up to 512, the pocket up to 77.
    """

    max_sequence_length: int = 77

    def __post_init__(self) -> None:
        if not 1 <= self.max_sequence_length <= 512:
            raise ValueError(f"max_sequence_length must be in 1..512, got {self.max_sequence_length}")


@dataclass(frozen=True)
class CaptionTokenizer:
    """The tokenizer of one text encoder, and how many tokens the encoder reads, special ones included."""

    encoder: str
    tokenizer: "PreTrainedTokenizerBase"
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
    from transformers import CLIPTokenizer, T5Tokenizer

    folder = local_folder(spec)
    require_vocabularies(folder)
    try:
        clip = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        t5 = T5Tokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: its tokenizers cannot be read: {str(error).splitlines()[0]}") from error
    return CaptionTokenizer("CLIP", clip, clip.model_max_length), CaptionTokenizer("T5", t5, max_sequence_length)


def require_vocabularies(folder: Path) -> None:
    """Refuse a base model without tokenizer files, for which transformers would make empty tokenizers and say nothing.

    Raises:
        ModelError: Naming the folder that has none.
    """
    for part, names in (("tokenizer", ("tokenizer.json", "vocab.json")), ("tokenizer_2", ("tokenizer.json", "spiece.model"))):
        if not any((folder / part / name).is_file() for name in names):
            raise ModelError(f"{folder / part}: no tokenizer there ({' or '.join(names)}): the base model is not on this machine")


def count_tokens(tokenizer: CaptionTokenizer, captions: Iterable[str]) -> dict[str, int]:
    """Return how many tokens each distinct caption is, special ones included."""
    counts: dict[str, int] = {}
    distinct = list(dict.fromkeys(captions))
    for first in range(0, len(distinct), _AT_ONCE):
        some = distinct[first : first + _AT_ONCE]
        ids = tokenizer.tokenizer(some, verbose=False)["input_ids"]
        counts.update(zip(some, map(len, ids), strict=True))
    return counts


def truncate_caption(tokenizer: CaptionTokenizer, caption: str) -> tuple[str, str]:
    """Return the part of a caption that the encoder reads, and the part that it never sees."""
    encoded = tokenizer.tokenizer(caption, truncation=True, max_length=tokenizer.limit, return_offsets_mapping=True)
    end = max((stop for _, stop in encoded["offset_mapping"]), default=0)
    return caption[:end], caption[end:].strip()
