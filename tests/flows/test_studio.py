"""The studio in a browser, beside real servers, with the shipped base: pictures are put right, every tab is used."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import axe_playwright_python
import httpx
import numpy as np
import pytest
from PIL import Image

from studio.page import LOGIN
from tests.browser import Browser, Visit, take_picture
from tests.flows.served import Served
from tests.tasks.tiny_florence import save_tiny_florence

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
TABS = ("Start", "Watch", "Try", "Decide")
CLOSED = re.compile(
    r"^failed: http://127.0.0.1:\d+/gradio_api/\S+ \(net::ERR_ABORTED\)$"
)  # a stream that the page itself has closed
PATIENCE = 600_000  # milliseconds; a run on a loaded machine


@dataclass
class Studio:
    """The page as a person finds it."""

    process: "subprocess.Popen[str]"
    address: str
    folder: Path

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


def start(folder: Path, environment: dict[str, str]) -> Studio:
    log = folder.parent / "studio.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "studio", "--port", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file, text=True)
    deadline = time.monotonic() + 300
    while not (found := re.search(r"studio: (http://127.0.0.1:\d+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    return Studio(process, found[1], folder)


def environment_of(served: Served) -> dict[str, str]:
    """Return what somebody has in his environment who was told nothing of the servers."""
    named = {name: value for name, value in served.environment.items() if name != "PREFECT_API_URL"}
    return named | {"PYTHONPATH": str(served.clone.folder), "TMPDIR": str(served.clone.folder.parent)}


@pytest.fixture
def studio(served: Served) -> Iterator[Studio]:
    """Return the studio of the served tree, which is as it was afterwards."""
    environment = {name: value for name, value in served.environment.items() if not name.startswith("PREFECT_API_URL")}
    opened = start(
        served.clone.folder, environment | {"PYTHONPATH": str(served.clone.folder), "TMPDIR": str(served.clone.folder.parent)}
    )
    yield opened
    opened.stop()
    shutil.rmtree(served.clone.folder / "models/florence", ignore_errors=True)
    served.clone.run("git", "checkout", "--quiet", "--", "concept.yaml", "data.dvc")
    served.clone.run("dvc", "checkout", "--force", "--quiet", "data.dvc")


def fill(folder: Path) -> None:
    """Write pictures of stripes in two colours, which are learnt in a few steps, with captions; one of them is wrongly spelt."""
    folder.mkdir()
    rows = np.arange(96)[:, None]
    for number in range(6):
        light = ((rows // 8 + number) % 2) * np.ones((1, 96))
        noise = np.random.default_rng(number).normal(0, 6, (96, 96, 3))
        pixels = np.stack([230 * light + 10, 110 * light + 5, np.full((96, 96), 20.0)], -1) + noise
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"wall_{number}.png")
        (folder / f"wall_{number}.txt").write_text(f"a matbrk wall, number {number}")
    (folder / "wall_0.txt").write_text("A MATBRK wall <b>${1+1}</b>")


def open_tab(page: "Page", name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    page.get_by_role("tabpanel").filter(visible=True).first.wait_for()


def press(page: "Page", name: str, answer: str) -> str:
    """Press a button, wait for what is said then, and return the line."""
    page.get_by_role("button", name=name).filter(visible=True).click()
    line = page.get_by_text(re.compile(answer)).filter(visible=True).first
    line.wait_for(timeout=PATIENCE)
    return line.inner_text()


def require_usable(visit: Visit, what: str) -> None:
    """Require that axe finds nothing, that nothing is wider than the window, and that nothing has gone wrong."""
    page = visit.page
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == [], what
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), what
    wrong = [line for line in visit.problems if not CLOSED.search(line)]
    assert wrong == [], (what, wrong)


def test_pictures_are_dropped_and_put_right_and_every_tab_can_be_used(studio: Studio, browser: Browser, tmp_path: Path) -> None:
    fill(tmp_path / "walls")
    visit = browser.visit(studio.address, width=1180, height=900)
    page = visit.page
    page.set_default_timeout(60_000)

    page.get_by_text(re.compile("Pictures 1 to [0-9]+ of")).wait_for()  # all of the page is there
    page.locator("input[type=file]").set_input_files([str(file) for file in sorted((tmp_path / "walls").iterdir())])
    page.get_by_role("textbox", name="Trigger word").fill("matbrk")
    page.get_by_role("textbox", name="Name of the concept").fill("wall")
    page.get_by_text("wall_5.txt").wait_for()
    assert press(page, "Take these pictures", "pictures are in").startswith("new: 6 pictures are in data/images")
    page.get_by_text("for the trigger word 'matbrk'; correct it").wait_for()
    assert (
        press(page, "Put right what needs no judgement", "put right: ")
        == "put right: wall_0.txt: the trigger word reads 'matbrk' now"
    )
    page.get_by_role("textbox", name="wall_0.png").fill("a matbrk wall with <b>deep</b> joints")
    press(page, "Save the captions", "1 captions saved")
    assert (studio.folder / "data/images/wall_0.txt").read_text() == "a matbrk wall with <b>deep</b> joints\n"
    save_tiny_florence(studio.folder / "models/florence")
    page.get_by_role("textbox", name="A model that writes captions").fill("/etc")
    press(page, "Let it propose captions", "/etc: is not in models/")
    page.get_by_role("textbox", name="A model that writes captions").fill("models/florence")
    press(page, "Let it propose captions", "captions are proposed")
    page.get_by_text("proposed by a model: read it before you save").first.wait_for()
    assert page.get_by_role("textbox", name="wall_1.png").input_value().startswith("matbrk, ")
    assert (studio.folder / "data/images/wall_1.txt").read_text() == "a matbrk wall, number 1"
    assert press(page, "What will it take", "^time: ").startswith("time: 4 steps of ")
    require_usable(visit, "Start")
    take_picture(page, "studio-start")

    open_tab(page, "Watch")
    page.get_by_text("Nothing has trained here yet").or_(page.get_by_text(re.compile("step [0-9]+ of"))).first.wait_for()
    require_usable(visit, "Watch")

    open_tab(page, "Try")
    page.get_by_label("Tileable").check()
    press(page, "Draw", "1 drawn, in")
    assert page.get_by_alt_text("drawn with base, 3 x 3").is_visible()
    require_usable(visit, "Try")
    take_picture(page, "studio-try")

    open_tab(page, "Decide")
    press(page, "Show two pictures", "a vote needs a champion and a challenger")
    press(page, "Promote", "write your name first")
    require_usable(visit, "Decide")
    take_picture(page, "studio-decide")

    narrow = browser.visit(studio.address, width=380, height=800, dark=True)
    for tab in TABS:
        open_tab(narrow.page, tab)
        narrow.page.wait_for_timeout(1500)
        require_usable(narrow, f"{tab}, 380 pixels wide and dark")
    take_picture(narrow.page, "studio-narrow")


def test_nobody_reads_what_is_not_the_pages_and_nobody_comes_from_elsewhere(served: Served) -> None:
    told = {LOGIN: "ann:trowel,bob:plumb", "GRADIO_ALLOWED_PATHS": "/etc", "GRADIO_SHARE": "True"}
    opened = start(served.clone.folder, environment_of(served) | told)
    try:
        guest = httpx.Client(base_url=opened.address)
        assert guest.get("/config").status_code == 401
        assert guest.post("/login", data={"username": "ann", "password": "plumb"}).status_code == 400
        assert guest.post("/login", data={"username": "ann", "password": "trowel"}).status_code == 200
        answer = guest.get("/")
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        for path in (
            "/etc/hostname",
            f"{served.clone.folder}/params.yaml",
            "params.yaml",
            ".state/mlflow.lock",
            "/etc/../etc/hostname",
        ):
            assert guest.get(f"/gradio_api/file={path}").status_code in (403, 404), path
        assert guest.get("/", headers={"Host": "kiln.example"}).status_code == 400
        config = guest.get("/config").json()
        take = next(each for each in config["dependencies"] if len(each["inputs"]) == 4 and len(each["outputs"]) == 1)
        file = {"path": "/etc/hostname", "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        asked = {"data": [[file], "matbrk", "wall", True], "fn_index": take["id"], "session_hash": "hostile"}
        guest.post("/gradio_api/queue/join", json=asked)
        said = guest.get("/gradio_api/queue/data", params={"session_hash": "hostile"}, timeout=60).text
        assert '"success":false' in said.replace(" ", "") or "was not uploaded here" in said, said
        assert (served.clone.folder / "data/images").is_dir()
    finally:
        opened.stop()
