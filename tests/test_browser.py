"""The browser finds out what is wrong with a page."""

from pathlib import Path

import pytest

from tests import browser as module
from tests.browser import Browser, open_browser

pytestmark = pytest.mark.slow


def page_of(folder: Path, body: str) -> Path:
    file = folder / "page.html"
    file.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><body>{body}</body></html>')
    return file


def test_a_sound_page_has_no_problems_and_can_be_used(browser: Browser, tmp_path: Path) -> None:
    visit = browser.visit(
        page_of(tmp_path, '<h1>Wand</h1><img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'), width=400
    )
    assert (visit.page.inner_text("h1"), visit.problems) == ("Wand", [])
    assert visit.page.evaluate("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [400, False]


def test_what_a_page_fetches_from_elsewhere_and_what_fails_is_noted(browser: Browser, tmp_path: Path) -> None:
    scripts = '<script src="https://example.com/a.js"></script><script>console.error("out of clay"); undefined_name()</script>'
    problems = browser.visit(page_of(tmp_path, f'{scripts}<img alt="" src="missing.png">')).problems
    assert "outside: https://example.com/a.js" in problems
    assert "console: out of clay" in problems
    assert any(line.startswith("uncaught: undefined_name is not defined") for line in problems)
    assert any(line.startswith("failed: file:") and "missing.png" in line for line in problems)


def test_no_chromium_is_a_skip_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHROMIUM", Path("/nowhere/chromium"))
    with pytest.raises(pytest.skip.Exception, match="no Chromium at /nowhere/chromium: apt-get install chromium"):
        open_browser().__enter__()
