"""Pictures and captions as training sees them: one listing and one decode function for validation, caching and training.

docs/data.md says, kind by kind, what is converted, what is converted with a note, and what is refused. Only pillow and numpy
are used, so that looking at pictures never waits for torch.
"""

import hashlib
import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import AvifImagePlugin, Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401 - unasked, pillow does not know these

from tlora.errors import PictureError
from tlora.pictures.colour import Note, Refused, to_srgb
from tlora.pictures.described import describe
from tlora.pictures.heif import heif_size, is_heif, open_heif
from tlora.pictures.samples import load_samples

MAX_PIXELS = 100_000_000  # 300 MB once decoded
MAX_BYTES = 500_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # a closed list: EPS, for one, would start a program
_SINGLE_FRAME_FORMATS = ("JPEG", "MPO", "BMP")  # MPO: a phone's photograph with a depth or gain map behind it
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, RuntimeError)  # pillow's, found by fuzzing
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # width and height change places
_CONVERT = "convert it to JPEG or PNG first"
_COPY_AGAIN = "copy it again from its source, or remove it"
_RESAVE_TIFF = "export it as RGB with 8 or 16 bits a channel, or copy it again from its source"
_IMPOSTORS = (  # what stands at a byte of a file that is not the picture it is named as
    (0, b"version https://git-lfs", "it is a git-lfs pointer, not the picture", "run 'git lfs pull'"),
    (0, b"<svg", "it is a drawing (SVG), not a picture", _CONVERT),
    (0, b"<", "it is a web page or other markup, not a picture", "download the picture itself, or remove it"),
    (0, b"%PDF", "it is a PDF, not a picture", _CONVERT),
    (0, b"8BPS", "it is a Photoshop document, not a picture", _CONVERT),
    *((0, mark, "it is a TIFF of a kind that is not read here, or it is damaged", _RESAVE_TIFF) for mark in (b"II*\0", b"MM\0*")),
    (0, b"PK\x03\x04", "it is a zip archive, not a picture", "unpack it, or remove it"),
)


@dataclass(frozen=True)
class Decoded:
    """A picture in 8-bit sRGB, upright, on white, and what was lost on the way."""

    picture: Image.Image
    notes: tuple[Note, ...]


def decode_picture(path: Path) -> Image.Image:
    """Return a picture as training sees it: mode RGB, sRGB, upright, transparent parts on white, the first frame.

    Raises:
        PictureError: If it cannot be read whole, naming file, reason and remedy.
    """
    try:
        return decode_bytes(read_picture(path)).picture
    except Refused as refused:
        raise PictureError(f"{path}: {refused}") from refused


def picture_size(path: Path) -> tuple[int, int]:
    """Return width and height of a picture as `decode_picture` would return it, from its head: no pixel is decoded.

    Raises:
        PictureError: If that cannot be read, naming file, reason and remedy.
    """
    try:
        data = read_picture(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _upright_size(data)
    except Refused as refused:
        raise PictureError(f"{path}: {refused}") from refused


def read_picture(path: Path) -> bytes:
    """Return a picture file's bytes.

    Raises:
        Refused: If it is no ordinary file, is empty, is too large or cannot be read.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise Refused("it is not a file", "remove it, or rename it so that it does not end like a picture")
        if about.st_size == 0:
            raise Refused("it is empty (0 bytes)", _COPY_AGAIN)
        if about.st_size > MAX_BYTES:
            raise Refused(f"it is {about.st_size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f} MB", "save a smaller copy")
        return path.read_bytes()
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise Refused("its symbolic link leads nowhere", "repair the link, or remove it") from error
        raise Refused(f"it cannot be read ({error.strerror})", "check its permissions and its disk") from error


def decode_bytes(data: bytes) -> Decoded:
    """Decode the bytes of a picture file whole.

    Raises:
        Refused: If they are not a picture, are damaged, or decode to too many pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pillow warns of what is refused below, and of damaged metadata, which changes no pixel
        with _open(data) as image:
            _refuse_too_many(image.size)
            try:
                described = describe(image, data)
                samples = load_samples(image, data)
            except _DAMAGED as error:
                raise Refused(f"it is damaged or cut short ({_brief(error)})", _COPY_AGAIN) from error
            turn = _UPRIGHT.get(_orientation(image))
            picture, notes = to_srgb(samples, described.profile, is_deep=described.is_deep)
            notes += described.notes
            if image.format not in _SINGLE_FRAME_FORMATS:
                picture = picture.copy() if picture is image else picture
                notes += _frame_notes(image)
    return Decoded(picture.transpose(turn) if turn is not None else picture, notes)


def _upright_size(data: bytes) -> tuple[int, int]:
    if is_heif(data):
        with _named_faults(data):
            return heif_size(data, MAX_PIXELS)
    with _open(data) as image:
        _refuse_too_many(image.size)
        turns = image.format != "TIFF" and _orientation(image) in _TURNED  # pillow says a TIFF's size as it is seen
        return image.size[::-1] if turns else image.size


def picture_digest(data: bytes) -> str:
    """Return the sha256 of a picture file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def _refuse_too_many(size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    if pixels > MAX_PIXELS:
        raise Refused(f"it has {pixels / 1e6:.0f} million pixels, more than {MAX_PIXELS / 1e6:.0f}", "save a smaller copy")


def _open(data: bytes) -> Image.Image:
    with _named_faults(data):
        return open_heif(data, MAX_PIXELS) if is_heif(data) else Image.open(io.BytesIO(data), formats=_FORMATS)


@contextmanager
def _named_faults(data: bytes) -> Iterator[None]:
    """Say of bytes that cannot be opened what they are instead of a picture."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise Refused(f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels", "save a smaller copy") from error
    except _DAMAGED as error:
        head = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
        for position, mark, reason, remedy in _IMPOSTORS:
            if head[position:].lower().startswith(mark.lower()):
                raise Refused(reason, remedy) from error
        if b"\0" not in data[:1024] and data[:1024].isascii():
            raise Refused("it is text, not a picture", "remove it, or rename it to what it is") from error
        raise Refused("it is not a picture of a kind that can be read, or it is damaged or cut short", _COPY_AGAIN) from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DAMAGED:
        return 1  # damaged metadata: the pixels are all there is to go by


def _frame_notes(image: Image.Image) -> tuple[Note, ...]:
    try:
        image.seek(1)
    except EOFError:
        return ()
    except _DAMAGED:
        pass
    return (Note("frames", "it holds several frames or pages, of which the first is used", "keep the one that you want"),)


def _brief(error: Exception) -> str:
    return (str(error).split("\n")[0] or type(error).__name__)[:120]
