"""Captions as other trainers write them: read once, by `make new`; what lies among the data is named, not read.

kohya's scripts write `wall.caption`, ai-toolkit `wall.json`, some `wall.png.txt`; Hugging Face's folders have one
`metadata.jsonl`, others one `captions.csv`. A stage reads `wall.txt` alone, so that one picture has one caption.
"""

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from tlora.pictures.colour import Refused
from tlora.pictures.files import caption_path, decode_caption

_TEXT_KEYS = ("caption", "text", "prompt")
_NAME_KEYS = ("file_name", "filename", "file", "image", "image_path", "path", "name")
Result = TypeVar("Result")
_MOST_BYTES = 100_000_000


@dataclass(frozen=True)
class OtherCaption:
    """A caption, and the name of the file that it stood in."""

    text: str
    file: str


@dataclass(frozen=True)
class OtherCaptions:
    """What was found in a folder besides same-name .txt captions.

    Args:
        by_picture: Captions of pictures that have no .txt, by name of the picture.
        unused: Why a file of captions was not used, by its name.
    """

    by_picture: Mapping[str, OtherCaption]
    unused: Mapping[str, str]


def read_other_captions(folder: Path, pictures: Sequence[Path]) -> OtherCaptions:
    """Read what captions a folder has for pictures without a .txt: those beside a picture before those in a table."""
    present = {plain_name(path.name): path for path in sorted(folder.iterdir()) if path.is_file()}
    unused: dict[str, str] = {}
    found: dict[str, OtherCaption] = {}
    for picture in pictures:
        own = caption_path(picture)
        taken = own.name if own.is_file() else ""
        for path in (present[name] for name in _names_beside(picture.name) if name in present):
            if taken:
                unused[path.name] = f"{picture.name} has its caption in {taken}"
            elif text := _noted(unused, path, _read_beside):
                found[picture.name], taken = OtherCaption(text, path.name), path.name
    without = [picture.name for picture in pictures if picture.name not in found and not caption_path(picture).is_file()]
    for path in (present[name] for name in _TABLES if name in present):
        rows = _noted(unused, path, partial(_read_table, pictures=without)) or {}
        new = {name: OtherCaption(text, path.name) for name, text in rows.items() if name not in found}
        found |= new
        if not new and path.name not in unused:
            unused[path.name] = "it names no picture that is without a caption"
    return OtherCaptions(found, unused)


def other_caption_names(pictures: Iterable[str]) -> set[str]:
    """Return what other trainers call the captions of some pictures, as `plain_name` writes it."""
    return {name for picture in pictures for name in _names_beside(picture)} | set(_TABLES)


def plain_name(name: str) -> str:
    """Return a file's name so that two spellings of it compare equal."""
    return unicodedata.normalize("NFC", name).lower()


def _names_beside(picture: str) -> tuple[str, str, str]:
    plain = plain_name(picture)
    stem = plain.rpartition(".")[0]
    return f"{stem}.caption", f"{plain}.txt", f"{stem}.json"


def _noted(unused: dict[str, str], path: Path, read: Callable[[Path], Result]) -> Result | None:
    """Return what is read of a file, or note why it is nothing."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large to be captions")
        return read(path)
    except Refused as refused:
        unused[path.name] = str(refused)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        unused[path.name] = " ".join(str(error).split())[:120]
    return None


def _read_beside(path: Path) -> str:
    text = decode_caption(path.read_bytes())
    if path.suffix.lower() == ".json":
        text = _text_of(json.loads(text))
    if not text:
        raise ValueError("it is empty")
    return text


def _text_of(row: object) -> str:
    """Return the caption in a row of some trainer's.

    Raises:
        ValueError: If there is none, or several.
    """
    given = [row[key] for key in _TEXT_KEYS if row.get(key)] if isinstance(row, dict) else []
    if not given or not isinstance(given[0], str):
        raise ValueError(f"it has no text under {', '.join(_TEXT_KEYS)}")
    return " ".join(given[0].split())


def _read_table(path: Path, pictures: Sequence[str]) -> dict[str, str]:
    """Return the captions that a table has of some pictures, which it names with or without folders and suffix."""
    stems: dict[str, list[str]] = {}
    for picture in pictures:
        stems.setdefault(plain_name(picture).rpartition(".")[0], []).append(picture)
    names = {plain_name(picture): picture for picture in pictures} | {
        stem: same[0] for stem, same in stems.items() if len(same) == 1
    }
    captions: dict[str, str] = {}
    for row in _READERS[path.suffix.lower()](path.read_bytes().decode("utf-8-sig")):
        key = next((str(row[key]) for key in _NAME_KEYS if row.get(key)), "")
        named = names.get(plain_name(PurePosixPath(key.replace("\\", "/")).name))
        if named and any(row.get(key) for key in _TEXT_KEYS):
            captions.setdefault(named, _text_of(row))
    return captions


def _csv_rows(text: str) -> Iterator[dict[str, Any]]:
    lines = csv.DictReader(io.StringIO(text), dialect=_dialect(text))
    known = {name: name.strip().lower() for name in lines.fieldnames or ()}
    if not (set(known.values()) & set(_NAME_KEYS) and set(known.values()) & set(_TEXT_KEYS)):
        raise ValueError(f"its first line needs a column of {', '.join(_NAME_KEYS)} and one of {', '.join(_TEXT_KEYS)}")
    for row in lines:
        yield {known[name]: value for name, value in row.items() if name in known}


def _dialect(text: str) -> type[csv.Dialect]:
    head = text.partition("\n")[0]
    return csv.excel_tab if "\t" in head else _Semicolons if ";" in head else csv.excel


class _Semicolons(csv.excel):
    delimiter = ";"


def _json_rows(text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if isinstance(row, dict):
                yield row


_READERS: dict[str, Callable[[str], Iterator[dict[str, Any]]]] = {".jsonl": _json_rows, ".csv": _csv_rows}
_TABLES = ("metadata.jsonl", "captions.csv", "metadata.csv")
