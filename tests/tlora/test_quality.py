import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from tests.tasks.picture_corpus import CORNER, encode, sample
from tlora.pictures import decode_bytes
from tlora.quality import near_copies, perceptual_hash, sharpness, shrink


def test_blur_lowers_sharpness_and_contrast_does_not() -> None:
    picture = sample()
    sharp = sharpness(picture)
    assert sharpness(picture.filter(ImageFilter.GaussianBlur(4))) < 0.1 * sharp
    assert sharpness(ImageEnhance.Contrast(picture).enhance(0.5)) == pytest.approx(sharp, rel=0.2)
    assert sharpness(Image.new("RGB", (64, 64), CORNER)) == 0


def test_a_picture_is_shrunk_to_its_shorter_side_and_never_enlarged() -> None:
    assert shrink(Image.new("RGB", (300, 200)), 100).size == (150, 100)
    assert shrink(Image.new("RGB", (30, 20)), 100).size == (30, 20)


def test_scaled_and_recompressed_copies_are_near_and_other_pictures_are_not() -> None:
    rng = np.random.default_rng(3)
    pictures = [Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((256, 192)) for _ in range(4)]
    scaled = pictures[2].resize((100, 75))
    recompressed = decode_bytes(encode(pictures[1], "JPEG", quality=30)).picture
    hashes = [perceptual_hash(picture) for picture in (*pictures, scaled, recompressed)]
    assert [(i, j) for i, j, _ in near_copies(hashes, 8)] == [(4, 2), (5, 1)]
