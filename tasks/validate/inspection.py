"""Looks at each picture once: decoded, measured and hashed on all cores, and remembered by content.

An interrupted run goes on where it was, and an unchanged picture is not decoded again, whatever it is called. Memory does not
grow with the pictures: only numbers are held, never pixels or thumbnails.
"""

import hashlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import PIL
from PIL import Image

import tasks.validate.look_store
import tasks.validate.quality
import tlora.pictures.boxes
import tlora.pictures.cicp
import tlora.pictures.colour
import tlora.pictures.decode
import tlora.pictures.described
import tlora.pictures.files
import tlora.pictures.heif
import tlora.pictures.icc
import tlora.pictures.loss_mask
import tlora.pictures.samples
from tasks.validate.look_store import Look, LookStore, known_looks
from tasks.validate.parallel_map import Engine, map_in_order
from tasks.validate.quality import contrast, middle, overview, perceptual_hash, sharpness
from tlora.pictures.colour import Note, Refused
from tlora.pictures.decode import decode_bytes, picture_digest, read_picture
from tlora.pictures.files import caption_path, decode_caption, mask_path
from tlora.pictures.heif import heif_version
from tlora.pictures.loss_mask import decode_mask

THUMBNAIL_SIDE = 112  # pixels of the longer side, or up to twice as many
_THUMBNAIL_QUALITY = 75
DECODED_BY = (  # whose code decides what is seen of a picture
    tlora.pictures.decode,
    tlora.pictures.files,
    tlora.pictures.colour,
    tlora.pictures.heif,
    tlora.pictures.boxes,
    tlora.pictures.cicp,
    tlora.pictures.described,
    tlora.pictures.icc,
    tlora.pictures.samples,
    tlora.pictures.loss_mask,
    tasks.validate.quality,
    tasks.validate.look_store,
    sys.modules[__name__],
)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Inspected:
    """An inspection, and the thumbnail if the picture was decoded for it; None if what is remembered of it was enough."""

    inspection: Inspection
    thumbnail: bytes | None


def looks_file(folder: Path, resolution: int) -> Path:
    """Return the file below `folder` for looks made in this very way: code, pillow and resolution."""
    parts = [
        PIL.__version__.encode(),
        heif_version().encode(),
        str(resolution).encode(),
        *(Path(str(module.__file__)).read_bytes() for module in DECODED_BY),
    ]
    return folder / (hashlib.sha256(b"\0".join(parts)).hexdigest()[:16] + ".sqlite")


def inspect_pictures(paths: Sequence[Path], resolution: int, looks: Path, engine: Engine = "processes") -> Iterator[Inspected]:
    """Yield what is seen of each picture, in order, and remember it.

    Args:
        paths: Picture files.
        resolution: Pixels of the shorter side that training sees; sharpness is judged there.
        looks: The file of `looks_file`.
        engine: What the work is spread with.

    Raises:
        WorkerDied: If a process that decodes died, as when memory runs out.
    """
    work = partial(_inspect_some, resolution=resolution, looks=looks.absolute())
    with LookStore(looks) as store:
        for seen in map_in_order(work, [path.absolute() for path in paths], engine):
            if seen.thumbnail is not None:
                store.keep(seen.inspection.sha256, seen.inspection.look, seen.thumbnail)
            yield seen


def _inspect_some(paths: Sequence[Path], resolution: int, looks: Path) -> Iterator[Inspected]:
    with known_looks(looks) as known:
        for path in paths:
            yield _inspect(path, resolution, known)


def _inspect(path: Path, resolution: int, known: Callable[[str], Look | None]) -> Inspected:
    """Look at one picture and its caption, or remember what was seen of the same bytes."""
    caption, caption_refused = _read_caption(path)
    try:
        data = read_picture(path)
    except Refused as refused:
        return Inspected(Inspection(path.name, "", _refuse(refused), caption, caption_refused), None)
    digest = picture_digest(data)
    look, thumbnail = known(digest), None
    if look is None:
        look, thumbnail = _look_at(data, resolution)
    mask, mask_refused = ("", None) if look.refused else _look_at_mask(path, (look.width, look.height))
    return Inspected(Inspection(path.name, digest, look, caption, caption_refused, mask, mask_refused), thumbnail)


def _look_at(data: bytes, resolution: int) -> tuple[Look, bytes]:
    try:
        decoded = decode_bytes(data)
    except Refused as refused:
        return _refuse(refused), b""
    small = overview(decoded.picture)
    grey = small.convert("L")
    width, height = decoded.picture.size
    sharp = sharpness(middle(decoded.picture, resolution))
    look = Look(width, height, contrast(grey), sharp, perceptual_hash(grey), decoded.notes, None)
    return look, _thumbnail(small)


def _refuse(refused: Refused) -> Look:
    return Look(0, 0, 0.0, 0.0, 0, (), Note("unreadable", refused.reason, refused.remedy))


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


def _thumbnail(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.reduce(max(1, max(picture.size) // THUMBNAIL_SIDE)).save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    return buffer.getvalue()
