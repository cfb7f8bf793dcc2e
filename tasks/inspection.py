"""Looks at each picture once: decoded, measured and hashed on all cores, and remembered by content.

What was seen is kept under `.state`, one small file per picture and content, so an interrupted run goes on where it was and
an unchanged picture is not decoded again. Memory does not grow with the data: only numbers come back, never pixels.
"""

import base64
import hashlib
import io
import json
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import PIL
from PIL import Image

import tlora.colour
import tlora.pictures
import tlora.quality
from tlora.colour import Note, Refused
from tlora.errors import PictureError
from tlora.loss_mask import decode_mask
from tlora.pictures import caption_path, decode_bytes, decode_caption, mask_path, picture_digest, read_picture
from tlora.quality import contrast, middle, overview, perceptual_hash, sharpness

THUMBNAIL_SIDE = 112
_FEW = 16  # pictures that are not worth starting processes for
_CHUNK = 8


@dataclass(frozen=True)
class Look:
    """What can be said of a picture's content alone; `refused` holds reason and remedy if it cannot be used."""

    width: int
    height: int
    contrast: float
    sharpness: float
    perceptual_hash: int
    notes: tuple[Note, ...]
    refused: Note | None
    thumbnail: str


@dataclass(frozen=True)
class Inspection:
    """What was seen of one file, its caption and its loss mask.

    `caption` is None if there is none, `sha256` empty if unreadable, `mask_sha256` empty if there is no mask that can be used.
    """

    picture: str
    sha256: str
    look: Look
    caption: str | None
    caption_refused: Note | None
    mask_sha256: str = ""
    mask_refused: Note | None = None


def inspection_cache(cache: Path, resolution: int) -> Path:
    """Return the folder below `cache` for looks made in this very way: code, pillow and resolution."""
    modules = (tlora.colour.__file__, tlora.pictures.__file__, tlora.quality.__file__, __file__)
    parts = [PIL.__version__.encode(), str(resolution).encode(), *(Path(str(m)).read_bytes() for m in modules)]
    return cache / hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def inspect_pictures(paths: Sequence[Path], resolution: int, cache: Path) -> Iterator[Inspection]:
    """Yield an inspection of each picture, in order; thumbnails stay in the cache.

    Args:
        paths: Picture files.
        resolution: Pixels of the shorter side that training sees; sharpness is judged there.
        cache: Folder of `inspection_cache`.

    Raises:
        PictureError: If a worker process died, as when memory runs out.
    """
    work = partial(inspect_picture, resolution=resolution, cache=cache)
    workers = len(os.sched_getaffinity(0))
    if workers == 1 or len(paths) <= _FEW:
        yield from map(work, paths)
        return
    with ProcessPoolExecutor(workers, initializer=_leave_signals_to_parent) as pool:
        try:
            yield from pool.map(work, paths, chunksize=_CHUNK)
        except BrokenProcessPool as error:
            raise PictureError(
                "a process that decodes pictures died, perhaps for lack of memory: run again, it goes on"
            ) from error


def inspect_picture(path: Path, resolution: int, cache: Path) -> Inspection:
    """Look at one picture and its caption, or remember what was seen of the same bytes."""
    caption, caption_refused = _read_caption(path)
    try:
        data = read_picture(path)
    except Refused as refused:
        return Inspection(path.name, "", _refuse(refused), caption, caption_refused)
    digest = picture_digest(data)
    file = look_file(cache, digest)
    look = read_look(file)
    if look is None:
        look = _look_at(data, resolution)
        _write_look(file, look)
    mask, mask_refused = ("", None) if look.refused else _look_at_mask(path, (look.width, look.height))
    return Inspection(path.name, digest, _without_thumbnail(look), caption, caption_refused, mask, mask_refused)


def look_file(cache: Path, digest: str) -> Path:
    """Return where a look is kept, in one of 256 folders."""
    return cache / digest[:2] / f"{digest}.json"


def read_look(file: Path) -> Look | None:
    """Return a look that was kept, or None if there is none or it is damaged."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        given["notes"] = tuple(Note(**note) for note in given["notes"])
        given["refused"] = Note(**given["refused"]) if given["refused"] else None
        return Look(**given)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _look_at(data: bytes, resolution: int) -> Look:
    try:
        decoded = decode_bytes(data)
    except Refused as refused:
        return _refuse(refused)
    small = overview(decoded.picture)
    width, height = decoded.picture.size
    sharp = sharpness(middle(decoded.picture, resolution))
    return Look(width, height, contrast(small), sharp, perceptual_hash(small), decoded.notes, None, _thumbnail(small))


def _refuse(refused: Refused) -> Look:
    return Look(0, 0, 0.0, 0.0, 0, (), Note("unreadable", refused.reason, refused.remedy), "")


def _read_caption(path: Path) -> tuple[str | None, Note | None]:
    file = caption_path(path)
    try:
        return decode_caption(file.read_bytes()) if file.is_file() else None, None
    except Refused as refused:
        return None, Note("caption_encoding", refused.reason, refused.remedy)


def _look_at_mask(picture: Path, size: tuple[int, int]) -> tuple[str, Note | None]:
    path = mask_path(picture)
    if path is None:
        return "", None
    try:
        data = read_picture(path)
        decode_mask(data, size)
    except Refused as refused:
        return "", Note("mask", refused.reason, refused.remedy)
    return picture_digest(data), None


def _thumbnail(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=75)
    return base64.b64encode(buffer.getvalue()).decode()


def _without_thumbnail(look: Look) -> Look:
    return replace(look, thumbnail="")


def _write_look(file: Path, look: Look) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(asdict(look)), encoding="utf-8")
    os.replace(temporary, file)


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
