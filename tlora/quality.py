"""What ruins an adapter although the file is whole: blur, blankness, and the same picture twice.

All is judged at the size that training sees: a 24-megapixel photograph that is soft at full size is sharp at 512 pixels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_HASH_SIDE = 32
_HASH_FREQUENCIES = 8


def shrink(picture: Image.Image, shorter_side: int) -> Image.Image:
    """Return the picture with its shorter side reduced to `shorter_side` pixels; a smaller one is returned as it is."""
    factor = shorter_side / min(picture.size)
    if factor >= 1:
        return picture
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)


def sharpness(picture: Image.Image) -> float:
    """Return how much of a picture's contrast lies in its finest detail: about 0 for a blank or blurred one.

    The variance of the Laplacian over the variance of the grey picture, so that contrast does not count. A photograph in focus
    has 0.1 to 10, the same blurred by one and a half pixels 0.003 to 0.5, so compare with its likes; white noise has 20.

    Source:
        Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy (2000), eq. for LAP4, divided by the variance.
    """
    grey = np.asarray(picture.convert("L"), np.float32)
    spread = float(grey.var())
    if min(grey.shape) < 3 or spread < 1.0:  # one grey level: blank but for rounding
        return 0.0
    centre = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
    return float(laplacian.var()) / spread


def perceptual_hash(picture: Image.Image) -> int:
    """Return 64 bits that stay nearly the same when a picture is scaled, recompressed or slightly toned.

    The signs, about their median, of the 8x8 lowest cosine frequencies of the grey picture at 32x32, the mean left out.

    Source:
        Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), the DCT hash.
    """
    grey = np.asarray(picture.convert("L").resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX), np.float64)
    index = np.arange(_HASH_SIDE)
    cosines = np.cos(np.pi / _HASH_SIDE * np.outer(np.arange(1, _HASH_FREQUENCIES + 1), index + 0.5))
    frequencies = (cosines @ grey @ cosines.T).round(3)  # rounded: a bit must not hang on the order of additions
    bits = (frequencies > np.median(frequencies)).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def near_copies(hashes: Sequence[int], most_bits: int) -> list[tuple[int, int, int]]:
    """Return, for each picture that resembles an earlier one, (its index, the nearest earlier index, bits of difference).

    Args:
        hashes: One perceptual hash a picture.
        most_bits: Pictures whose hashes differ in at most this many of 64 bits resemble one another.
    """
    known: NDArray[np.uint64] = np.array(hashes, np.uint64)
    found = []
    for i in range(1, len(known)):
        differing = np.bitwise_count(known[:i] ^ known[i])
        nearest = int(differing.argmin())
        if differing[nearest] <= most_bits:
            found.append((i, nearest, int(differing[nearest])))
    return found
