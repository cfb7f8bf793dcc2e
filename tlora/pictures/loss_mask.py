"""A picture's loss mask: which parts of it training looks at.

White is trained on, black is not, grey counts as much as it is bright. It lies beside its picture as `<stem>-masklabel.png`, as
OneTrainer has it, drawn on the picture as it is seen: upright, and of the same size.
"""

from pathlib import Path

from PIL import Image

from tlora.errors import PictureError
from tlora.pictures.colour import Refused
from tlora.pictures.decode import decode_bytes, read_picture
from tlora.pictures.files import mask_path

_BLACK = 0


def decode_mask(data: bytes, size: tuple[int, int]) -> Image.Image:
    """Return a mask as an 8-bit grey picture.

    Args:
        data: Bytes of the mask's file.
        size: Width and height of the upright picture that it belongs to.

    Raises:
        Refused: If it is no picture, has another size, or is black all over.
    """
    mask = decode_bytes(data).picture.convert("L")
    if mask.size != size:
        shapes = f"{mask.width} x {mask.height} pixels, its picture {size[0]} x {size[1]}"
        raise Refused(f"the loss mask is {shapes} once upright", "draw it on the picture itself")
    if mask.getextrema()[1] == _BLACK:
        raise Refused("the loss mask is black all over, so nothing would be trained on", "paint white what matters")
    return mask


def read_mask(picture: Path, size: tuple[int, int]) -> Image.Image | None:
    """Return a picture's loss mask as an 8-bit grey picture, or None if it has none.

    Raises:
        PictureError: If it cannot be used, naming file, reason and remedy.
    """
    path = mask_path(picture)
    if path is None:
        return None
    try:
        return decode_mask(read_picture(path), size)
    except Refused as refused:
        raise PictureError(f"{path}: {refused}") from refused
