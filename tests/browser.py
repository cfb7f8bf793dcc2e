"""Debian's Chromium, driven by playwright: opens pages, and takes down whatever goes wrong on them.

Nothing but this machine can be reached: a request for anything else is stopped and noted, so that a page which needs a
network is found out. Playwright keeps an event loop running in the thread that opened it, which `asyncio.run` refuses: hold a
browser no longer than the test needs it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright import sync_api

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"]  # root has no sandbox
_NO_HOST = {"file", "data", "blob", "about"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Visit:
    """A page that was opened, as playwright has it, and a line for everything that went wrong on it until now."""

    page: "sync_api.Page"
    problems: list[str] = field(default_factory=list)


class Browser:
    """Opens pages.

    Args:
        chromium: Playwright's own.
    """

    def __init__(self, chromium: "sync_api.Browser") -> None:
        self._chromium = chromium

    def visit(self, address: str | Path, *, width: int = 1280, height: int = 800, dark: bool = False) -> Visit:
        """Open a file or an address of this machine, and return once it has loaded.

        Args:
            address: What to open.
            width: Of the window, in pixels.
            height: Of the window, in pixels.
            dark: Whether the reader prefers dark pages.
        """
        context = self._chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        visit = Visit(context.new_page())
        _take_notes(visit)
        context.route(lambda url: not _is_here(url), lambda route: route.abort())
        visit.page.goto(address.absolute().as_uri() if isinstance(address, Path) else address)
        return visit


def require_browser() -> ModuleType:
    """Return playwright, or skip the test with a line that names what is absent."""
    sync_api: ModuleType = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}: apt-get install chromium")
    return sync_api


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Open Chromium, or skip the test as `require_browser` does."""
    sync_api = require_browser()
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield Browser(chromium)
        finally:
            chromium.close()


def _take_notes(visit: Visit) -> None:
    page, note = visit.page, visit.problems.append
    page.on("console", lambda said: note(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: note(f"uncaught: {error}"))
    page.on("request", lambda request: None if _is_here(request.url) else note(f"outside: {request.url}"))
    page.on("requestfailed", lambda request: note(f"failed: {request.url} ({request.failure})"))
    page.on("response", lambda answer: note(f"answered {answer.status}: {answer.url}") if answer.status >= 400 else None)


def _is_here(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in _NO_HOST or parts.hostname in _LOOPBACK


def take_picture(page: "sync_api.Page", name: str) -> None:
    """Keep a picture of what is seen of a page where TLORA_PICTURES says, such as docs/pictures."""
    if folder := os.environ.get("TLORA_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png")


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    """Save what a reader first sees of a page, for the documentation."""
    with open_browser() as browser:
        browser.visit(page, width=width, height=height).page.screenshot(path=picture)


if __name__ == "__main__":  # python -m tests.browser reports/evaluate/report.html docs/pictures/report.png 1180 1500
    photograph(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]))
