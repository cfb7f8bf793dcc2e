"""What the page that compares with the champion says, and when there is one."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.register.champion_page import ComparedVersion, render_comparison
from tasks.register.data_changes import DataChanges
from tasks.register.data_changes_words import SinceChampion
from tasks.results.album import CHECKPOINTS, read_album, write_album
from tasks.tracking.store import open_store
from tests.browser import Browser
from tests.tasks.finished_evaluation import Shape, drawn
from tests.tasks.finished_run import NAME, FinishedRun

SINCE = SinceChampion("3", DataChanges(added=("<b>.png",)))


def compared_version(folder: Path, title: str, mean: float, prompts: tuple[str, ...] = ("a wall", "a ball")) -> ComparedVersion:
    rows = drawn(int(10 * mean), Shape(prompts=len(prompts), seeds=2))
    write_album(folder, {CHECKPOINTS: {"base": drawn(0, Shape(prompts=len(prompts), seeds=2)), "best": rows}}, prompts, [7, 8])
    scores = {"step": 50, "similarity_gain": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}, "diversity_ratio": 0.9}
    params = {"train.rank": "16", "train.learning_rate": str(mean / 100), "train.trigger": "<i>"}
    return ComparedVersion(
        title, "best", scores, params, {"evaluation_digest": "e1", "code_digest": f"c{mean}"}, read_album(folder)
    )


@pytest.fixture
def new(tmp_path: Path) -> ComparedVersion:
    return compared_version(tmp_path / "new", "version 4", 0.3)


@pytest.fixture
def champion(tmp_path: Path) -> ComparedVersion:
    return compared_version(tmp_path / "champion", "champion (version 3)", 0.2, ("a ball", "a cube"))


def rows_of(page: str) -> list[list[str]]:
    """Return the cells of every table, without marks."""
    lines = re.findall("<tr[^>]*>(.*?)</tr>", page)
    return [[re.sub("<[^>]*>", " ", cell).strip() for cell in re.split("</t[hd]>", line)[:-1]] for line in lines]


def test_scores_parameters_and_origins_stand_side_by_side(new: ComparedVersion, champion: ComparedVersion) -> None:
    rows = rows_of(render_comparison("brick", new, champion, SINCE))
    assert ["Similarity gain", "0.200 0.100 to 0.300", "0.300 0.200 to 0.400", "+0.100"] in rows
    assert ["Diversity against the base", "0.900", "0.900", "0.000"] in rows
    assert ["train.learning_rate", "0.002", "0.003"] in rows
    assert ["Code digest", "c0.2", "c0.3"] in rows
    assert not any(row[0] == "train.rank" for row in rows)


def test_only_prompts_that_both_drew_are_shown(new: ComparedVersion, champion: ComparedVersion) -> None:
    page = render_comparison("brick", new, champion, SINCE)
    assert re.findall("<h3>(.*?)</h3>", page) == ["a ball", "Added"]
    assert re.findall('<img alt="(.+?)" src', page) == [
        f"{who}, seed {seed}: a ball" for who in ("champion (version 3)", "version 4", "base") for seed in (7, 8)
    ]


def test_numbers_of_unlike_evaluations_are_not_subtracted(new: ComparedVersion, champion: ComparedVersion) -> None:
    page = render_comparison("brick", new, replace(champion, tags={"evaluation_digest": "e0"}), SINCE)
    assert "<strong>Not measured alike</strong>" in page
    assert ["Similarity gain", "0.200 0.100 to 0.300", "0.300 0.200 to 0.400", "–"] in rows_of(page)


def test_names_of_others_are_shown_as_text_and_missing_pictures_are_said(new: ComparedVersion, champion: ComparedVersion) -> None:
    page = render_comparison("brick", new, replace(champion, album=None), SINCE)
    assert "<code>&lt;b&gt;.png</code>" in page
    assert "The champion&#39;s run keeps no pictures" in page


@pytest.mark.slow
def test_register_compares_with_the_champion_and_keeps_the_page_with_the_run(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str], browser: Browser
) -> None:
    finished_run.register()
    page = Path("reports/register/champion.html")
    assert not page.exists()
    finished_run.train(code="code-2", seed=2)
    finished_run.register()
    assert f"champion:  {page} compares with it\n" in capsys.readouterr().out
    client = open_store().client
    run_id = str(client.get_model_version(NAME, "2").run_id)
    assert Path(client.download_artifacts(run_id, f"{page}")).read_text() == page.read_text()
    visit = browser.visit(page)
    assert visit.page.title() == f"{NAME}: version 2 against champion (version 1)"
    visit.page.click('.tile[data-cell="0,1,0"]')
    captions = visit.page.locator("dialog figcaption").all_inner_texts()
    assert (captions, visit.problems) == (["champion (version 1)", "version 2"], [])
    before = page.read_text()
    finished_run.register()
    assert page.read_text() == before
    champion = client.get_model_version(NAME, "1")
    client.log_text(str(champion.run_id), '{"checkpoints": {}}', "metrics/evaluate.json")  # as an older version wrote it
    finished_run.register()
    assert rows_of(page.read_text())[1][1] == "–"
