import itertools

import numpy as np
import pytest
from PIL import Image

from tlora.pictures.views import MOST_OVERLAP, View, ViewSettings, overlap, take_view, views_of, without_crops

LARGE = (6000, 4000)


def crops(size: tuple[int, int], settings: ViewSettings, content: str = "a") -> list[tuple[int, int, int, int]]:
    return [view.crop for view in views_of(size, settings, 16, content) if view.crop]


def test_by_default_a_picture_has_one_view_the_whole_of_it() -> None:
    assert views_of(LARGE, ViewSettings(512), 16, "a") == views_of(LARGE, ViewSettings(512), 16) == [View(512, 512, False)]


def test_a_large_photograph_has_many_crops_of_the_views_shape_none_enlarged_and_no_two_alike() -> None:
    settings = ViewSettings(512, views_per_picture=40, min_scale=0.1, max_scale=0.5)
    found = crops(LARGE, settings)
    assert len(found) == 39
    for left, top, right, bottom in found:
        assert 0 <= left < right <= 6000
        assert 0 <= top < bottom <= 4000
        assert abs((right - left) - (bottom - top)) <= 1
        assert 512 <= right - left <= 2000  # a tenth of 4000 would have to be enlarged
    assert max(overlap(*pair) for pair in itertools.combinations(found, 2)) <= MOST_OVERLAP


def test_crops_keep_the_shape_of_their_bucket() -> None:
    views = views_of(LARGE, ViewSettings(512, center_crop=False, views_per_picture=5), 16, "a")
    assert len({(view.width, view.height) for view in views}) == 1
    for left, top, right, bottom in (view.crop for view in views if view.crop):
        assert (right - left) / (bottom - top) == pytest.approx(views[0].width / views[0].height, rel=0.01)


def test_where_crops_lie_hangs_on_the_picture_alone_and_more_leave_the_earlier_ones() -> None:
    few, many = (ViewSettings(512, views_per_picture=count) for count in (4, 9))
    assert crops(LARGE, few) == crops(LARGE, many)[:3]
    assert crops(LARGE, few, "b") != crops(LARGE, few)


def test_each_crop_is_mirrored_too_and_held_out_pictures_have_none() -> None:
    settings = ViewSettings(512, random_flip=True, views_per_picture=3)
    views = views_of(LARGE, settings, 16, "a")
    assert [view.flipped for view in views] == [False, True] * 3
    assert [view.crop for view in views[::2]] == [view.crop for view in views[1::2]]
    assert [view.crop for view in views_of(LARGE, without_crops(settings), 16, "a")] == [None, None]


@pytest.mark.parametrize("size", [(512, 512), (600, 400), (520, 520)])
def test_a_small_picture_has_no_crops_that_would_be_enlarged_or_are_nearly_the_whole(size: tuple[int, int]) -> None:
    assert crops(size, ViewSettings(512, views_per_picture=10)) == []


def test_a_view_shows_its_crop() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8))
    taken = take_view(picture, View(32, 32, False, (8, 16, 40, 48)))
    assert np.array_equal(np.asarray(taken), np.asarray(picture)[16:48, 8:40])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"views_per_picture": 0}, "views_per_picture must be in 1..1000, got 0"),
        ({"min_scale": 0.0}, "need 0 < min_scale <= max_scale <= 1, got 0.0 and 1.0"),
        ({"min_scale": 0.9, "max_scale": 0.5}, "got 0.9 and 0.5"),
        ({"max_scale": 1.5}, "got 0.25 and 1.5"),
        ({"max_scale": float("nan")}, "need 0 < min_scale"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ViewSettings(512, **wrong)
