"""What the data report shows of views."""

from tasks.validate.inspection import Inspection
from tasks.validate.look_store import Look
from tasks.validate.report import DataReport, render_report
from tlora.metadata.concept import Concept
from tlora.pictures.views import ViewSettings, views_of


def seen(name: str, side: int) -> Inspection:
    return Inspection(name, name * 8, Look(side, side, 10.0, 0.5, 0, (), None), "a matbrk wall", None)


def test_crops_are_outlined_on_the_pictures_that_are_trained_on_and_counted() -> None:
    concept = Concept("brick", trigger="matbrk", held_out=("c",), prompts=("a matbrk wall",))
    views = ViewSettings(64, views_per_picture=4)
    report = DataReport(concept, [seen("a", 1000), seen("b", 64), seen("c", 1000)], {"c"}, views, 8)
    page = render_report(report, [], lambda digest: b"jpeg")
    crops = [view.crop for view in views_of((1000, 1000), views, 8, "a" * 8) if view.crop]
    assert len(crops) == page.count('<i style="left:') == 3
    assert f"left:{crops[0][0] / 10:.1f}%" in page
    assert '<th scope="row">4</th><td>1</td>' in page
    assert '<th scope="row">1</th><td>1</td>' in page
    assert "Each picture that is trained on is seen whole and in crops" in page


def test_without_crops_the_report_says_nothing_of_them() -> None:
    concept = Concept("brick", trigger="matbrk", held_out=("c",), prompts=("a matbrk wall",))
    report = DataReport(concept, [seen("a", 1000), seen("c", 1000)], {"c"}, ViewSettings(64), 8)
    assert "crops" not in render_report(report, [], lambda digest: b"jpeg").partition("<body")[2]
