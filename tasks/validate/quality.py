"""What ruins an adapter although the file is whole: blur, blankness, and the same picture twice.

Blur is judged at the size that training sees: a 24-megapixel photograph that is soft at full size is sharp at 512 pixels. All of
it together costs a third of decoding a JPEG.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_HASH_SIDE = 32
_HASH_FREQUENCIES = 8
_OVERVIEW_SIDE = 128
_STRIDE = 3  # coarser, and the likeness of two copies is lost in gravel, plaster and other fine texture
_MIDDLE_SIDE = 192


def overview(picture: Image.Image) -> Image.Image:
    """Return the whole picture made smaller, its shorter side about 128 to 255 pixels, or as it is if smaller.

    Each pixel is the mean of a grid of its area, two pixels a side or more, three pixels apart or less: a third of the time that
    the mean of them all would take.
    """
    factor = max(1, min(picture.size) // _OVERVIEW_SIDE)
    stride = max(1, min(_STRIDE, factor // 2))
    sampled = picture.resize((picture.width // stride, picture.height // stride), Image.Resampling.NEAREST)
    return sampled.reduce(factor // stride)


def middle(picture: Image.Image, resolution: int) -> Image.Image:
    """Return the middle of the picture in grey, as large as training sees it: a square of at most 192 pixels.

    Args:
        picture: The whole picture.
        resolution: Pixels that its shorter side is reduced to for training; a smaller picture is not enlarged.
    """
    factor = min(1.0, resolution / min(picture.size))
    side = min(*picture.size, round(_MIDDLE_SIDE / factor))
    left, top = ((length - side) // 2 for length in picture.size)
    grey = picture.crop((left, top, left + side, top + side)).convert("L")
    seen = max(1, round(side * factor))
    return grey if factor == 1 else grey.resize((seen, seen), Image.Resampling.BOX, reducing_gap=1.0)


def contrast(picture: Image.Image) -> float:
    """Return the standard deviation of the grey levels, 0 to 128."""
    return math.sqrt(_variance(np.asarray(picture.convert("L"), np.int16)))


def sharpness(grey: Image.Image) -> float:
    """Return how much of a picture's contrast lies in its finest detail; 0 for one shade.

    The variance of the Laplacian over the variance of the picture, so that contrast does not count. A photograph in focus has 0.1
    to 10, the same blurred by one and a half pixels 0.003 to 0.5, so compare with its likes; white noise has 20.

    Args:
        grey: A picture in mode L, at the size at which it is to be judged.

    Source:
        Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy (2000), eq. for LAP4, divided by the variance.
    """
    levels = np.asarray(grey, np.int16)
    spread = _variance(levels)
    if min(levels.shape) < 3 or spread < 1.0:  # one grey level: nothing but rounding
        return 0.0
    laplacian = levels[:-2, 1:-1] + levels[2:, 1:-1]
    laplacian += levels[1:-1, :-2]
    laplacian += levels[1:-1, 2:]
    laplacian -= 4 * levels[1:-1, 1:-1]
    return _variance(laplacian) / spread


def perceptual_hash(picture: Image.Image) -> int:
    """Return 64 bits that stay nearly the same when a picture is scaled, recompressed or slightly toned.

    The signs, about their median, of the 8x8 lowest cosine frequencies of the grey picture at 32x32, the mean left out.

    Source:
        Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), the DCT hash.
    """
    grey = np.asarray(picture.convert("L").resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX), np.float64)
    cosines = _cosines()
    frequencies = (cosines @ grey @ cosines.T).round(3).ravel()  # rounded: a bit must not depend on the order of additions
    below, above = np.sort(frequencies)[31:33]
    return int.from_bytes(np.packbits(frequencies > (below + above) / 2).tobytes())


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    index = np.arange(_HASH_SIDE)
    return np.cos(np.pi / _HASH_SIDE * np.outer(np.arange(1, _HASH_FREQUENCIES + 1), index + 0.5))


def near_copies(hashes: Sequence[int], most_bits: int) -> list[tuple[int, int, int]]:
    """Return, for each picture that resembles an earlier one, (its index, the nearest earlier index, bits of difference).

    Args:
        hashes: One perceptual hash a picture.
        most_bits: Pictures whose hashes differ in at most this many of 64 bits resemble one another.
    """
    known = np.array(hashes, np.uint64)
    found = []
    for i in range(1, len(known)):
        nearest, bits = _nearest(known[i], known[:i])
        if bits <= most_bits:
            found.append((i, nearest, bits))
    return found


def nearest_hashes(hashes: Sequence[int], others: Sequence[int]) -> list[tuple[int, int]]:
    """Return, for each hash, the index of the nearest of some others (at least one), and in how many of 64 bits it differs."""
    known = np.array(others, np.uint64)
    return [_nearest(one, known) for one in np.array(hashes, np.uint64)]


def _nearest(one: np.uint64, others: NDArray[np.uint64]) -> tuple[int, int]:
    differing = np.bitwise_count(others ^ one)
    nearest = int(differing.argmin())
    return nearest, int(differing[nearest])


def _variance(levels: NDArray[np.int16]) -> float:
    """Return the variance from whole-number sums, so that it is the same bits on every machine."""
    mean = int(levels.sum(dtype=np.int64)) / levels.size
    return int(np.square(levels, dtype=np.int32).sum(dtype=np.int64)) / levels.size - mean * mean
