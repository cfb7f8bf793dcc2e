import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from tasks.validate.quality import contrast, middle, near_copies, nearest_hashes, overview, perceptual_hash, sharpness
from tests.tasks.picture_corpus import encode, sample
from tlora.pictures.decode import decode_bytes


def test_blur_lowers_sharpness_and_contrast_does_not() -> None:
    picture = sample("L")
    sharp = sharpness(picture)
    assert sharpness(picture.filter(ImageFilter.GaussianBlur(4))) < 0.1 * sharp
    assert sharpness(ImageEnhance.Contrast(picture).enhance(0.5)) == pytest.approx(sharp, rel=0.2)
    assert sharpness(Image.new("L", (64, 64), 90)) == 0


def test_the_middle_is_judged_as_large_as_training_sees_it() -> None:
    assert middle(Image.new("RGB", (3000, 2000)), 64).size == (64, 64)
    assert middle(Image.new("RGB", (3000, 2000)), 1024).size == (192, 192)
    assert middle(Image.new("RGB", (30, 20)), 64).size == (20, 20)
    spot = Image.new("RGB", (300, 200))
    spot.paste((255, 255, 255), (149, 99, 151, 101))
    assert middle(spot, 200).getpixel((96, 96)) == 255


def test_an_overview_keeps_the_whole_picture() -> None:
    assert overview(Image.new("RGB", (3000, 2000))).size == (200, 134)
    half = Image.new("L", (3000, 2000))
    half.paste(200, (1500, 0, 3000, 2000))
    assert (contrast(overview(half)), overview(half).getpixel((99, 0)), overview(half).getpixel((100, 0))) == (100, 0, 200)
    assert overview(Image.new("RGB", (300, 100))).size == (300, 100)


def test_an_overview_of_a_large_picture_does_not_take_fine_stripes_for_one_shade() -> None:
    stripes = np.zeros((3000, 4000), np.uint8)
    stripes[:, 3::7] = 255
    assert np.asarray(overview(Image.fromarray(stripes))).mean() == pytest.approx(255 / 7, abs=4)


def test_contrast_is_the_spread_of_the_grey_levels() -> None:
    half = Image.new("L", (2, 1))
    half.putpixel((1, 0), 200)
    assert contrast(half) == 100
    assert contrast(Image.new("RGB", (5, 5), "red")) == 0


def test_scaled_and_recompressed_copies_are_near_and_other_pictures_are_not() -> None:
    rng = np.random.default_rng(3)
    pictures = [Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((256, 192)) for _ in range(4)]
    scaled = pictures[2].resize((100, 75))
    recompressed = decode_bytes(encode(pictures[1], "JPEG", quality=30)).picture
    hashes = [perceptual_hash(overview(picture)) for picture in (*pictures, scaled, recompressed)]
    assert [(i, j) for i, j, _ in near_copies(hashes, 8)] == [(4, 2), (5, 1)]


@pytest.mark.slow
def test_the_likes_of_twenty_thousand_pictures_are_found_in_seconds() -> None:
    hashes = [int(h) for h in np.random.default_rng(0).integers(0, 2**63, 20_000)]
    hashes[-1] = hashes[0] ^ 0b1011
    began = time.process_time()
    assert near_copies(hashes, 4) == [(19_999, 0, 3)]
    assert nearest_hashes(hashes[-4000:], hashes[:16_000])[-1] == (0, 3)
    assert time.process_time() - began < 5
