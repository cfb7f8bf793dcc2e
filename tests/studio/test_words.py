"""Nothing of a user's is markup on the page, and what goes wrong is one line."""

from pathlib import Path

from PIL import Image

from studio.words import attempt, bars, curve, link, picture, status, table, thumbnail
from tests.tasks.data_folder import texture
from tlora.errors import PictureError


def test_a_text_is_shown_as_it_is_written() -> None:
    said = status("<script>alert(1)</script> ${alert(1)} `x`")
    assert "<script" not in said
    assert "${" not in said
    assert "`" not in said
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &#36;{alert(1)}" in said


def test_what_is_wrong_is_one_line_that_a_reader_speaks() -> None:
    def refuse() -> str:
        raise PictureError("wall.png: it cannot be read")

    assert attempt(refuse) == '<div role="status" class="wrong"><p>wall.png: it cannot be read</p></div>'


def test_pictures_need_no_address_and_have_words(tmp_path: Path) -> None:
    texture(1).save(tmp_path / "a.png")
    for shown in (
        picture(tmp_path / "a.png", 'a "wall"'),
        thumbnail(tmp_path / "a.png", 'a "wall"'),
        picture(Image.new("RGB", (4, 4)), 'a "wall"'),
    ):
        assert shown.startswith('<img src="data:image/png;base64,')
        assert 'alt="a &quot;wall&quot;"' in shown
    (tmp_path / "b.png").write_text("no picture")
    assert thumbnail(tmp_path / "b.png", "b") == "<p>b.png cannot be read</p>"


def test_an_address_of_another_kind_is_no_link() -> None:
    assert link("javascript:alert(1)", "run") == "run"
    assert 'href="http://127.0.0.1:4200/runs"' in link("http://127.0.0.1:4200/runs", "run")


def test_numbers_are_drawn_with_words() -> None:
    assert 'aria-label="loss"' in curve([(1, 2.0), (2, 1.0)], "loss")
    assert curve([(1, 2.0)], "loss") == ""
    assert bars([1, 2, 4], "ranks").count("<rect") == 3
    assert table(["a"], []) == ""
