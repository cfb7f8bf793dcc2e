"""Write files whole or not at all: under a temporary name of this process's own, synced, renamed."""

import io
import json
import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes; the folder is made if it is missing."""
    _write(path, [content])


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON, keys sorted, so that equal values are equal bytes; its text is never in memory as a whole."""
    encoder = json.JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False)
    _write(path, (part.encode() for part in chain(encoder.iterencode(value), "\n")))


def _write(path: Path, parts: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError, KeyboardInterrupt):  # the disk is full, say: leave it no fuller
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def write_png(path: Path, picture: Image.Image, text: PngImagePlugin.PngInfo | None = None) -> None:
    """Write a PNG, whole or not at all."""
    content = io.BytesIO()
    picture.save(content, "PNG", pnginfo=text)
    write_bytes(path, content.getvalue())
