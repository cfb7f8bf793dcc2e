"""What ruins adapters, looked for in inspections and captions: pure functions from what was seen to findings.

docs/data.md lists every kind of finding.
"""

import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.validate.findings import Finding
from tasks.validate.inspection import Inspection
from tasks.validate.other_captions import other_caption_names, plain_name
from tasks.validate.parallel_map import Engine
from tasks.validate.quality import near_copies, nearest_hashes
from tlora.metadata.concept import Concept
from tlora.pictures.files import FOREIGN_SUFFIXES, MASK_ENDING, SUFFIXES, is_mask
from tlora.pictures.manifest import PictureItem
from tlora.pictures.tokens import CaptionTokenizer, count_tokens, truncate_caption

_BLUR_OUTLIER = 0.1  # of the median: a photograph in focus stays well above a tenth of its fellows'
_BLANK_CONTRAST = 1.0  # grey levels
_ENOUGH_FOR_MEDIAN = 5


@dataclass(frozen=True)
class ValidateSettings:
    """What a picture must be to be trained on; only `min_side` stops, the rest warns.

    Args:
        min_side: Pixels; a picture with a shorter side is an error.
        max_aspect: Longer over shorter side.
        min_sharpness: Share of contrast in the finest detail (see `tasks.validate.quality.sharpness`).
        near_copy_bits: Pictures whose 64-bit perceptual hashes differ in at most so many bits are near copies.
        engine: What the pictures are looked at with: the processes of this machine, or Ray.
    """

    min_side: int = 32
    max_aspect: float = 3.0
    min_sharpness: float = 0.02
    near_copy_bits: int = 8
    engine: Engine = "processes"

    def __post_init__(self) -> None:
        if self.min_side < 1:
            raise ValueError(f"min_side must be at least 1 pixel, got {self.min_side}")
        if self.max_aspect < 1:
            raise ValueError(f"max_aspect must be at least 1, got {self.max_aspect}")
        if not 0 <= self.min_sharpness <= 1:
            raise ValueError(f"min_sharpness must be in 0..1, got {self.min_sharpness}")
        if not 0 <= self.near_copy_bits <= 32:
            raise ValueError(f"need 0 <= near_copy_bits <= 32, got {self.near_copy_bits}")


def check_pictures(inspections: Sequence[Inspection], settings: ValidateSettings, resolution: int) -> Iterator[Finding]:
    """Look for pictures that cannot be used, that lost something in conversion, or that are too small, long or blurred."""
    readable = [seen for seen in inspections if not seen.look.refused]
    limit = settings.min_sharpness
    if len(readable) >= _ENOUGH_FOR_MEDIAN:
        limit = max(limit, _BLUR_OUTLIER * statistics.median(seen.look.sharpness for seen in readable))
    for seen in inspections:
        if seen.look.refused:
            yield Finding("error", "unreadable", seen.picture, seen.look.refused.reason, seen.look.refused.remedy)
            continue
        if seen.mask_refused:
            yield Finding("error", "mask", seen.picture, seen.mask_refused.reason, seen.mask_refused.remedy)
        for note in seen.look.notes:
            yield Finding("warning", note.kind, seen.picture, note.reason, note.remedy)
        yield from _check_size(seen, settings, resolution)
        if seen.look.contrast < _BLANK_CONTRAST:
            yield Finding("warning", "blank", seen.picture, "it shows nothing but one shade", "remove it")
        elif 0 < seen.look.sharpness < limit:
            reason = (
                f"its middle is blurred at the training size (sharpness {seen.look.sharpness:.3f}, expected {limit:.3f} or more)"
            )
            yield Finding("warning", "blurred", seen.picture, reason, "take it again, or remove it: blur is learnt like all else")


def check_folder(folder: Path) -> Iterator[Finding]:
    """Look for files that lie among the pictures and take no part, and for pictures that share a caption."""
    paths = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    stems: dict[str, str] = {}
    for path in paths:
        if path.suffix.lower() in SUFFIXES and not is_mask(path):
            twin = stems.setdefault(_stem(path), path.name)
            if twin != path.name:
                reason = f"it has its caption in common with {twin}"
                yield Finding("warning", "shared_caption", path.name, reason, "rename one of them")
    others = other_caption_names(path.name for path in paths if path.suffix.lower() in SUFFIXES)
    yield from _check_bystanders(paths, stems.keys(), others)


def check_copies(inspections: Sequence[Inspection], held_out: set[str], most_bits: int) -> Iterator[Finding]:
    """Look for the same picture twice, above all on both sides of the split."""
    readable = [seen for seen in inspections if not seen.look.refused]
    train, held = ([seen for seen in readable if (seen.picture in held_out) == side] for side in (False, True))
    for side in (train, held):
        first = _first_of_each(side)
        for seen in side:
            if first[seen.sha256] is not seen:
                yield _copy(seen, "exact_copy", f"it is the same file as {first[seen.sha256].picture}")
        distinct = [seen for seen in first.values() if seen.look.contrast >= _BLANK_CONTRAST]
        for i, j, bits in near_copies([seen.look.perceptual_hash for seen in distinct], most_bits):
            yield _copy(distinct[i], "near_copy", f"it looks like {distinct[j].picture} ({bits} of 64 bits differ)")
    yield from _check_across_split(train, held, most_bits)


def check_captions(inspections: Sequence[Inspection], concept: Concept, held_out: set[str]) -> Iterator[Finding]:
    """Look for captions that are missing, empty, unreadable, all equal, or without the trigger word."""
    word = re.compile(rf"(?<!\w){re.escape(concept.trigger)}(?!\w)")
    captions = {seen.picture: seen.caption for seen in inspections if seen.caption}
    nowhere = not any(word.search(caption) for caption in captions.values())
    if nowhere and not any(seen.caption_refused for seen in inspections):  # else it may be in one that cannot be read yet
        reason = f"no caption holds the trigger word {concept.trigger!r}, so it would stay without meaning"
        yield Finding("error", "trigger_nowhere", "concept.yaml", reason, "put it into the captions, or correct trigger")
    for seen in inspections:
        if seen.caption_refused:
            yield Finding("error", "caption_encoding", seen.picture, seen.caption_refused.reason, seen.caption_refused.remedy)
        elif not seen.caption:
            reason = "it has no caption" if seen.caption is None else "its caption is empty"
            remedy = f"write {Path(seen.picture).stem}.txt beside it; it is trained with an empty caption otherwise"
            yield Finding("warning", "caption_missing" if seen.caption is None else "caption_empty", seen.picture, reason, remedy)
        elif not nowhere and not word.search(seen.caption):
            cased = re.search(word.pattern, seen.caption, re.IGNORECASE)
            reason = f"its caption has {cased[0]!r} for" if cased else "its caption lacks"
            yield Finding(
                "warning", "trigger_missing", seen.picture, f"{reason} the trigger word {concept.trigger!r}", "correct it"
            )
    counts = Counter(caption for picture, caption in captions.items() if picture not in held_out)
    if len(counts) == 1 and counts.total() > 1:
        reason = f"all {counts.total()} training captions read {next(iter(counts))!r}, so all that is seen becomes the concept"
        yield Finding("warning", "captions_equal", "concept.yaml", reason, "describe in each what should not become part of it")


def check_prompts(concept: Concept) -> Iterator[Finding]:
    """Look for evaluation prompts that do not ask for the concept."""
    for prompt in concept.prompts:
        if not re.search(rf"(?<!\w){re.escape(concept.trigger)}(?!\w)", prompt):
            reason = f"the prompt {prompt!r} lacks the trigger word {concept.trigger!r}"
            yield Finding("warning", "prompt_without_trigger", "concept.yaml", reason, "it then shows the base, not the concept")


def check_lengths(items: Sequence[PictureItem], concept: Concept, tokenizers: Sequence[CaptionTokenizer]) -> Iterator[Finding]:
    """Look for captions and prompts of which an encoder reads only the beginning."""
    texts = [(item.picture, item.caption) for item in items] + [("concept.yaml", prompt) for prompt in concept.prompts]
    for tokenizer in tokenizers:
        counts = count_tokens(tokenizer, (text for _, text in texts))
        for file, text in texts:
            if counts[text] > tokenizer.limit:
                _, lost = truncate_caption(tokenizer, text)
                shown = lost if len(lost) <= 60 else f"{lost[:57]}..."
                reason = f"{tokenizer.encoder} reads {tokenizer.limit} of {counts[text]} tokens and never sees {shown!r}"
                yield Finding("warning", "too_long", file, reason, "say what matters first, or shorten it")


def _check_bystanders(paths: Sequence[Path], stems: Collection[str], others: Collection[str]) -> Iterator[Finding]:
    for path in paths:
        suffix, name = path.suffix.lower(), path.name.encode(errors="backslashreplace").decode()
        if is_mask(path) and _stem(path).removesuffix(MASK_ENDING) not in stems:
            yield Finding("warning", "orphan_mask", name, "there is no picture that it masks", "rename it, or remove it")
        if suffix in SUFFIXES or (suffix == ".txt" and _stem(path) in stems):
            continue
        if plain_name(path.name) in others and path.is_file():
            reason = "it holds captions as other trainers write them, and is not read here"
            remedy = "write them to a .txt beside each picture, as 'make new' does of a folder of yours; then remove it"
            yield Finding("warning", "other_captions", name, reason, remedy)
        elif path.is_dir():
            yield Finding("warning", "subfolder", name, "it is a folder, and subfolders are not read", "move its pictures up")
        elif suffix in FOREIGN_SUFFIXES:
            reason = f"{suffix} is not a kind that can be read here"
            yield Finding("error", "foreign", name, reason, "convert it to JPEG or PNG, then remove it")
        elif suffix == ".txt":
            yield Finding("warning", "orphan_caption", name, "there is no picture of this name", "rename it, or remove it")
        else:
            yield Finding("warning", "ignored", name, "it is neither a picture nor a caption", "move it elsewhere")


def _check_size(seen: Inspection, settings: ValidateSettings, resolution: int) -> Iterator[Finding]:
    width, height = seen.look.width, seen.look.height
    shorter, longer = min(width, height), max(width, height)
    size = f"it is {width} x {height} pixels"
    if shorter < settings.min_side:
        yield Finding(
            "error", "tiny", seen.picture, f"{size}, at least {settings.min_side} a side are needed", "find a larger one"
        )
    elif shorter < resolution:
        reason = f"{size} and is enlarged {resolution / shorter:.1f} times to {resolution}"
        yield Finding("warning", "small", seen.picture, reason, "find a larger one, or train at a lower resolution")
    if longer > settings.max_aspect * shorter:
        reason = f"{size}, {longer / shorter:.1f} times as long as wide"
        yield Finding("warning", "long", seen.picture, reason, "crop it to what matters: a square crop keeps only its middle")


def _check_across_split(train: Sequence[Inspection], held: Sequence[Inspection], most_bits: int) -> Iterator[Finding]:
    trained = _first_of_each(train)
    shown = [seen for seen in trained.values() if seen.look.contrast >= _BLANK_CONTRAST]
    remedy = "remove one, or hold out both"
    asked = [seen for seen in held if seen.sha256 not in trained and seen.look.contrast >= _BLANK_CONTRAST]
    for seen in held:
        if seen.sha256 in trained:
            reason = f"it is held out, and the same file is trained on as {trained[seen.sha256].picture}"
            yield Finding(
                "error", "exact_copy_across_split", seen.picture, f"{reason}: memorising would pass for learning", remedy
            )
    if not shown:
        return
    nearest = nearest_hashes([seen.look.perceptual_hash for seen in asked], [seen.look.perceptual_hash for seen in shown])
    for seen, (j, bits) in zip(asked, nearest, strict=True):
        if bits <= most_bits:
            reason = f"it is held out, and looks like {shown[j].picture}, which is trained on ({bits} of 64 bits differ)"
            yield Finding("warning", "near_copy_across_split", seen.picture, reason, remedy)


def _first_of_each(side: Sequence[Inspection]) -> dict[str, Inspection]:
    first: dict[str, Inspection] = {}
    for seen in side:
        first.setdefault(seen.sha256, seen)
    return first


def _copy(seen: Inspection, kind: str, words: str) -> Finding:
    return Finding("warning", kind, seen.picture, f"{words}, which then counts twice", "remove one of them")


def _stem(path: Path) -> str:
    return unicodedata.normalize("NFC", path.stem)
