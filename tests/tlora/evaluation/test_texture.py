"""Textures whose period, direction and seams are known, because they were drawn so."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tlora.evaluation.texture import (
    find_lattice,
    mean_spectrum,
    orientation_error,
    period_error,
    power_spectrum,
    seam_ratio,
    spectrum_distance,
)

SIDE = 64
Y, X = np.mgrid[0:SIDE, 0:SIDE] / SIDE


def stripes(cycles: float, degrees: float = 0.0) -> NDArray[np.float64]:
    """Return a wave with so many cycles in the frame, repeating in a direction."""
    along = X * np.cos(np.radians(degrees)) + Y * np.sin(np.radians(degrees))
    return 0.5 + 0.4 * np.cos(2 * np.pi * cycles * along)


def bricks(courses: int) -> NDArray[np.float64]:
    """Return a running bond: mortar between the courses, joints set off by half a brick in every other one."""
    course = np.floor(Y * courses)
    joint = np.abs(((X * courses / 2 + course % 2 / 2) % 1) - 0.5) < 0.06
    mortar = (Y * courses % 1) < 0.15
    return np.where(joint | mortar, 0.8, 0.3)


def blurred(picture: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    down, across = np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None, :]
    return np.fft.ifft2(np.fft.fft2(picture) * np.exp(-2 * (np.pi * sigma) ** 2 * (down**2 + across**2))).real


def shuffled(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.random.default_rng(0).permutation(picture.ravel()).reshape(picture.shape)


def test_a_picture_that_tiles_has_a_seam_like_any_line_and_a_ramp_has_a_visible_one() -> None:
    assert seam_ratio(stripes(4)) < 1.0 < seam_ratio(stripes(4.5))
    assert seam_ratio(X) == pytest.approx(((63 / 64 + 1 / 255) / (1 / 64 + 1 / 255) + 1) / 2)
    assert seam_ratio(np.full((SIDE, SIDE), 0.3)) == 1.0


def test_identical_pictures_are_at_no_distance_and_crossed_stripes_share_nearly_nothing() -> None:
    wall = power_spectrum(bricks(8))
    assert spectrum_distance(wall, wall) == 0.0
    assert spectrum_distance(power_spectrum(stripes(8)), power_spectrum(stripes(8, 90))) > 0.9


def test_brightness_and_contrast_are_not_texture() -> None:
    assert spectrum_distance(power_spectrum(bricks(8)), power_spectrum(0.2 + 0.5 * bricks(8))) == pytest.approx(0.0, abs=1e-6)


def test_the_more_a_wall_is_blurred_the_further_it_is_from_itself_and_shuffled_it_is_furthest() -> None:
    wall = mean_spectrum([bricks(8)])
    one, two, shuffle = (
        spectrum_distance(power_spectrum(p), wall) for p in (blurred(bricks(8), 1), blurred(bricks(8), 3), shuffled(bricks(8)))
    )
    assert 0 < one < two < 1
    assert shuffle > one
    assert shuffle > 0.5


@pytest.mark.parametrize("courses", [4, 8, 16])
def test_the_courses_of_a_wall_are_found(courses: int) -> None:
    found = find_lattice([bricks(courses)])
    assert found.period == pytest.approx(1 / courses, rel=0.2)
    assert orientation_error(found, find_lattice([stripes(8, 90)])) < 40  # of the courses, or of the bond's diagonal


@pytest.mark.parametrize("degrees", [0, 30, 90, 150])
def test_period_and_direction_of_stripes_are_found(degrees: float) -> None:
    found = find_lattice([stripes(8, degrees)])
    assert found.period == pytest.approx(1 / 8, rel=0.1)
    assert found.orientation == pytest.approx(degrees, abs=6)


def test_twice_as_many_stripes_are_an_octave_and_crossed_ones_a_right_angle_away() -> None:
    eight = find_lattice([stripes(8)])
    assert period_error(find_lattice([stripes(16)]), eight) == pytest.approx(1.0)
    assert orientation_error(find_lattice([stripes(8, 90)]), eight) == pytest.approx(90.0)
    assert orientation_error(find_lattice([stripes(8, 170)]), find_lattice([stripes(8, 10)])) == pytest.approx(20, abs=8)


def test_a_flat_picture_is_no_error() -> None:
    flat = np.full((SIDE, SIDE), 0.5)
    assert 0 < spectrum_distance(power_spectrum(flat), power_spectrum(bricks(8))) < 1
    assert find_lattice([flat]).period > 0
