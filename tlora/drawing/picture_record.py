"""What a drawn picture says of itself in its PNG: enough to draw it again, bit for bit, on the same machine."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, PngImagePlugin

from tlora.errors import PictureError
from tlora.flux.spec import Quantisation
from tlora.runtime.atomic_file import write_png
from tlora.sampling import SampleSettings

KEY = "tlora"
VERSION = 1


@dataclass(frozen=True)
class AdapterRecord:
    """One adapter: where it lay, the hash of its bytes, and its share of the strength."""

    path: str
    digest: str
    strength: float


@dataclass(frozen=True)
class PictureRecord:
    """How a picture was drawn.

    Args:
        prompt: What was asked for.
        seed: Of its noise.
        base: Folder or hub name of the base model.
        base_digest: What identifies its weights.
        dtype: Type of the frozen weights.
        adapters: In the order in which they were injected.
        sample: Size, steps, guidance, strength, masks.
        max_sequence_length: Tokens of the prompt.
        prompts: Of all pictures that were drawn at once with this one: sums of a batch round differently from those of one.
        seeds: Theirs.
        place: Of this picture among them.
        merged: Whether the adapter was folded into the weights.
        device: Kind of device.
        threads: Of the CPU; their number changes how sums round.
        torch: Version.
        quantisation: How the base was held.
    """

    prompt: str
    seed: int
    base: str
    base_digest: str
    dtype: Literal["float32", "bfloat16", "float16"]
    adapters: tuple[AdapterRecord, ...]
    sample: SampleSettings
    max_sequence_length: int
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    place: int
    merged: bool
    device: str
    threads: int
    torch: str
    quantisation: Quantisation = "none"  # as it was before there was a choice


def save_picture(path: Path, picture: Image.Image, record: PictureRecord) -> None:
    """Write a PNG with its record, whole or not at all."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt(KEY, json.dumps({"version": VERSION, **dataclasses.asdict(record)}, sort_keys=True, ensure_ascii=False))
    write_png(path, picture, text)


def read_record(path: Path) -> PictureRecord:
    """Return how a picture was drawn.

    Raises:
        PictureError: If it is no PNG, or says nothing of itself that can be read here.
    """
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            opened.load()
            written = getattr(opened, "text", {}).get(KEY)
    except (OSError, SyntaxError, ValueError) as error:
        raise PictureError(f"{path}: not a readable PNG") from error
    if written is None:
        raise PictureError(f"{path}: does not say how it was drawn: only pictures of 'tlora infer' do, and editors drop it")
    try:
        return _parse(json.loads(written))
    except (KeyError, TypeError, ValueError) as error:
        raise PictureError(f"{path}: what it says of itself cannot be read ({error}): drawn by another version?") from error


def _parse(plain: dict[str, Any]) -> PictureRecord:
    if plain.pop("version") != VERSION:
        raise ValueError("its version is unknown")
    plain["adapters"] = tuple(AdapterRecord(**adapter) for adapter in plain["adapters"])
    plain["sample"] = SampleSettings(**plain["sample"])
    plain["prompts"], plain["seeds"] = tuple(plain["prompts"]), tuple(plain["seeds"])
    return PictureRecord(**plain)
