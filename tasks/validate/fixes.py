"""`validate --fix`: put right what needs no judgement. Every original is kept aside first, so nothing is lost.

What needs an eye stays a finding: which of two near copies is the better, what a caption should say, whether blur matters.
"""

import codecs
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.validate.findings import Finding
from tasks.validate.inspection import Inspection
from tlora.metadata.concept import Concept
from tlora.pictures.files import caption_path, mask_path
from tlora.runtime.atomic_file import write_text

_BYTE_ORDER_MARKS = (  # UTF-32's first: its mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class FixFolders:
    """Where fixes are made, where originals are kept, and what the data are of."""

    data: Path
    kept: Path
    concept: Concept


def apply_fixes(findings: Sequence[Finding], inspections: Sequence[Inspection], folders: FixFolders) -> list[str]:
    """Put right what is safe, and return a line for each thing that was done.

    - an unreadable picture, and the second of two equal files with equal captions, are set aside with caption and mask;
    - a caption in UTF-16 or UTF-32 that says so by its first bytes is written as UTF-8;
    - a trigger word in the wrong case is written as concept.yaml has it.
    """
    first: dict[str, Inspection] = {}
    for seen in inspections:
        first.setdefault(seen.sha256, seen)
    by_name = {seen.picture: seen for seen in inspections}
    about_pictures = [(finding, by_name[finding.file]) for finding in findings if finding.file in by_name]
    return [line for finding, seen in about_pictures if (line := _fix(finding.kind, seen, first[seen.sha256], folders))]


def _fix(kind: str, seen: Inspection, first: Inspection, folders: FixFolders) -> str | None:
    picture = folders.data / seen.picture
    named = isinstance(folders.concept.held_out, tuple) and seen.picture in folders.concept.held_out
    movable = not named and not picture.is_dir()
    if kind == "unreadable" and movable:
        return _set_aside(picture, folders, "it cannot be read")
    if kind == "exact_copy" and movable and first.caption == seen.caption:
        return _set_aside(picture, folders, f"it is the same file as {first.picture}")
    if kind == "caption_encoding":
        return _write_as_utf8(caption_path(picture), folders)
    if kind == "trigger_missing" and seen.caption:
        return _correct_case(caption_path(picture), folders)
    return None


def _set_aside(picture: Path, folders: FixFolders, why: str) -> str:
    """Move a picture away, and its caption and mask unless another picture has them too."""
    shared = any(other.stem == picture.stem for other in folders.data.iterdir() if other != picture and other.suffix != ".txt")
    beside = [] if shared else [path for path in (caption_path(picture), mask_path(picture)) if path and path.is_file()]
    for path in (picture, *beside):
        shutil.move(path, folders.kept / path.name)
    return f"{picture.name}: set aside: {why}"


def _write_as_utf8(caption: Path, folders: FixFolders) -> str | None:
    data = caption.read_bytes()
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    try:
        text = data.decode(encoding) if encoding else None
    except UnicodeDecodeError:
        text = None
    if text is None:
        return None  # Windows-1252, most likely: a person must see whether it reads well
    _keep(caption, folders)
    write_text(caption, text)
    return f"{caption.name}: was {str(encoding).upper()}, is UTF-8"


def _correct_case(caption: Path, folders: FixFolders) -> str | None:
    trigger, text = folders.concept.trigger, caption.read_text(encoding="utf-8-sig")
    corrected, times = re.subn(rf"(?<!\w){re.escape(trigger)}(?!\w)", lambda _: trigger, text, flags=re.IGNORECASE)
    if not times:
        return None
    _keep(caption, folders)
    write_text(caption, corrected)
    return f"{caption.name}: the trigger word reads {trigger!r} now"


def _keep(file: Path, folders: FixFolders) -> None:
    shutil.copy2(file, folders.kept / file.name)
