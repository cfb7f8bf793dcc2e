"""The report of an evaluation, as files and in a browser."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tasks.evaluate.page import render_evaluation
from tasks.pages.inline import BUDGET
from tasks.results.album import read_album, write_album
from tests.browser import Browser, Visit
from tests.tasks.finished_evaluation import Shape, drawn, evaluation, lay_out, write, write_page
from tlora.errors import CheckpointError

HOSTILE = "<script>document.title='owned'</script>\"onload=\"x <b>&amp;"


def test_the_page_says_what_is_recommended_why_and_what_it_was_made_from(tmp_path: Path) -> None:
    text = write_page(tmp_path).read_text()
    assert "<strong>Recommended: checkpoint-000075</strong><p>checkpoint-000075: best of all.</p>" in text
    for fact in ("models/a-base", "lora, rank 1 at timestep 1000 to 4 at 0, exponent 1", "d1gest", "models/a-clip", "1000, 1001"):
        assert f"<code>{fact}</code>" in text
    assert "4 pictures trained on, 2 held out" in text
    assert "<b>+0.300</b><span>+0.240 to +0.360</span>" in text
    assert "<b>0.600</b><span>0.540 to 0.660</span>" in text


def test_equal_files_make_an_equal_page_that_names_no_file_of_this_machine(tmp_path: Path) -> None:
    first, second = write_page(tmp_path / "a").read_text(), write_page(tmp_path / "b").read_text()
    assert first == second
    assert str(tmp_path) not in first


def test_a_metric_that_nobody_described_shows_by_itself(tmp_path: Path) -> None:
    text = write_page(tmp_path).read_text()
    assert "<h3>Moss cover</h3>" in text
    assert "Moss cover by training step: 1.133 (1.073 to 1.193) at step 25, 1.000 (0.940 to 1.060) at step 75; base 1.200" in text


def test_the_front_joins_those_that_evaluation_put_there(tmp_path: Path) -> None:
    text = write_page(tmp_path, Shape(checkpoints=5)).read_text()
    said, drawing = text.split("against Prompt following against the base; on the front: ")[1].split("</svg>")[0].split('">', 1)
    assert said == "checkpoint-000125, checkpoint-000075"
    counts = {kind: drawing.count(f'class="{kind}"') for kind in ("dot", "hollow", "cross", "square", "ring")}
    assert counts == {"dot": 2, "hollow": 2, "cross": 1, "square": 1, "ring": 1}


def test_strengths_are_shown_with_their_numbers(tmp_path: Path) -> None:
    text = write_page(tmp_path).read_text()
    section = text[text.index("<h2>Strengths of checkpoint-000075</h2>") :].split("</section>")[0]
    assert re.findall("<figcaption>(.*?)</figcaption>", section)[:3] == ["base", "× 0.5", "× 1"]
    assert '<th scope="row">× 1</th><td>0.212<small>0.152 to 0.272</small></td>' in section
    assert "<code>min_diversity_ratio 0.5</code>" in text


def test_no_recommendation_is_said_first(tmp_path: Path) -> None:
    files, adapter = lay_out(tmp_path, Shape())
    entries = {"base": {"step": 0}, "checkpoint-000025": {"step": 25, "objections": ["collapsed"]}}
    write(files.metrics, evaluation(None, "no checkpoint passes", entries, evaluator="nowhere: no evaluator there"))
    text = render_evaluation(files, adapter)
    assert '<div class="verdict none"><strong>No checkpoint is recommended</strong><p>no checkpoint passes.</p></div>' in text
    assert "collapsed" in text
    assert "Not measured: nowhere: no evaluator there." in text


def test_a_second_opinion_is_a_sentence_below_the_reason(tmp_path: Path) -> None:
    files, adapter = lay_out(tmp_path, Shape())
    told = json.loads(files.metrics.read_text())
    write(files.metrics, told | {"second_opinion": {"agrees": False, "said": "Ann, the second opinion, disagrees"}})
    assert "best of all.<br>Ann, the second opinion, disagrees.</p>" in render_evaluation(files, adapter)


def test_all_text_of_others_is_shown_as_text(tmp_path: Path) -> None:
    text = write_page(tmp_path, prompts=[HOSTILE], name="a'\"<i>&").read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;document.title=" in text
    assert len(re.findall("<script", text)) == 1
    assert "<i>&_" not in text


@pytest.mark.slow
def test_twenty_checkpoints_twelve_prompts_and_four_seeds_of_large_pictures_stay_within_the_budget(tmp_path: Path) -> None:
    page = write_page(tmp_path, Shape(checkpoints=20, prompts=12, seeds=4, side=160))
    assert sum(file.stat().st_size for file in (tmp_path / "album").rglob("*.webp")) * 4 / 3 > BUDGET
    assert len(re.findall('class="tile"', page.read_text())) == 21 * 12 * 4
    assert page.stat().st_size < BUDGET + 1_500_000


def test_an_album_is_read_as_it_was_written_and_small_pictures_bit_by_bit(tmp_path: Path) -> None:
    rows = drawn(1, Shape(prompts=2, seeds=2))
    write_album(tmp_path, {"checkpoints": {"base": rows}}, ["a wall", "a ball"], [7, 8])
    album = read_album(tmp_path)
    assert (album.prompts, album.seeds) == (["a wall", "a ball"], [7, 8])
    with Image.open(album.groups["checkpoints"]["base"][1][0]) as kept:
        assert kept.convert("RGB").tobytes() == rows[1][0].tobytes()


def test_a_damaged_album_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "album.json").write_text('{"prompts": [')
    with pytest.raises(CheckpointError, match=r"album\.json: not what evaluate writes .*: run evaluate again"):
        read_album(tmp_path)


def tile(visit: Visit, cell: str) -> None:
    visit.page.click(f'#pictures-checkpoints .tile[data-cell="{cell}"]')


def shown(visit: Visit) -> tuple[list[str], str]:
    """Return what stands below the enlarged pictures, and the line below both."""
    captions = [text for text in visit.page.locator("dialog figcaption").all_inner_texts() if text]
    return captions, visit.page.inner_text("dialog .prompt")


@pytest.mark.slow
def test_a_browser_enlarges_a_picture_beside_the_base_moves_and_closes(browser: Browser, tmp_path: Path) -> None:
    visit = browser.visit(write_page(tmp_path, prompts=[HOSTILE]))
    assert visit.page.title() == "brick on a-base: evaluation"
    assert visit.page.inner_text("#pictures-checkpoints h3 >> nth=0") == HOSTILE
    tile(visit, "1,2,0")
    assert shown(visit) == (["base", "step 50"], "a matbrk wall, number 0 · seed 1000")
    widths = visit.page.eval_on_selector_all("dialog img", "all => all.map(one => one.getBoundingClientRect().width)")
    assert min(widths) > 300
    for key, captions, prompt in (
        ("ArrowRight", ["base", "step 75"], "a matbrk wall, number 0 · seed 1000"),
        ("ArrowRight", ["base", "step 75"], "a matbrk wall, number 0 · seed 1000"),
        ("s", ["base", "step 75"], "a matbrk wall, number 0 · seed 1001"),
        ("ArrowUp", ["base", "step 75"], f"{HOSTILE} · seed 1001"),
        ("ArrowLeft", ["base", "step 50"], f"{HOSTILE} · seed 1001"),
    ):
        visit.page.keyboard.press(key)
        assert shown(visit) == (captions, prompt), key
    visit.page.keyboard.press("Escape")
    assert not visit.page.is_visible("dialog")
    assert visit.problems == []


@pytest.mark.slow
def test_a_browser_shows_one_seed_or_all_and_fits_a_phone_in_the_dark(browser: Browser, tmp_path: Path) -> None:
    visit = browser.visit(write_page(tmp_path), width=390, height=844, dark=True)
    tiles = visit.page.locator('#pictures-checkpoints .tile[data-cell^="0,1,"]')
    assert [one.is_visible() for one in tiles.all()] == [True, True]
    for choice, expected in (("1000", [True, False]), ("1001", [False, True]), ("all", [True, True])):
        visit.page.locator("#pictures-checkpoints").get_by_label(choice).check()
        assert [one.is_visible() for one in tiles.all()] == expected
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 22, 20)"
    assert visit.page.locator("img:not([alt])").count() == 0
    assert visit.problems == []
