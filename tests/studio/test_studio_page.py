"""From pictures to a champion in a browser, as a person without a terminal goes: one after another, on one studio."""

import base64
import io
import json
import signal
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.browser import Browser, take_picture
from tests.clone import Clone
from tests.services.studio import NARROW, Person, Studio, visiting

pytestmark = pytest.mark.slow

TABS = {
    "Start": "Pictures 1 to 6 of 6",
    "Watch": "not served: make serve",
    "Try": "Tileable, shown 3 x 3",
    "Decide": "called",
}  # and what is drawn last
MODEL = "tlora-pocket-flux-stripes"


def test_dropped_pictures_are_taken_put_right_and_captioned(studio: Studio, browser: Browser, stripes: list[Path]) -> None:
    images = studio.folder / "data/images"
    with visiting(browser, studio) as ann:
        ann.page.set_input_files("input[type=file]", stripes)
        ann.shows(".file-preview tr", len(stripes))
        ann.fill("Trigger word", "matstr")
        ann.fill("Name of the concept", "stripes")
        ann.press("Take these pictures")
        ann.reads("2 captions were missing and read 'a photo of matstr' now")
        ann.reads("torn.png cannot be read")
        ann.reads("error: it is text, not a picture")
        ann.shows("img[alt^=stripe]", 6)
        assert ann.page.get_by_label("stripe_5.png").input_value() == "a photo of matstr"
        ann.press("Put right what needs no judgement")
        ann.reads("put right: torn.png")
        ann.reads("Pictures 1 to 6 of 6")
        ann.fill("stripe_5.png", "a matstr wall of  tilted stripes\n")
        ann.press("Save the captions of this page")
        ann.reads("1 captions saved")
    assert (images / "stripe_5.txt").read_text() == "a matstr wall of tilted stripes\n"
    assert sorted(path.name for path in images.glob("*.png")) == [f"stripe_{number}.png" for number in range(6)]
    assert 'name: "stripes"' in (studio.folder / "concept.yaml").read_text()


def test_training_is_watched_in_two_tabs_over_a_reload_and_a_restart_of_the_page(studio: Studio, browser: Browser) -> None:
    with visiting(browser, studio) as ann, visiting(browser, studio, width=NARROW, dark=True) as bob:
        assert ann.page.get_by_label("stripe_5.png").input_value() == "a matstr wall of tilted stripes"
        ann.press("What will it take?")
        ann.reads("40 steps of")
        ann.press("Train")
        ann.reads("asked for run local")
        bob.press("Train")
        bob.reads("a run is under way")
        for person in (ann, bob):
            person.go("Watch")
            person.reads("running")
        ann.page.reload()
        ann.go("Watch")
        ann.reads("running")
    studio.start_again()
    with visiting(browser, studio) as ann:
        ann.go("Watch")
        ann.page.get_by_role("cell", name="done").wait_for()
        ann.reads("step 40 of 40")
        ann.shows("img[alt^='preview of step']", 2)
        ann.press("Show it")
        report = ann.page.frame_locator("iframe")
        report.get_by_text("stripe_5.png").first.wait_for()
        take_picture(ann.page, "studio-watch")


def test_a_run_that_is_killed_is_said_to_be_and_goes_on_to_a_challenger(clone: Clone, studio: Studio, browser: Browser) -> None:
    assert aliases(studio) == {"champion": "1", "challenger": "1"}
    clone.change_params("params.yaml", {"train.seed": 1})
    with visiting(browser, studio) as ann:
        ann.press("Train")
        ann.reads("asked for run local")
        ann.go("Watch")
        ann.page.get_by_text("step ").filter(has_text="of 40").filter(has_not_text="step 40").first.wait_for()
        kill_run(studio)
        ann.reads("it ended without a word: killed, or cancelled; what it had saved it goes on from")
        ann.go("Start")
        ann.press("Train")
        ann.reads("asked for run local")
        ann.go("Watch")
        ann.page.get_by_role("cell", name="done").wait_for()
    assert aliases(studio) == {"champion": "1", "challenger": "2"}


def test_two_people_try_at_once_and_see_what_they_asked_for(studio: Studio, browser: Browser) -> None:
    with visiting(browser, studio) as ann, visiting(browser, studio, width=NARROW, dark=True) as bob:
        for person, seed in ((ann, 3), (bob, 4)):
            person.go("Try")
            choose(person, "champion")
            person.fill("Seed", str(seed))
            person.fill("Steps", "4")
            person.press("Draw")
        drawn = [pictures(person, 2) for person in (ann, bob)]
        take_picture(ann.page, "studio-try")
    told = [[json.loads(image.info["tlora"]) for image in each] for each in drawn]
    assert [[each["seed"] for each in mine] for mine in told] == [[3, 3], [4, 4]]
    assert [[len(each["adapters"]) for each in mine] for mine in told] == [[0, 1], [0, 1]]
    assert drawn[0][0].tobytes() != drawn[0][1].tobytes()
    assert len(list((studio.folder / "drawn/studio").glob("*.png"))) == 4


def choose(person: Person, name: str) -> None:
    """Add one to what is drawn with."""
    person.page.get_by_label("Drawn with, up to four").click()
    person.page.get_by_role("option", name=name, exact=True).click()


def pictures(person: Person, count: int) -> list[Image.Image]:
    """Wait for pictures beside each other, and return them as the page holds them."""
    shown = person.shows("figure img", count)
    addresses = [str(each.get_attribute("src")) for each in shown.all()]
    return [Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) for address in addresses]


def test_votes_are_blind_and_a_person_promotes_and_takes_it_back(studio: Studio, browser: Browser) -> None:
    with visiting(browser, studio) as ann, visiting(browser, studio, width=NARROW, dark=True) as bob:
        for person in (ann, bob):
            person.go("Decide")
            person.press("Show two pictures")
        for person, name, vote in ((ann, "ann", "left is better"), (bob, "bob", "no difference")):
            assert [image.info for image in pictures(person, 2)] == [{}, {}]
            assert [each.inner_text() for each in person.shows("figcaption", 2).all()] == ["left", "right"]
            person.fill("Your name, for the record", name)
            person.press(vote)
            person.reads("your vote is kept")
        take_picture(ann.page, "studio-decide")
        ann.press("Close the round, and say what came of it")
        assert "round closed by ann, 2 votes" in ann.reads("version 2 against champion 1")
        bob.press("Show two pictures")
        bob.reads("the round is closed")
        ann.press("What does the gate say?")
        ann.reads("similarity_held_out")
        ann.fill("Reason, for the record", "straighter stripes")
        ann.press("Promote the challenger, as approved by me")
        ann.reads("straighter stripes")
        assert aliases(studio)["champion"] == "2"
        ann.press("Roll back to the version before")
        ann.reads("rolled back")
    assert aliases(studio)["champion"] == "1"
    lines = [json.loads(line) for line in (studio.folder / "decisions.jsonl").read_text().splitlines()]
    trail = [(line["event"], line["told"]["by"]) for line in lines if line.get("told", {}).get("by") in ("ann", "bob")]
    after = [("round closed", "ann"), ("promoted", "ann"), ("rolled back", "ann"), ("restored", "ann")]
    assert trail == [("voted", "ann"), ("voted", "bob"), *after]


@pytest.mark.parametrize("dark", [False, True])
def test_every_tab_is_free_of_barriers_and_of_scrolling_sideways(studio: Studio, browser: Browser, dark: bool) -> None:
    with visiting(browser, studio, width=NARROW if dark else 1280, dark=dark) as ann:
        for tab, last in TABS.items():
            ann.go(tab)
            ann.reads(last)
            assert ann.barriers() == [], tab


def aliases(studio: Studio) -> dict[str, str]:
    """Return the registry's aliases, as another process sees them."""
    from mlflow import MlflowClient

    found = MlflowClient(f"sqlite:///{studio.folder / 'mlflow.db'}").get_registered_model(MODEL).aliases
    return {alias: str(version) for alias, version in found.items()}


def kill_run(studio: Studio) -> None:
    """Kill the run of this machine with -9, and the Prefect server that it had for itself; what trains is left alone."""
    process = psutil.Process(json.loads((studio.folder / ".state/runs/run.json").read_text())["pid"])
    servers = [below for below in process.children() if "uvicorn" in below.cmdline()]
    for each in (process, *servers):
        each.send_signal(signal.SIGKILL)
