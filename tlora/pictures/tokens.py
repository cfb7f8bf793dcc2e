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
from tlora.flux.families import FLUX_1, Family
from tlora.flux.files import local_file, read_family
from tlora.flux.spec import ModelSpec
from tlora.runtime.atomic_file import write_json

_MARK = "CAPTION"
_AT_ONCE = 500  # captions: an encoding holds a dozen numbers a token


@dataclass(frozen=True)
class TextSettings:
    """How captions are encoded.

    Args:
        max_sequence_length: T5's or Qwen3's tokens, padded or cut; they take up to 512, the pocket's up to 77.
    """

    max_sequence_length: int = 77

    def __post_init__(self) -> None:
        if not 1 <= self.max_sequence_length <= 512:
            raise ValueError(f"max_sequence_length must be in 1..512, got {self.max_sequence_length}")


@dataclass(frozen=True)
class CaptionTokenizer:
    """The tokenizer of one text encoder, and how many tokens the encoder reads, special ones included.

    `before` and `after` are what an encoder that answers in a chat is told around a caption.
    """

    encoder: str
    tokenizer: Tokenizer
    limit: int
    before: str = ""
    after: str = ""


def load_tokenizers(spec: ModelSpec, max_sequence_length: int, kept: Path) -> tuple[CaptionTokenizer, ...]:
    """Load the tokenizers of a base model from this machine; nothing is downloaded.

    Args:
        spec: The base model.
        max_sequence_length: Tokens that T5 or Qwen3 is given; CLIP's number is its own.
        kept: Folder for what was built, a file for each tokenizer.

    Returns:
        CLIP's and T5's, or Qwen3's.

    Raises:
        ModelError: If the base model is not on this machine, or its tokenizers cannot be read.
    """
    folder = local_file(spec, "tokenizer/tokenizer_config.json").parents[1]
    family = read_family(spec)
    require_vocabularies(folder, family)
    try:
        if family.text == "qwen3":
            qwen, _ = _load("Qwen2Tokenizer", folder / "tokenizer", kept)
            before, after = _around_a_caption(folder / "tokenizer")
            return (CaptionTokenizer("Qwen3", qwen, max_sequence_length, before, after),)
        clip, clip_limit = _load("CLIPTokenizer", folder / "tokenizer", kept)
        t5, _ = _load("T5Tokenizer", folder / "tokenizer_2", kept)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: its tokenizers cannot be read: {str(error).splitlines()[0]}") from error
    return CaptionTokenizer("CLIP", clip, clip_limit), CaptionTokenizer("T5", t5, max_sequence_length)


def require_vocabularies(folder: Path, family: Family = FLUX_1) -> None:
    """Refuse a base model without tokenizer files, for which transformers would make empty tokenizers and say nothing.

    Raises:
        ModelError: Naming the folder that has none.
    """
    wanted = [("tokenizer", ("tokenizer.json", "vocab.json")), ("tokenizer_2", ("tokenizer.json", "spiece.model"))]
    for part, names in wanted[: len(family.text_encoders)]:
        if not any((folder / part / name).is_file() for name in names):
            raise ModelError(f"{folder / part}: no tokenizer there ({' or '.join(names)}): the base model is not on this machine")


def worded_for_qwen(tokenizer: Any, caption: str) -> str:
    """Return a caption as Qwen3 is given it: as what a person says in a chat, before an answer without thinking.

    Args:
        tokenizer: transformers' tokenizer, which brings the template of the chat.
        caption: The caption.

    Source:
        `Flux2KleinPipeline._get_qwen3_prompt_embeds` in diffusers.
    """
    said = [{"role": "user", "content": caption}]
    return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, enable_thinking=False))


def _around_a_caption(folder: Path) -> tuple[str, str]:
    """Return what the template of the chat puts before and after a caption."""
    import transformers

    before, _, after = worded_for_qwen(transformers.Qwen2Tokenizer.from_pretrained(folder), _MARK).partition(_MARK)
    return before, after


def count_tokens(tokenizer: CaptionTokenizer, captions: Iterable[str]) -> dict[str, int]:
    """Return how many tokens each distinct caption is, special ones included."""
    counts: dict[str, int] = {}
    distinct = list(dict.fromkeys(captions))
    for first in range(0, len(distinct), _AT_ONCE):
        some = distinct[first : first + _AT_ONCE]
        encodings = tokenizer.tokenizer.encode_batch_fast([f"{tokenizer.before}{text}{tokenizer.after}" for text in some])
        counts.update(zip(some, map(len, encodings), strict=True))
    return counts


def truncate_caption(tokenizer: CaptionTokenizer, caption: str) -> tuple[str, str]:
    """Return the part of a caption that the encoder reads, and the part that it never sees."""
    special = tokenizer.tokenizer.num_special_tokens_to_add(is_pair=False)
    given = tokenizer.tokenizer.encode(tokenizer.before + caption, add_special_tokens=False)
    read = given.offsets[: tokenizer.limit - special]
    end = max(0, read[-1][1] - len(tokenizer.before)) if read else 0
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
