"""Which files of a folder are pictures, captions and loss masks."""

import os
import unicodedata
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from PIL import AvifImagePlugin, Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401 - unasked, pillow does not know these

from tlora.errors import PictureError
from tlora.pictures.colour import Refused

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".png",
    ".apng",
    ".webp",
    ".avif",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".hif",
)
FOREIGN_SUFFIXES = (
    *(".jxl", ".jp2", ".psd", ".xcf", ".svg", ".eps", ".pdf", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),  # cameras' raw files
)
MASK_ENDING = "-masklabel"  # of the name before the suffix: wall-masklabel.png is the loss mask of wall.jpg


def list_pictures(folder: Path) -> list[Path]:
    """Return what is named as a picture in a folder, sorted by name; subfolders, hidden files and loss masks are left out.

    Broken links and folders that end like a picture are listed, so that decoding refuses them by name.

    Raises:
        PictureError: If the folder is missing, is no folder, holds no picture, or one whose name is not UTF-8.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise PictureError(f"{folder}: {what}", "data")
    named = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    found = sorted((p for p in named if not is_mask(p)), key=lambda p: p.name)
    if not found:
        foreign = next((p.name for p in sorted(folder.iterdir()) if p.suffix.lower() in FOREIGN_SUFFIXES), None)
        said = f"{folder}: holds no pictures ({' '.join(SUFFIXES)})"
        raise PictureError(f"{said}: convert files such as {foreign}") if foreign else PictureError(said, "pictures")
    for path in found:
        if not path.name.isascii() and path.name.encode(errors="ignore").decode() != path.name:
            raise PictureError(f"{folder}: the name {path.name!r} is not UTF-8: rename that picture")
    return found


def is_mask(path: Path) -> bool:
    """Return whether a file is named as the loss mask of a picture, and so is no picture to train on."""
    return path.suffix.lower() in SUFFIXES and path.stem.endswith(MASK_ENDING)


def mask_path(picture: Path) -> Path | None:
    """Return the file of a picture's loss mask, `<stem>-masklabel.png` beside it or another kind of picture, or None."""
    stem = f"{picture.with_suffix('')}{MASK_ENDING}"
    return _first_file(stem + suffix for suffix in (".png", *SUFFIXES))


def caption_path(picture: Path) -> Path:
    """Return where a picture's caption is, or would be: the same name, `.txt`.

    A name that another system spelt differently in Unicode, or with `.TXT`, is found too.
    """
    plain = picture.with_suffix(".txt")
    spellings = (unicodedata.normalize(form, picture.stem) + suffix for form in ("NFC", "NFD") for suffix in (".txt", ".TXT"))
    return _first_file(chain([str(plain)], (str(picture.with_name(name)) for name in spellings))) or plain


def read_caption(picture: Path) -> str:
    """Return a picture's caption on one line, without superfluous spaces; empty if it has none.

    Raises:
        PictureError: If the caption is not UTF-8.
    """
    path = caption_path(picture)
    try:
        return decode_caption(path.read_bytes()) if path.is_file() else ""
    except Refused as refused:
        raise PictureError(f"{path}: {refused}") from refused


def decode_caption(data: bytes) -> str:
    """Return the bytes of a caption file as one line of text.

    Raises:
        Refused: If they are not UTF-8.
    """
    try:
        return " ".join(data.decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        likely = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        remedy = f"save it as UTF-8 (iconv -f {likely} -t UTF-8)"
        raise Refused(f"its caption is not UTF-8 text (byte {error.start + 1})", remedy) from error


def _first_file(names: Iterable[str]) -> Path | None:
    """Return the first that is a file; a name too long for the disk is none, where a Path would raise (and be slow)."""
    return next((Path(name) for name in names if os.path.isfile(name)), None)  # noqa: PTH113
