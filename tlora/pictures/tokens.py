"""How many tokens the encoders see of a caption, and what they drop: counted with the base model's own tokenizers.

Only transformers knows how to build them of a base model's files, and importing it takes most of a second. What it built is
therefore kept, as the tokenizers library writes it, and read back as long as those files and both libraries are the same.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tlora.errors import ModelError
from tlora.flux.files import local_file
from tlora.flux.spec import ModelSpec
from tlora.runtime.atomic_file import write_json

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
    tokenizer: Tokenizer
    limit: int


def load_tokenizers(spec: ModelSpec, max_sequence_length: int, kept: Path) -> tuple[CaptionTokenizer, CaptionTokenizer]:
    """Load both tokenizers of a base model from this machine; nothing is downloaded.

    Args:
        spec: The base model.
        max_sequence_length: Tokens that T5 is given; CLIP's number is its own.
        kept: Folder for what was built, a file for each tokenizer.

    Returns:
        CLIP's and T5's.

    Raises:
        ModelError: If the base model is not on this machine, or its tokenizers cannot be read.
    """
    folder = local_file(spec, "tokenizer/tokenizer_config.json").parents[1]
    require_vocabularies(folder)
    try:
        clip, clip_limit = _load("CLIPTokenizer", folder / "tokenizer", kept)
        t5, _ = _load("T5Tokenizer", folder / "tokenizer_2", kept)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: its tokenizers cannot be read: {str(error).splitlines()[0]}") from error
    return CaptionTokenizer("CLIP", clip, clip_limit), CaptionTokenizer("T5", t5, max_sequence_length)


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
        encodings = tokenizer.tokenizer.encode_batch_fast(some)
        counts.update(zip(some, map(len, encodings), strict=True))
    return counts


def truncate_caption(tokenizer: CaptionTokenizer, caption: str) -> tuple[str, str]:
    """Return the part of a caption that the encoder reads, and the part that it never sees."""
    special = tokenizer.tokenizer.num_special_tokens_to_add(is_pair=False)
    read = tokenizer.tokenizer.encode(caption, add_special_tokens=False).offsets[: tokenizer.limit - special]
    end = read[-1][1] if read else 0
    return caption[:end], caption[end:].strip()


def _load(kind: str, folder: Path, kept: Path) -> tuple[Tokenizer, int]:
    """Return a tokenizer of a class of transformers, and the most tokens that its model takes."""
    parts = [kind.encode(), version("transformers").encode(), version("tokenizers").encode()]
    parts += [part for file in sorted(folder.iterdir()) if file.is_file() for part in (file.name.encode(), file.read_bytes())]
    file = kept / (hashlib.sha256(b"\0".join(parts)).hexdigest()[:16] + ".json")
    return _read_kept(file) or _build(kind, folder, file)


def _read_kept(file: Path) -> tuple[Tokenizer, int] | None:
    """Return what was kept, or None if it is missing or damaged."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        return Tokenizer.from_str(given["tokenizer"]), given["limit"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(kind: str, folder: Path, file: Path) -> tuple[Tokenizer, int]:
    """Let transformers build a tokenizer, and keep it."""
    import transformers  # AutoTokenizer would import torch

    built: Any = getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
    write_json(file, {"tokenizer": built.backend_tokenizer.to_str(), "limit": built.model_max_length})
    return built.backend_tokenizer, built.model_max_length
