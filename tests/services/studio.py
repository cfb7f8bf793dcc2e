"""The studio, started as a person starts it, and people before its page."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser import Browser

if TYPE_CHECKING:
    from playwright import sync_api

PATIENCE = 900.0  # seconds, on a machine that has much else to do
NARROW = 380  # pixels


@dataclass
class Studio:
    """The page as a person finds it."""

    process: "subprocess.Popen[str]"
    address: str
    folder: Path
    environment: Mapping[str, str]

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(PATIENCE) == 0

    def start_again(self) -> None:
        """End it and start another, elsewhere."""
        self.stop()
        another = start(self.folder, self.environment)
        self.process, self.address = another.process, another.address


class Person:
    """Somebody before the page.

    Args:
        page: As playwright has it.
    """

    def __init__(self, page: "sync_api.Page") -> None:
        self.page = page

    def go(self, tab: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=tab).click()

    def press(self, button: str) -> None:
        """Press a button of the tab."""
        self.page.get_by_role("button", name=button, exact=True).click()

    def fill(self, label: str, text: str) -> None:
        """Write into a field of the tab."""
        self.page.get_by_label(label).locator("visible=true").first.fill(text)

    def reads(self, words: str) -> str:
        """Wait for words on the tab, and return the element's text."""
        found = self.page.get_by_text(words).locator("visible=true").first
        found.wait_for()
        return found.inner_text()

    def shows(self, selector: str, count: int) -> "sync_api.Locator":
        """Wait until the tab shows as many of something, and return them."""
        found = self.page.locator(selector).locator("visible=true")
        found.nth(count - 1).wait_for()
        assert found.count() == count
        return found

    def barriers(self) -> list[str]:
        """Return what axe finds wrong with the page as it stands, and whether it is wider than its window."""
        from axe_playwright_python.sync_playwright import Axe

        found = [
            f"{rule['id']}: {node['html'][:200]}"
            for rule in Axe().run(self.page).response["violations"]
            for node in rule["nodes"]
        ]
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return found + [f"{wide} pixels wider than its window"] * (wide > 0)


@contextmanager
def visiting(browser: Browser, studio: Studio, *, width: int = 1280, dark: bool = False) -> Iterator[Person]:
    """Open the page; nothing may have gone wrong on it until it is left, and nothing been asked of elsewhere."""
    visit = browser.visit(studio.address, width=width, dark=dark)
    visit.page.set_default_timeout(1000 * PATIENCE)
    yield Person(visit.page)
    streams = re.compile(r"failed: \S+/gradio_api/\S+ \(net::ERR_ABORTED\)")  # which Gradio ends so
    assert [problem for problem in visit.problems if not streams.fullmatch(problem)] == []
    visit.page.context.close()


def start(folder: Path, environment: Mapping[str, str]) -> Studio:
    """Start `make studio` in a tree, and return once its page answers."""
    log = folder.parent / "studio.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "studio", "--port", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file, text=True)
    deadline = time.monotonic() + PATIENCE
    while not (found := re.search(r"studio: (http://127.0.0.1:\d+)", log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(log.read_text())
        time.sleep(0.5)
    return Studio(process, found[1], folder, environment)
