"""What every test is run under: no GPU means no GPU tests, and where it is asked for, a skipped test is a failure."""

import functools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, open_browser
from tests.clone import ROOT, STAGES, Clone, new_clone, ran

SHARED = re.compile("served: Served|finished_clone: Clone")  # fixtures of several files that take minutes to make


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Return Chromium; a test without one is skipped."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def finished_clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a copy of this tree with the shipped data and models, quick settings, and one full run behind it.

    `tests/test_documents.py` leaves it as it found it; `tests/test_pipeline_end_to_end.py`, which comes after, works on in it.
    """
    person = new_clone(tmp_path_factory.mktemp("clone"))
    output = person.repro()
    assert ran(output) == STAGES, output
    return person


def pytest_configure() -> None:
    """Let the processes that tests start hear SIGINT, to which a script's background is deaf, and SIGHUP, to which nohup is."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put first what shares something dear; deselect, rather than skip, what needs a GPU where there is none."""
    items.sort(key=lambda item: not SHARED.search(_group(item.nodeid)))  # begun last, it would keep other processes waiting
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu or _has_gpu():
        return
    items[:] = [item for item in items if item not in gpu]
    config.hook.pytest_deselected(items=gpu)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Hand groups to processes, where there are several (marks for it do nothing: findings/xdist_groups.sh)."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return GroupScheduling(config, log)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run that skipped anything, where TLORA_NO_SKIP is set: a check that was not made is not a check."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if os.environ.get("TLORA_NO_SKIP") and skipped and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"\nTLORA_NO_SKIP: {skipped} skipped, none allowed", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@functools.cache
def _group(test: str) -> str:
    """Return what else runs in the same process, in the same order: files that share servers or a clone, or else one file."""
    file = test.partition("::")[0]
    path = ROOT / file
    shared = path.is_file() and SHARED.search(path.read_text(encoding="utf-8"))  # a test's own run has files elsewhere
    return f"{Path(file).parent} {shared[0]}" if shared else file


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
