"""What a picture of a material is worth as a texture: does it tile, and does it repeat as the real one does. NumPy alone.

A picture here is its luminance, (height, width) in 0..1. Compare like with like: pictures of one size in which the material
fills the frame, since a ball's outline has a spectrum too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Luminance: TypeAlias = NDArray[np.float64]
Spectrum: TypeAlias = NDArray[np.float64]  # share of the power in each (octave band, orientation), sums to 1
GREY_LEVEL = 1 / 255
ORIENTATIONS = 12  # of 15 degrees
BANDS_PER_OCTAVE = 2
LOWEST = 1.5  # cycles in the frame; below it lies the lighting, not the material
_OVERTONES = 0.5  # a peak counts as the fundamental if it has this share of the strongest one's power


@dataclass(frozen=True)
class Lattice:
    """The strongest repetition in a texture.

    Args:
        period: How far it is from one repetition to the next, as a share of the frame, 0..1.
        orientation: Direction in which it repeats, in degrees, 0..180: 0 is from left to right, 90 from top to bottom.
    """

    period: float
    orientation: float


def seam_ratio(picture: Luminance) -> float:
    """Return how visible the seams of a tiled picture are: step across the border over the usual step inside, mean of both axes.

    From 0, lower is better; 1 is a seam like any other line of pixels. One grey level is added to both steps, so that a flat
    picture has 1.

    Known failure: sees the step of brightness alone; courses that meet at the wrong height with equal brightness pass.
    """
    return float(np.mean([_seam(picture), _seam(picture.T)]))


def power_spectrum(picture: Luminance) -> Spectrum:
    """Return how the power of a picture is spread over scales and orientations, (bands, orientations), summing to 1.

    Mean and contrast are taken out, and a Hann window keeps the frame's own edges from counting. A flat picture spreads its
    nothing evenly.
    """
    power, radius, angle = _polar(picture)
    bands = int(np.ceil(BANDS_PER_OCTAVE * np.log2(min(picture.shape) / 2 / LOWEST)))
    inside = (radius >= LOWEST) & (radius < min(picture.shape) / 2)
    band = np.minimum(bands - 1, (BANDS_PER_OCTAVE * np.log2(radius[inside] / LOWEST)).astype(int))
    sector = np.round(angle[inside] / 180 * ORIENTATIONS).astype(int) % ORIENTATIONS
    found = np.bincount(band * ORIENTATIONS + sector, power[inside], bands * ORIENTATIONS)
    total = found.sum()
    spread = found / total if total > 0 else np.full(found.shape, 1 / found.size)
    return spread.reshape(bands, ORIENTATIONS)


def mean_spectrum(pictures: Sequence[Luminance]) -> Spectrum:
    """Return the mean spectrum of reference pictures of one size."""
    return np.mean([power_spectrum(picture) for picture in pictures], axis=0)


def spectrum_distance(spectrum: Spectrum, reference: Spectrum) -> float:
    """Return how differently two pictures spread their power (Hellinger distance): 0 alike, 1 nothing in common; lower is better.

    Known failure: blind to what carries the phase, so scrambled bricks with the same courses pass; read beside fidelity.
    """
    return float(np.sqrt(max(0.0, 1 - np.sqrt(spectrum * reference).sum())))


def find_lattice(pictures: Sequence[Luminance]) -> Lattice:
    """Return the strongest repetition in pictures of one size, found in the mean of their spectra.

    Brick courses give peaks at the fundamental and its overtones; the lowest peak among those nearly as strong is taken.

    Known failure: a texture without repetition has a strongest peak too, at a period that means nothing.
    """
    spectra = [_polar(picture) for picture in pictures]
    power, radius, angle = np.mean([s[0] for s in spectra], axis=0), spectra[0][1], spectra[0][2]
    # Natural pictures have power ~ 1/f^2, and a row of thin lines has equal overtones: half of the slope stands between the two.
    whitened = np.where((radius >= LOWEST) & (radius < min(pictures[0].shape) / 2), power * radius, 0.0)
    strong = whitened >= _OVERTONES * whitened.max()
    peak = np.unravel_index(np.argmin(np.where(strong, radius, np.inf)), radius.shape)
    return Lattice(1 / max(float(radius[peak]), LOWEST), float(angle[peak]))


def period_error(lattice: Lattice, reference: Lattice) -> float:
    """Return how far two periods are apart, in octaves: 0 equal, 1 half or twice as long; lower is better.

    Known failure: that of `find_lattice`.
    """
    return abs(float(np.log2(lattice.period / reference.period)))


def orientation_error(lattice: Lattice, reference: Lattice) -> float:
    """Return the angle between two directions of repetition: 0..90 degrees, lower is better.

    Known failure: that of `find_lattice`; a lattice of squares has two directions, and either may be found.
    """
    turned = abs(lattice.orientation - reference.orientation) % 180
    return min(turned, 180 - turned)


def _seam(picture: Luminance) -> float:
    """Return the step from the last row back to the first over the median step between neighbouring rows."""
    inside = np.abs(np.diff(picture, axis=0)).mean(axis=1)
    across = np.abs(picture[0] - picture[-1]).mean()
    return float((across + GREY_LEVEL) / (np.median(inside) + GREY_LEVEL))


def _polar(picture: Luminance) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return power, frequency in cycles per frame, and direction (0..180 degrees) of the Fourier components of half the plane."""
    height, width = picture.shape
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    mean = (picture * window).sum() / window.sum()
    power = np.abs(np.fft.rfft2((picture - mean) * window)) ** 2
    power[power < 1e-20 * picture.size**2] = 0.0  # what rounding leaves of a flat picture
    down, across = np.fft.fftfreq(height, 1 / height)[:, None], np.fft.rfftfreq(width, 1 / width)[None, :]
    return power, np.hypot(down, across), np.degrees(np.arctan2(down, across)) % 180
